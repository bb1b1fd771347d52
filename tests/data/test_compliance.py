"""Licences, the user's own word lists, and the page for the compliance officer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.compliance import REPORT
from tunesmith.data.licences import check_licences, commercial_use
from tunesmith.data.prepare import prepare, write
from tunesmith.recipe.specs.data import DataSpec, SourceSpec
from tunesmith.recipe.specs.goal import ComplianceSpec


@pytest.mark.parametrize(
    ("licence", "use"),
    [
        ("CC-BY-4.0", "allowed"), ("cc by-sa 3.0", "allowed"), ("Apache-2.0", "allowed"), ("MIT", "allowed"), ("own",
        "allowed"),
        ("ODC-BY", "allowed"), ("自有数据", "allowed"), ("CC-BY-NC-4.0", "forbidden"), ("CC BY-NC-SA 4.0", "forbidden"),
        ("non-commercial", "forbidden"), ("Noncommercial research", "forbidden"), ("research only", "forbidden"),
        ("仅供研究使用", "forbidden"),
        ("非商业", "forbidden"), ("Apache-2.0 code, rows for academic use", "forbidden"), ("", "unknown"),
        ("none stated", "unknown"),
        ("see readme", "unknown"), ("Vancouver data", "unknown"), ("permitted by letter", "unknown"),
    ],
)  # fmt: skip
def test_what_licences_allow(licence: str, use: str) -> None:
    assert commercial_use(licence) == use


def test_a_commercial_product_learns_from_nothing_that_forbids_it() -> None:
    fine, against, unknown = (SourceSpec(path=name, licence=name) for name in ("MIT", "CC-BY-NC-4.0", "?"))
    check_licences([fine, against, unknown], None)
    check_licences([fine, against, unknown], ComplianceSpec(commercial=False))
    check_licences([fine, unknown], ComplianceSpec())
    with pytest.raises(TunesmithError) as error:
        check_licences([fine, against, unknown], ComplianceSpec())
    assert error.value.code == "data.non_commercial" and error.value.facts["sources"] == "CC-BY-NC-4.0 (CC-BY-NC-4.0)"
    with pytest.raises(TunesmithError) as error:
        check_licences([fine, unknown], ComplianceSpec(unknown_licences="refuse"))
    assert error.value.code == "data.unknown_licence"


def rows(folder: Path, *texts: str) -> None:
    lines = [
        {"messages": [{"role": "user", "content": f"{n} {text}"}, {"role": "assistant", "content": "ok"}]}
        for n, text in enumerate(texts)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def spec(**clean: object) -> DataSpec:
    return DataSpec.model_validate({"sources": [{"path": "rows.jsonl", "licence": "CC-BY-4.0"}], "clean": clean})


def test_words_of_the_users_lists_are_found_whole_and_never_repeated(tmp_path: Path) -> None:
    honest = [f"a class of {n} assassins, 博彩业的历史" for n in range(20)]
    rows(tmp_path, *honest, "what an ASS", "赌博网站推荐", "Secretword here")
    (tmp_path / "bad.txt").write_text("# ours\nass\n\n赌博\n", "utf-8")
    (tmp_path / "told.txt").write_text("secretword\n", "utf-8")
    lists = [{"path": "bad.txt", "action": "drop"}, {"path": "told.txt"}]
    ledger, run = Ledger(), tmp_path / "run"
    run.mkdir()
    prepared = prepare(spec(content={"word_lists": lists}), tmp_path, ledger)
    assert ledger.totals() == {"dropped: listed_content": 2, "kept": 21}
    assert [(each.path, each.action, each.rows) for each in prepared.listed] == [
        ("bad.txt", "drop", 2),
        ("told.txt", "report", 1),
    ]
    written = write(prepared, run)
    page = (run / REPORT).read_text("utf-8")
    assert run / REPORT in written
    assert "| bad.txt | train |" in page and "secretword" not in page.lower() and "赌博" not in page
    assert "Compliance report / 合规报告" in page


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\x00bad"])
def test_a_list_that_says_nothing_is_refused(tmp_path: Path, content: bytes) -> None:
    rows(tmp_path, "x")
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(TunesmithError) as error:
        prepare(spec(content={"word_lists": [{"path": "list.txt"}]}), tmp_path, Ledger())
    assert error.value.code == "data.bad_word_list"


def test_the_page_says_what_was_done(tmp_path: Path) -> None:
    rows(tmp_path, *(f"call 139000012{n:02}" for n in range(20)))
    run = tmp_path / "run"
    run.mkdir()
    write(prepare(spec(pii="mask"), tmp_path, Ledger()), run, compliance=ComplianceSpec())
    page = (run / REPORT).read_text("utf-8")
    assert "| rows.jsonl | phones / 电话 | 20 | 20 |" in page
    assert "| rows.jsonl | train | 20 | CC-BY-4.0 | allowed / 允许 |" in page
    assert "139000" not in page and "cannot be undone" in page
    card = (run / "data_card.md").read_text("utf-8")
    assert "masked: phones" in card and "139000" not in card
    assert not (run / "placeholders.sealed").exists()


def test_a_key_that_is_missing_or_short_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, code in (("", "data.no_key"), ("short", "data.short_key")):
        monkeypatch.setenv("MY_KEY", value)
        with pytest.raises(TunesmithError) as error:
            prepare(spec(pii={"action": "mask", "key": "MY_KEY"}), tmp_path / "nowhere", Ledger())
        assert error.value.code == code
