"""The report itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults_report import Entry, write_report


@pytest.mark.case("F6")
def test_the_report_names_failures_and_cases_that_nothing_stood_for(tmp_path: Path) -> None:
    entries = {
        "file.py::test_one_way": Entry(("A1",), "passed", 2.0, 7, {"kills": 100}),
        "file.py::test_other_way": Entry(("A1",), "failed", 1.0, 8, {"kills": 20}),
        "file.py::test_bits": Entry(("B2",), "passed", 0.5, 9, {"bits flipped": 200}),
    }
    write_report(tmp_path / "report.md", entries)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "2 of 3 tests passed" in text
    assert "Tried: 200 bits flipped, 120 kills." in text
    assert "| **A1** | **killed at random moments** | **does not hold** |" in text
    assert "| **B2** | **one bit flipped** | holds |" in text
    assert "| **G8** | **path tricks in every string field** | **no test** |" in text
    assert "A2, A3" in text.splitlines()[5]
