"""Questions in files as spreadsheets and exports write them; a row that cannot be read ends it before a model loads."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from office_files import xlsx
from tiny_project import Program

from tunesmith.cli.predict import read_rows
from tunesmith.core.errors import TunesmithError

ROWS = [{"编号": "1", "question": "订单在哪里；谢谢"}, {"编号": "2", "question": "a, b"}]
SHEET = "".join(";".join(f'"{cell}"' for cell in each) + "\r\n" for each in (ROWS[0], *(row.values() for row in ROWS)))
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def test_what_spreadsheets_write(call: Program, tmp_path: Path) -> None:
    path = tmp_path / "问题.csv"
    path.write_bytes(SHEET.encode("gb18030"))
    assert read_rows(path) == ROWS
    told = call("predict", path, "--model", "no-such-model")
    assert told.code == 2 and "gb18030" in told.out and "parted by ;" in told.out


def test_what_exports_write(tmp_path: Path) -> None:
    for name, content in (
        ("a.jsonl", LINES.encode()),
        ("b.jsonl.gz", gzip.compress(LINES.encode())),
        ("c.json", json.dumps(ROWS).encode()),
        ("d.xlsx", xlsx({"s": [list(ROWS[0]), *(list(row.values()) for row in ROWS)]})),
    ):
        (tmp_path / name).write_bytes(content)
        assert read_rows(tmp_path / name) == ROWS, name


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.jsonl", LINES + '{"question": ', "cli.predict_broken"),
        ("a.jsonl", LINES + "[1]\n", "cli.predict_broken"),
        ("a.csv", "a,b\n1\n", "cli.predict_broken"),
        ("a.jsonl", "", "data.empty_file"),
        ("a.csv", "question\n", "data.empty_file"),
        ("a.parquet", "PAR1", "cli.predict_format"),
        ("a.txt", "Where?", "cli.predict_format"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str, code: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TunesmithError) as caught:
        read_rows(tmp_path / name)
    assert caught.value.code == code
    if content.startswith(LINES):
        assert caught.value.facts["row"] == len(ROWS) + 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TunesmithError) as caught:
        read_rows(tmp_path / "a.csv")
    assert caught.value.code == "core.missing_file"
