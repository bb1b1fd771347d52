from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tunesmith.core.files import sha256_file
from tunesmith.core.ledger import Ledger
from tunesmith.data.diff import Difference, Side, compare
from tunesmith.data.prepare import prepare
from tunesmith.data.version import made_by
from tunesmith.recipe.specs.data import DataSpec


def row(prompt: str, answer: str = "yes") -> dict[str, str]:
    return {"prompt": prompt, "completion": answer}


def side(folder: Path, rows: list[dict[str, str]], name: str = "a.jsonl", **settings: object) -> Side:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(each) + "\n" for each in rows), "utf-8")
    spec = DataSpec.model_validate({"sources": [{"path": name}], **settings})
    ledger = Ledger()
    prepared = prepare(spec, folder, ledger)
    return Side(name, prepared.tables, ledger, {name: sha256_file(folder / name)}, made_by(spec))


def reasons(found: Difference) -> Counter[tuple[str, str, str]]:
    return Counter((each.kind, each.reason, each.detail) for each in found.changes)


ROWS = [row(f"question {number}") for number in range(30)]


def test_the_same_rows_in_another_order_and_file_do_not_differ(tmp_path: Path) -> None:
    one, other = side(tmp_path, ROWS), side(tmp_path / "b", ROWS[::-1], "b.jsonl")
    assert compare(one, other) == Difference(30, ())
    assert one.version == other.version


def test_the_ledger_of_the_other_side_says_why_a_row_is_gone(tmp_path: Path) -> None:
    rows = [*ROWS, row("question 3"), row("question 4"), row("")]
    kept = side(tmp_path, rows, clean={"exact_duplicates": False})
    merged = side(tmp_path, rows)
    found = compare(kept, merged)
    assert reasons(found)["removed", "merged", "exact_duplicate_of_row"] == 2
    assert found.same + sum(each.kind == "moved" for each in found.changes) == 30
    assert {kept.ledger.entries()[each.row_before].index for each in found.changes if each.kind == "removed"} == {
        30,
        31,
    }
    back = compare(merged, kept)
    assert reasons(back)["added", "merged", "exact_duplicate_of_row"] == 2


def test_an_edited_file_shows_added_removed_and_changed_rows(tmp_path: Path) -> None:
    edited = [row("question 0", "no"), *ROWS[1:20], *ROWS[21:], row("a new one")]
    found = compare(side(tmp_path, ROWS), side(tmp_path / "b", edited))
    told = {key: count for key, count in reasons(found).items() if key[0] != "moved"}
    assert told == {("changed", "same_prompt", ""): 1, ("removed", "other_file", ""): 1, ("added", "other_file", ""): 1}
    assert [each.row_before for each in found.changes if each.kind == "removed"] == [20]
    assert [each.row_after for each in found.changes if each.kind == "added"] == [29]


def test_other_cleaning_changes_rows_of_one_file(tmp_path: Path) -> None:
    rows = [*ROWS[:-1], row("  blanks around  ", "yes\r\n")]
    plain = side(tmp_path, rows, clean={"normalize": False})
    found = compare(plain, side(tmp_path, rows))
    assert reasons(found)["changed", "read_otherwise", ""] == 1
    assert [(each.row_before, each.row_after) for each in found.changes if each.kind == "changed"] == [(29, 29)]


def test_another_seed_moves_rows_and_changes_none(tmp_path: Path) -> None:
    found = compare(side(tmp_path, ROWS), side(tmp_path, ROWS, split={"seed": 7}))
    assert {each.kind for each in found.changes} == {"moved"}
    assert found.same + len(found.changes) == 30
    assert all(each.table_before != each.table_after for each in found.changes)
