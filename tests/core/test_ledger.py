"""One fate a row, and sums that are checked."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import STILL_USED, Fate, Ledger

NAMES = ("a.jsonl", "文件\u2028夹/b\x85.csv", 'c"\\.json')


def test_the_sums_hold_whatever_is_decided(tmp_path: Path) -> None:
    draw = random.Random(4)
    ledger = Ledger()
    expected: dict[int, str] = {}
    for name in NAMES:
        expected.update(dict.fromkeys(ledger.read(name, draw.randrange(5, 40)), "kept"))
    fates: tuple[Fate, ...] = ("masked", "truncated", "merged", "dropped")
    for _ in range(60):
        fate = draw.choice(fates)
        rows = draw.sample([row for row in expected if expected[row] in STILL_USED], 1)
        ledger.decide(rows, fate, f"because {fate}", [7])
        expected.update(dict.fromkeys(rows, fate))
    kept = [row for row, fate in expected.items() if fate in STILL_USED]
    assert ledger.kept_rows() == sorted(kept)
    ledger.check(reversed(kept))
    assert sum(ledger.totals().values()) == len(ledger) == len(expected)
    fates = Counter(expected.values())
    assert Counter(entry.fate for entry in ledger.entries()) == fates
    gone = {"merged": fates["merged"], "dropped": fates["dropped"]}
    assert ledger.sums() == {"read": len(expected), "made": 0, **gone}

    path = tmp_path / "ledger.jsonl"
    ledger.write(path)
    assert Ledger.load(path).entries() == ledger.entries()
    assert [(entry.source, entry.index) for entry in ledger.entries()] == [
        (name, index) for name in NAMES for index in range(sum(entry.source == name for entry in ledger.entries()))
    ]
    made = ledger.make(kept[:2], "made_by_edit")
    assert ledger.sums() == {"read": len(expected), "made": 2, **gone}
    ledger.decide(made, "dropped", "because dropped")
    assert ledger.sums()["dropped"] == fates["dropped"] + 2


@pytest.mark.parametrize(
    ("used", "missing", "extra"),
    [([0, 1], 1, 0), ([0, 1, 2, 2], 0, 1), ([0, 1, 1], 1, 1), ([0, 1, 2, 3], 0, 1), ([], 3, 0), ([0, 1, 9], 1, 1)],
)
def test_rows_that_do_not_add_up(used: list[int], missing: int, extra: int) -> None:
    ledger = Ledger()
    ledger.read("a", 4)
    ledger.decide([3], "dropped", "empty")
    with pytest.raises(TunesmithError) as error:
        ledger.check(used)
    assert error.value.code == "core.ledger_unbalanced"
    assert (error.value.facts["missing"], error.value.facts["extra"]) == (missing, extra)


def test_a_row_that_went_gets_no_second_fate() -> None:
    ledger = Ledger()
    ledger.read("a", 2)
    ledger.decide([0], "merged", "same as 1")
    with pytest.raises(TunesmithError) as error:
        ledger.decide([0], "kept", "after all")
    assert error.value.code == "core.ledger_second_fate"
    with pytest.raises(ValueError, match="longer"):
        ledger.decide([1], "truncated", "cut", [1, 2])


@pytest.mark.parametrize("line", ["{", "[]", '{"row": 1}', '{"row": 1, "source": "a", "index": 0, "who": 1}', "\xff"])
def test_a_ledger_that_was_not_written_here(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(line.encode("latin-1"))
    with pytest.raises(TunesmithError, match="broken_json"):
        Ledger.load(path)
    with pytest.raises(TunesmithError, match="missing_file"):
        Ledger.load(tmp_path / "none")
