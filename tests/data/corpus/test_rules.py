"""The whole clean part of a recipe a piece at a time: the same rows, words, fates and changes as in one table."""

from __future__ import annotations

import fcntl
import json
import os
import random
import stat
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import ASIDE, sha256_file, verify_folder
from tunesmith.core.ledger import Ledger
from tunesmith.core.types import SPLITS
from tunesmith.data.compliance import REPORT as COMPLIANCE
from tunesmith.data.corpus import build as builder
from tunesmith.data.corpus.build import CorpusReport, build_corpus
from tunesmith.data.corpus.executors import InThreads
from tunesmith.data.corpus.lock import held
from tunesmith.data.corpus.plan import refuse
from tunesmith.data.pii.sealed import FILE, unseal
from tunesmith.data.prepare import prepare
from tunesmith.data.prepared import Prepared
from tunesmith.messages import LANGUAGES, explain
from tunesmith.recipe.specs.data import DataSpec
from tunesmith.recipe.specs.goal import ComplianceSpec

PIECE = 3000
EVERYTHING: dict[str, object] = {
    "near_duplicates": 0.7,
    "repair": {"rules": ["mojibake", "html", "full_width", "emoji", "whitespace", "boilerplate"]},
    "filter": {"rules": ["broken_encoding", "gibberish", "repetition", "too_short", "too_long", "language"]},
    "pii": "mask",
    "content": {"word_lists": [{"path": "words.txt", "action": "drop"}, {"path": "watched.txt"}]},
}
ODD = [
    "<p>A paragraph of a page &amp; its <b>tags</b>, which are no words of the text at all.</p>",
    "The cafÃ© was misread once, and everybody could see it in the printed menu.",
    "ｆｕｌｌ width ２０２６ letters were typed by somebody in a great hurry this morning.",
    "blanks   and\u3000more  blanks stand between the words of this text, for no reason.",
    "A text of a site that goes on about nothing in particular. All of it. Read more on our site.",
    "again and again " * 30,
    "no",
    "lost \ufffd\ufffd characters of a text that nobody can bring back any more, sadly.",
    "un texte en français que personne ne veut lire dans la langue, et qui est plus long que les autres de la page",
    "this one has a forbidden word in it, and so it must not be learned from at all.",
    "this one has a watched word in it, which is only counted and otherwise left alone.",
    "\x07 ",
    "a text with 👍🏽 and 👨\u200d👩\u200d👧 and 1\ufe0f\u20e3 in it, which are no words of the text at all 😀😀😀",
]


