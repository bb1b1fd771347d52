"""A finished corpus states its version, and the verbs that look at rows know it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import folder_hashes, read_manifest, sha256_file, write_manifest
from tunesmith.core.ledger import Entry, Ledger
from tunesmith.core.types import SPLITS
from tunesmith.data.corpus import side as sides
from tunesmith.data.corpus.build import CorpusReport, build_corpus
from tunesmith.data.corpus.card import CARDS
from tunesmith.data.corpus.check import prove
from tunesmith.data.corpus.sample import sample
from tunesmith.data.corpus.side import side_of_corpus
from tunesmith.data.corpus.stated import is_corpus, read_stated
from tunesmith.data.diff import Side, compare
from tunesmith.data.prepare import prepare
from tunesmith.data.version import row_digests, settings_of, text_digests, version_of
from tunesmith.recipe.specs.data import DataSpec

PIECE = 1500
TEXTS = [
    f"text {i} of a corpus, 第{i}行 \U0001f600: " + " ".join(f"w{(i * k) % 97}" for k in range(1, 12))
    for i in range(60)
]


def write(path: Path, texts: list[str], **more: str) -> None:
    path.write_text("".join(json.dumps({"text": each, **more}) + "\n" for each in texts), "utf-8")


def spec(name: str = "rows.jsonl", **clean: object) -> DataSpec:
    stated = {"rows": "text", "sources": [{"path": name, "name": "web"}], "clean": clean}
    return DataSpec.model_validate(stated)


def built(
    folder: Path, name: str = "rows.jsonl", out: str = "out", piece: int = PIECE, **clean: object
) -> CorpusReport:
    return build_corpus(spec(name, **clean), folder, folder / out, piece_bytes=piece)


def in_memory(folder: Path, out: Path, stated: DataSpec) -> Side:
    """The rows that a table in memory becomes, in the splits of the corpus."""
    ledger = Ledger()
    rows = pl.concat(prepare(stated, folder, ledger).frames.values())
    shards = {split: [pl.read_parquet(path) for path in (out / split).iterdir()] for split in SPLITS}
    numbers = {split: pl.concat(each)["row"] for split, each in shards.items() if each}
    tables = {split: rows.filter(pl.col("row").is_in(each.implode())) for split, each in numbers.items()}
    tables = {split: tables.get(split, rows.clear()) for split in SPLITS}
    hashes = {"web": sha256_file(folder / stated.sources[0].path)}
    return Side(str(out), tables, ledger, hashes, settings_of(stated, ()))


def reasons(found: object) -> Counter[tuple[str, str, str]]:
    return Counter((each.kind, each.reason, each.detail) for each in found.changes)  # type: ignore[attr-defined]


def seal(folder: Path) -> None:
    """Make the manifest anew after somebody changed what it covers."""
    write_manifest(folder, {**read_manifest(folder), "files": folder_hashes(folder)})


def test_a_text_alone_has_the_digest_of_its_row(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ["", "a", "0:", *TEXTS])
    stated = spec(normalize=False, exact_duplicates=False)
    frame = pl.concat(prepare(stated, tmp_path, Ledger()).frames.values())
    assert list(text_digests(frame["text"])) == list(row_digests(frame))


def test_the_version_is_that_of_the_same_rows_in_memory(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [*TEXTS, TEXTS[3], TEXTS[4]])
    report = built(tmp_path)
    side = in_memory(tmp_path, tmp_path / "out", spec())
    assert report.version == version_of(side.tables, side.settings).id
    stated = read_stated(tmp_path / "out")
    assert (stated.version, stated.sources) == (side.version, side.hashes)
    assert dict(stated.version.rows) == report.splits
    assert is_corpus(tmp_path / "out") and not is_corpus(tmp_path)


def test_pieces_order_and_names_of_files_make_no_other_version_but_a_letter_does(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", TEXTS)
    write(tmp_path / "turned.jsonl", TEXTS[::-1])
    write(tmp_path / "edited.jsonl", [*TEXTS[:-1], TEXTS[-1] + "!"])
    first = built(tmp_path).version
    assert built(tmp_path, "turned.jsonl", "turned", 1 << 25).version == first
    assert built(tmp_path, "edited.jsonl", "edited").version != first
    assert built(tmp_path, out="other", near_duplicates=0.9).version != first, "settings count"


def test_what_a_corpus_states_is_proved(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [*TEXTS, TEXTS[0]])
    report = built(tmp_path)
    assert prove(tmp_path / "out").version.id == report.version


@pytest.mark.parametrize(
    ("change", "sealed", "code"),
    [
        (lambda rows: rows.with_columns(text=pl.lit("another")), False, "core.hash_differs"),
        (lambda rows: rows.with_columns(text=pl.lit("another")), True, "core.hash_differs"),
        (lambda rows: rows[1:], True, "core.ledger_unbalanced"),
        (lambda rows: pl.concat([rows, rows[:1]]), True, "core.ledger_unbalanced"),
        (
            lambda rows: rows.with_columns(
                pl.Series("text", [f"new {i}" for i in range(len(rows))]),
                digest=pl.Series(list(text_digests(pl.Series([f"new {i}" for i in range(len(rows))])))),
            ),
            True,
            "versions.version_differs",
        ),
    ],
    ids=["bytes", "digest", "row-gone", "row-twice", "other-rows"],
)
def test_a_changed_corpus_is_found_out(tmp_path: Path, change: object, sealed: bool, code: str) -> None:
    write(tmp_path / "rows.jsonl", TEXTS)
    built(tmp_path)
    shard = min((tmp_path / "out" / "train").iterdir())
    change(pl.read_parquet(shard)).write_parquet(shard)  # type: ignore[operator]
    if sealed:
        seal(tmp_path / "out")
    with pytest.raises(TunesmithError) as caught:
        prove(tmp_path / "out")
    assert caught.value.code == code


def test_words_in_two_splits_are_found(tmp_path: Path) -> None:
    """Two groups that say the same, and nobody asked for duplicates to go."""
    lines = [{"text": TEXTS[i % 20], "shop": f"shop {i}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    stated = spec(exact_duplicates=False).model_dump() | {"split": {"group_by": "shop"}}
    build_corpus(DataSpec.model_validate(stated), tmp_path, tmp_path / "out", piece_bytes=PIECE)
    with pytest.raises(TunesmithError) as caught:
        prove(tmp_path / "out")
    assert caught.value.code == "corpus.leak"


def test_two_corpora_differ_as_the_same_tables_in_memory_do(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [*TEXTS, TEXTS[3], "short"])
    write(tmp_path / "more.jsonl", [*TEXTS[5:], "a text that is new here", "and one more of them"])
    built(tmp_path, exact_duplicates=False)
    built(tmp_path, out="merged", filter={"rules": ["too_short"]})
    built(tmp_path, "more.jsonl", "more")
    keeps, merges = spec(exact_duplicates=False), spec(filter={"rules": ["too_short"]})
    pairs = [("out", keeps, "merged", merges), ("merged", merges, "more", spec("more.jsonl"))]
    for one, one_spec, other, other_spec in pairs:
        found = compare(side_of_corpus(tmp_path / one), side_of_corpus(tmp_path / other))
        expected = compare(*(in_memory(tmp_path, tmp_path / a, b) for a, b in ((one, one_spec), (other, other_spec))))
        assert reasons(found) == reasons(expected) and found.same == expected.same > 50
    assert reasons(found)["added", "other_file", ""] == 2
    with_memory = compare(side_of_corpus(tmp_path / "out"), in_memory(tmp_path, tmp_path / "out", keeps))
    assert (with_memory.same, with_memory.changes) == (62, ()), "a corpus beside a table"


def test_what_changed_rows_say_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", TEXTS)
    built(tmp_path)
    side = side_of_corpus(tmp_path / "out")
    found = side.contents([7, -1])
    assert found == {7: {"source": "web", "index": 7, "content": {"text": TEXTS[7]}}}
    assert found == {7: in_memory(tmp_path, tmp_path / "out", spec()).contents([7])[7]}


def test_a_corpus_too_large_to_compare_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows.jsonl", TEXTS)
    built(tmp_path)
    monkeypatch.setattr(sides, "MOST_ROWS", 59)
    with pytest.raises(TunesmithError) as caught:
        side_of_corpus(tmp_path / "out")
    assert caught.value.code == "corpus.too_many_rows"


def test_rows_are_drawn_from_all_files_and_each_once(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", TEXTS)
    built(tmp_path)
    every = [row["text"] for _, row in sample(tmp_path / "out", SPLITS, 1000, seed=1)]
    assert sorted(every) == sorted(TEXTS)
    few = list(sample(tmp_path / "out", ["train"], 5, seed=1))
    assert len(few) == 5 and {split for split, _ in few} == {"train"}
    assert few == list(sample(tmp_path / "out", ["train"], 5, seed=1))
    assert few != list(sample(tmp_path / "out", ["train"], 5, seed=2))


def test_the_card_has_the_sums_and_the_version(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [*TEXTS, TEXTS[0]])
    report = built(tmp_path)
    for name in CARDS:
        page = (tmp_path / "out" / name).read_text("utf-8")
        assert report.version in page and sha256_file(tmp_path / "rows.jsonl") in page and "61" in page
        assert not any(text in page for text in TEXTS), "numbers alone, no word of a row"


def test_entries_of_a_ledger_in_memory_and_on_disk_are_the_same(tmp_path: Path) -> None:
    entries = [Entry(0, "web", 0), Entry(1, "web", 1, "dropped", "empty_text"), Entry(2, "web", 1, parent=1)]
    side = Side("x", {}, Ledger(entries), {"web": "hash"}, {})
    asked = pl.DataFrame({"file": ["hash", "other"], "index": [1, 0]})
    assert side.fates(asked).rows() == [("hash", 1, "dropped", "empty_text")]
