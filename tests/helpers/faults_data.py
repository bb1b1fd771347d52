"""Files of rows with something wrong in them, made from a seed; read in a child that may die without harm.

    python faults_data.py FOLDER FIRST LAST      reads the files of these seeds, a line of JSON for each

What a file says is checked in the child against readers of other hands: Python's own JSON and codecs, and pyarrow.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow.parquet

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.formats.read import Reading, read_source
from tunesmith.messages import LANGUAGES, render
from tunesmith.recipe.specs.data import SourceSpec

MARK = "7Zq"
"""Stands in every text of a row; begins with a digit, so that no name of a column looks like it."""

WORDS = [
    "parcel",
    "订单",
    "refund",
    "什么时候到货",
    "“quoted”",
    "a,b",
    'say "hi"',
    "两行\n之间",
    "🎻",
    "tab\there",
    "é",
    "12.5",
]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class DataFile:
    """A file, the rows that nobody touched (prompt and completion), what was done to it, and all texts before that."""

    suffix: str
    content: bytes
    untouched: tuple[tuple[str, str], ...]
    done: str
    texts: frozenset[object] = frozenset()


def some_rows(draw: random.Random) -> list[dict[str, object]]:
    """Rows of a question and an answer, no two alike."""
    return [
        {"prompt": f"{MARK} {number} " + " ".join(draw.choices(WORDS, k=4)),
         "completion": f"{MARK} {number}! " + " ".join(draw.choices(WORDS, k=3))}
        for number in range(draw.randrange(2, 12))
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- odd values in whole files


def _nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES: list[object] = [
    None, True, 0, -1, 10**400, 1.5, float("nan"), float("inf"), "", " \n\t", [], {}, [[]], {"a": {"b": 1}},
    _nested(50), _nested(400), "\ud800", "x\udfffy", "\u0000", "\ufeff", "\u2028", "\ufffe", "\ufffd", "x" * 100_000,
    [None], ["a", 1],
    [{"type": "text", "text": f"{MARK} part"}], [{"type": "image_url", "image_url": "x"}], {"role": "user"},
    [{"role": "user", "content": None}], [{"role": "alien", "content": "x"}], '[{"role": "user"', '{"a": 1, "a": 2}',
    "[" * 5000, "=cmd|' /C calc'!A0", "../../etc/passwd", "NULL", "nan", "\x1b[31mred",
]  # fmt: skip
ODD_NAMES = [
    "Prompt",
    "prompt ",
    "",
    "提示",
    "\ud800",
    "a" * 300,
    "messages",
    "text",
    "label",
    "completion\n",
    "prompt",
]


def odd_values(draw: random.Random, suffix: str) -> DataFile:
    """A whole file in which a few rows hold something odd."""
    rows = some_rows(draw)
    touched = set(draw.sample(range(len(rows)), draw.randrange(1, max(2, len(rows) // 2))))
    for place in touched:
        row = rows[place]
        act = draw.randrange(4)
        if act == 0:
            row[draw.choice(list(row))] = draw.choice(ODD_VALUES)
        elif act == 1:
            row[draw.choice(ODD_NAMES)] = draw.choice(ODD_VALUES)
        elif act == 2:
            row.pop(draw.choice(list(row)))
        else:
            row.update(dict.fromkeys(["system", "tools", "history", "weight", "messages"][: draw.randrange(1, 6)],
                                     draw.choice(ODD_VALUES)))  # fmt: skip
    untouched = tuple(
        (str(row["prompt"]), str(row["completion"])) for place, row in enumerate(rows) if place not in touched
    )
    return DataFile(suffix, WRITERS[suffix](rows, draw), untouched, "odd values")


def _jsonl(rows: list[dict[str, object]], draw: random.Random) -> bytes:
    plain = draw.random() < 0.5
    return "".join(_json(row, plain) + "\n" for row in rows).encode()


def _json(value: object, plain: bool) -> str:
    text = json.dumps(value, ensure_ascii=plain)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _document(rows: list[dict[str, object]], draw: random.Random) -> bytes:
    value: object = rows if draw.random() < 0.7 else {"data": rows}
    return _json(value, draw.random() < 0.5).encode()


def _csv(rows: list[dict[str, object]], draw: random.Random) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(_cell(name) for name in names)]
    for row in rows:
        cells = [_cell(row[name]) if name in row else "" for name in names]
        if row.get("completion") is None:
            cells = draw.choice([cells, cells[:-1], [*cells, "x"]])
        lines.append(",".join(cells))
    ends = draw.choice(["\n", "\r\n", "\r"])
    return (ends.join(lines) + ends).encode("utf-8", "replace")


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return '"' + text.replace('"', '""') + '"'


def _parquet(rows: list[dict[str, object]], draw: random.Random) -> bytes:
    def clean(value: object) -> object:
        if isinstance(value, int) and abs(value) > 2**60:
            return draw.choice([2**60, b"\xff\xfe", date(2024, 1, 2)])
        if isinstance(value, list) and len(str(value)) > 90:
            return str(value)
        return value if _encodable(value) else b"\xed\xa0\x80"

    names = list(dict.fromkeys(name for row in rows for name in row if _encodable(name)))
    columns = []
    for name in names:
        values = [clean(row.get(name)) for row in rows]
        try:
            columns.append(pl.Series(name, values, strict=True))
        except Exception:
            columns.append(pl.Series(name, [None if each is None else str(each)[:1000] for each in values]))
    compression = draw.choice(["zstd", "snappy", "uncompressed"])
    out = io.BytesIO()
    try:
        pl.DataFrame(columns).write_parquet(out, compression=compression)
    except pl.exceptions.PolarsError:  # a table without fields
        texts = [pl.Series(each.name, [None if one is None else str(one) for one in each]) for each in columns]
        pl.DataFrame(texts).write_parquet(out := io.BytesIO(), compression=compression)
    return out.getvalue()


def _encodable(value: object) -> bool:
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


WRITERS: dict[str, Callable[[list[dict[str, object]], random.Random], bytes]] = {
    ".jsonl": _jsonl, ".json": _document, ".csv": _csv, ".parquet": _parquet,
}  # fmt: skip


# ------------------------------------------------------------------------------------------------------ broken bytes


def broken_bytes(draw: random.Random, suffix: str) -> DataFile:
    """A good file whose bytes were damaged somewhere."""
    rows = some_rows(draw)
    texts = frozenset(text for row in rows for text in row.values())
    content = bytearray(WRITERS[suffix](rows, draw))
    done = []
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        act = draw.choice(
            ["flip", "flip", "byte", "cut", "insert", "repeat", "remove", "mark", "encoding", "zeros", "swap"]
        )
        done.append(act)
        content = bytearray(_damage(draw, bytes(content), act)) or bytearray(b"\n")
    return DataFile(suffix, bytes(content), (), "+".join(done), texts)


def _damage(draw: random.Random, content: bytes, act: str) -> bytes:
    first = draw.randrange(len(content))
    last = min(len(content), first + draw.choice([1, 3, 30]))
    changed = bytearray(content)
    if act == "flip":
        changed[first] ^= 1 << draw.randrange(8)
    elif act == "byte":
        changed[first] = draw.choice([0, 0x22, 0x2C, 0x5C, 0x7B, 0x80, 0xFF, 0x0D, 0x1A])
    elif act == "insert":
        changed[first:first] = draw.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b'"', b"\n", b"\xc0\xaf", b"\\ud800",
                                            b"\xed\xa0\x80", b"[" * 2000, draw.randbytes(5)])  # fmt: skip
    elif act == "repeat":
        changed[last:last] = content[first:last]
    elif act == "remove":
        del changed[first:last]
    elif act == "mark":
        return draw.choice([b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\x00\x00\xfe\xff"]) + content
    elif act == "encoding":
        into = draw.choice(["gb18030", "utf-16", "utf-16-le", "big5", "euc_kr", "latin-1", "shift_jis", "utf-32"])
        return content.decode("utf-8", "ignore").encode(into, "ignore")
    elif act == "zeros":
        changed[first:last] = bytes(last - first)
    elif act == "swap":
        return content[first:] + content[:first]
    return content[:first] if act == "cut" else bytes(changed)


def make(seed: int) -> DataFile:
    """The file of a seed."""
    draw = random.Random(seed)
    suffix = SUFFIXES[seed % len(SUFFIXES)]
    return (odd_values if draw.random() < 0.4 else broken_bytes)(draw, suffix)


# ------------------------------------------------------------------------------------------------- reading in a child


def read(folder: Path, seed: int) -> dict[str, object]:
    """What came of the file of a seed; `wrong` is empty where everything was as it must be."""
    file = make(seed)
    path = folder / f"rows{file.suffix}"
    path.write_bytes(file.content)
    layout = "prompt_completion" if seed % 3 else "auto"
    ledger = Ledger()
    told: dict[str, object] = {"seed": seed, "suffix": file.suffix, "done": file.done}
    try:
        spec = SourceSpec.model_validate({"path": path.name, "layout": layout})
        frame, report = read_source(spec, "train", folder, Reading("chat", None, 1), ledger)
    except TunesmithError as error:
        return {**told, "code": error.code, "wrong": _wrong_refusal(error)}
    ledger.check(frame["row"])
    found = [(turns[-2]["content"], turns[-1]["content"]) for turns in frame["messages"]]
    return {
        **told,
        "code": "",
        "rows": len(found),
        "wrong": _wrong_rows(file, report.files[0].layout, report.files[0].encoding, found),
    }


def _wrong_refusal(error: TunesmithError) -> str:
    if not error.code.startswith("data."):
        return f"{error} is no refusal of a file"
    if "path" not in error.facts:
        return f"{error} names no file"
    words = [
        part for language in LANGUAGES for part in (render(error, language).cause, render(error, language).next_step)
    ]
    return f"{error} tells what a row says" if MARK in str(error) + "".join(words) else ""


def _wrong_rows(file: DataFile, layout: str, encoding: str, found: list[tuple[str, str]]) -> str:
    missing = [row for row in file.untouched if row not in found]
    if missing and layout == "prompt_completion":  # a column put in may make another layout of the file
        return f"rows that nobody touched are missing or altered: {missing[0]!r}"
    said = [text for row in found for text in row if text]
    if file.suffix == ".parquet":
        try:
            table = pyarrow.parquet.read_table(io.BytesIO(file.content), use_threads=False)
        except (pyarrow.ArrowException, OSError):  # damaged where only pyarrow looks
            return next((f"nobody wrote {text!r}" for text in said if text not in file.texts), "")
        known = {text for value in table.to_pylist() for text in _texts_in(value)}
        return next((f"pyarrow reads no {text!r}" for text in said if text not in known), "")
    text = file.content.decode(encoding)
    if file.suffix == ".csv":
        known_text = text.replace('""', '"')
        return next((f"the file says no {each!r}" for each in said if each.replace('""', '"') not in known_text), "")
    known = _texts_of_json(text)
    return next((f"the file says no {each!r}" for each in said if each not in known), "")


def _texts_of_json(text: str) -> set[str]:
    """Every text in the file, by Python's reader, of the whole document or of each line."""
    values = []
    for part in (text.removeprefix("\ufeff"), *text.removeprefix("\ufeff").split("\n")):
        try:
            values.append(json.loads(part))
        except (ValueError, RecursionError):
            continue
    return {found for value in values for found in _texts_in(value)}


def _texts_in(value: object) -> set[str]:
    if isinstance(value, str):
        inner = set()
        if value.lstrip()[:1] in ("[", "{"):
            try:
                inner = _texts_in(json.loads(value))
            except (ValueError, RecursionError):
                inner = set()
        return {value} | inner
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {found for each in parts for found in _texts_in(each)}


def main(folder: Path, first: int, last: int) -> None:
    """Read the files of seeds, a line for each: before it is read (so that a death names its file) and after."""
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    for seed in range(first, last):
        print(json.dumps({"begins": seed}), flush=True)
        try:
            told = read(folder, seed)
        except BaseException as error:
            told = {"seed": seed, "code": "", "wrong": f"{type(error).__name__}: {str(error)[:300]}"}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    os._exit(0)  # threads of libraries that end after them are not what is asked here