def texts(count: int) -> list[str]:
    draw = random.Random(5)
    words = [f"{first}{last}" for first in "bcdfg" for last in ("ale", "ine", "oak", "urn", "est")]
    return ["the " + " ".join(draw.choices(words, k=40)) for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Texts with odd ones among them, and personal data: the same values in several pieces and written otherwise."""
    rows: list[dict[str, str]] = [{"text": each, "who": f"customer {i % 9}"} for i, each in enumerate(texts(90))]
    for place in range(0, 90, 6):
        rows[place]["text"] += f" write to person{place % 30}@example.org or call 139 0000 {1000 + place % 12}"
        rows[place + 1]["text"] += f" PERSON{place % 30}@example.org is the same, and 1390000{1000 + place % 12} too"
        rows[place + 2]["who"] = f"person{place % 12}@example.org"
    rows += [{"text": each} for each in ODD]
    rows += [{"text": rows[place]["text"]} for place in range(10)]
    rows += [{"text": rows[place]["text"] + " and more"} for place in range(10, 20)]
    random.Random(1).shuffle(rows)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    (tmp_path / "words.txt").write_text("forbidden\n", "utf-8")
    (tmp_path / "watched.txt").write_text("watched\n", "utf-8")
    return tmp_path


def spec(clean: dict[str, object], **source: object) -> DataSpec:
    sources = [{"path": "rows.jsonl", "name": "web", "columns": {}, **source}]
    return DataSpec.model_validate({"rows": "text", "sources": sources, "clean": clean, "split": {"group_by": "who"}})


def built(folder: Path, clean: dict[str, object], name: str = "out", **more: object) -> CorpusReport:
    return build_corpus(spec(clean), folder, folder / name, **{"piece_bytes": PIECE, **more})


def shards(out: Path, *names: str) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(each) for name in names for each in sorted((out / name).iterdir())).sort("row")


def in_memory(folder: Path, clean: dict[str, object]) -> tuple[Prepared, Ledger]:
    ledger = Ledger()
    return prepare(spec(clean), folder, ledger), ledger


@pytest.mark.parametrize("action", ["mask", "drop", "report"])
def test_every_rule_does_what_it_does_to_one_table(folder: Path, action: str) -> None:
    pytest.importorskip("ftfy")
    clean = {**EVERYTHING, "pii": action}
    report = built(folder, clean)
    prepared, ledger = in_memory(folder, clean)
    rows = pl.concat(prepared.frames.values()).sort("row")
    kept = shards(folder / "out", *SPLITS)
    for column in ("row", "index", "text", "group"):
        assert kept[column].to_list() == rows[column].to_list(), column
    fates = shards(folder / "out", "ledger")
    assert len(list((folder / "out" / "ledger").iterdir())) > 4, "several pieces, or nothing was shown"
    told = [
        (row["fate"], row["reason"], row["amount"], {each["rule"]: each["places"] for each in row["changes"]})
        for row in fates.iter_rows(named=True)
    ]
    assert told == [(each.fate, each.reason, each.amount, dict(each.changes)) for each in ledger.entries()]
    assert {rule: (each["rows"], each["places"]) for rule, each in report.changed.items()} == ledger.changed()
    (personal,) = prepared.personal
    assert report.personal == [asdict(each) for each in personal.findings()]
    assert report.listed == [asdict(each) for each in prepared.listed]
    assert {"html", "mojibake", "full_width", "whitespace", "boilerplate"} <= report.changed.keys()
    reasons = {label.partition(": ")[2] for label in report.fates}
    assert {"repetition", "too_short", "broken_encoding", "other_language", "listed_content", "empty_text"} <= reasons


def test_masks_mean_the_same_in_all_pieces_and_nothing_is_left_behind(folder: Path) -> None:
    report = built(folder, EVERYTHING, executor=InThreads(2))
    texts_of = shards(folder / "out", *SPLITS)
    joined = "\n".join([*texts_of["text"], *texts_of["group"]])
    assert "example.org" not in joined and "1390000" not in joined and "<EMAIL_5>" in joined and "<PHONE_2>" in joined
    for path in (folder / "out").rglob("*"):
        assert path.is_dir() or b"example.org" not in path.read_bytes(), path
    assert not (folder / "out.building").exists()
    assert "masked_email" in report.changed
    built(folder, EVERYTHING, "whole", piece_bytes=1 << 25)
    for name in ("ledger", *SPLITS):
        assert shards(folder / "out", name).equals(shards(folder / "whole", name))


def files_of(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): sha256_file(path) for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("step", ["make_part", "mask_part", "decide", "write_corpus"])
def test_a_build_that_was_stopped_at_any_step_ends_with_the_same_bytes(
    folder: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(folder, EVERYTHING, "whole")
    done = getattr(builder, step)
    calls = [0]

    def stops(*given: object) -> object:
        calls[0] += 1
        if calls[0] == (3 if step.endswith("part") else 1):
            raise KeyboardInterrupt
        return done(*given)

    monkeypatch.setattr(builder, step, stops)
    with pytest.raises(KeyboardInterrupt):
        built(folder, EVERYTHING, executor=InThreads(1))
    monkeypatch.undo()
    assert not (folder / "out").exists() and (folder / "out.building").is_dir()
    for masked in sorted((folder / "out.building").glob("*-masked"))[:1]:
        (masked / "rows.arrow").write_bytes(b"damaged")
    built(folder, EVERYTHING)
    assert files_of(folder / "out") == files_of(folder / "whole")


def test_under_a_key_what_placeholders_stand_for_can_be_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography")
    key = "a key of more than sixteen letters"
    monkeypatch.setenv("CORPUS_KEY", key)
    clean = {**EVERYTHING, "pii": {"key": "CORPUS_KEY"}}
    built(folder, clean)
    prepared, _ = in_memory(folder, clean)
    (personal,) = prepared.personal
    assert unseal(folder / "out" / FILE, key.encode()) == personal.masker.values
    verify_folder(folder / "out")
    monkeypatch.delenv("CORPUS_KEY")
    with pytest.raises(TunesmithError) as caught:
        built(folder, clean, "other")
    assert caught.value.code == "data.no_key"


def test_the_page_for_the_compliance_officer_lies_beside(folder: Path) -> None:
    stated = spec(EVERYTHING, licence="CC-BY-4.0")
    build_corpus(stated, folder, folder / "out", piece_bytes=PIECE, compliance=ComplianceSpec())
    page = (folder / "out" / COMPLIANCE).read_text("utf-8")
    assert "CC-BY-4.0" in page and "words.txt" in page and "| web | train | 123 |" in page
    with pytest.raises(TunesmithError) as caught:
        build_corpus(spec(EVERYTHING, licence="CC-BY-NC-4.0"), folder, folder / "nc", compliance=ComplianceSpec())
    assert caught.value.code == "data.non_commercial" and not (folder / "nc.building").exists()


def test_rows_without_consent_go(folder: Path) -> None:
    lines = [{"text": each, "who": "a", "ok": place % 2} for place, each in enumerate(texts(20))]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    report = build_corpus(spec({}, terms={"consent": "ok"}), folder, folder / "out", piece_bytes=PIECE)
    assert report.fates == {"dropped: no_consent": 10, "kept": 10}


@pytest.mark.parametrize(
    ("clean", "code"),
    [
        ({"filter": {"rules": ["too_long"], "max_tokens": 5}}, "data.corpus_setting"),
        ({"filter": {"rules": ["truncated"]}}, "data.corpus_setting"),
        ({"pii": {"tagger": "folder"}}, "data.corpus_setting"),
        ({"filter": {"rules": ["conflicting_answers"]}}, "data.corpus_setting"),
        ({"content": {"word_lists": [{"path": "nowhere.txt"}]}}, "data.bad_word_list"),
    ],
)
def test_rules_that_a_piece_cannot_decide_are_refused(folder: Path, clean: dict[str, object], code: str) -> None:
    with pytest.raises(TunesmithError) as caught:
        built(folder, clean)
    assert caught.value.code == code
    assert not (folder / "out.building").exists()


@pytest.mark.parametrize(
    ("setting", "stated"),
    [
        ("data.clean.semantic_duplicates", {"clean": {"semantic_duplicates": 0.95}}),
        ("data.clean.filter.max_tokens", {"clean": {"filter": {"rules": ["too_long"], "max_tokens": 5}}}),
        ("data.clean.filter.rules: truncated", {"clean": {"filter": {"rules": ["truncated"]}}}),
        ("data.clean.filter.rules: conflicting_answers", {"clean": {"filter": {"rules": ["conflicting_answers"]}}}),
        ("data.clean.pii.tagger", {"clean": {"pii": {"tagger": "folder"}}}),
        ("data.split.fold", {"split": {"fold": {"number": 1, "of": 5}}}),
        ("data.split.stratify_by", {"split": {"stratify_by": "class"}}),
        ("data.split.time_by", {"split": {"time_by": "day"}}),
        ("data.labels", {"labels": {}}),
        ("data.augment", {"augment": {"edit": {}}}),
        ("data.benchmarks", {"benchmarks": [{"path": "test.jsonl"}]}),
        ("data.test_sources", {"test_sources": [{"path": "test.jsonl"}]}),
        ("data.sources.0.sample", {"sources": [{"path": "rows.jsonl", "sample": 5}]}),
    ],
)
def test_what_looks_at_all_rows_is_refused_by_its_name_in_both_languages(
    setting: str, stated: dict[str, object]
) -> None:
    wanted = DataSpec.model_validate({"task": "chat", "rows": "text", "sources": [{"path": "rows.jsonl"}], **stated})
    with pytest.raises(TunesmithError) as caught:
        refuse(wanted)
    assert (caught.value.code, caught.value.facts) == ("data.corpus_setting", {"setting": setting})
    for language in LANGUAGES:
        told = explain(caught.value.code, language)
        assert "{setting}" in told.cause and "tunesmith data" in told.next_step


def test_another_list_of_words_makes_other_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(folder, EVERYTHING)
    (folder / "words.txt").write_text("nothing like it\n", "utf-8")
    with pytest.raises(TunesmithError) as caught:
        built(folder, EVERYTHING)
    assert caught.value.code == "data.corpus_exists"


@pytest.mark.parametrize("change", [lambda path: path.write_text('{"text": "new"}\n'), Path.unlink])
def test_a_file_that_changes_under_the_build_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: object
) -> None:
    number_values = builder.number_values

    def changes(parts: list[Path]) -> object:
        change(folder / "rows.jsonl")  # type: ignore[operator]
        return number_values(parts)

    monkeypatch.setattr(builder, "number_values", changes)
    with pytest.raises(TunesmithError) as caught:
        built(folder, EVERYTHING)
    assert caught.value.code == "data.source_changed" and not (folder / "out").exists()


def test_two_builds_at_a_time_are_kept_apart(folder: Path) -> None:
    with held(folder / "out.building"):
        with pytest.raises(TunesmithError) as caught:
            built(folder, EVERYTHING)
        assert caught.value.code == "data.corpus_busy"
    assert built(folder, EVERYTHING).splits["train"] > 0


def test_an_empty_file_is_no_corpus(folder: Path) -> None:
    (folder / "rows.jsonl").write_text("")
    with pytest.raises(TunesmithError) as caught:
        built(folder, {})
    assert caught.value.code == "data.empty_file"


def test_a_file_is_locked_since_nfs_carries_no_lock_of_a_folder_to_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def of_files(descriptor: int, operation: int) -> None:
        assert stat.S_ISREG(os.fstat(descriptor).st_mode)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", of_files)
    built(folder, EVERYTHING)
    assert not (folder / "out.building").exists()


def test_a_build_on_another_machine_beside_this_one_keeps_what_it_writes(folder: Path) -> None:
    """Two corpora in one shared folder: the names of what is under way there hold numbers of processes there."""
    there = f"{ASIDE}0123456789ab-4194304999-17-ffffffffffff"
    for place in (folder, folder / "out.building", folder / "other.building"):
        (place / there / "train").mkdir(parents=True)
    built(folder, EVERYTHING)
    assert (folder / there / "train").is_dir() and (folder / "other.building" / there / "train").is_dir()
    assert not (folder / "out.building").exists(), "the lock says that nobody writes there any more"
