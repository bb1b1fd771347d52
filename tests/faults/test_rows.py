"""Every row that is read has one fate; what went can be had again with its reason; and no log says what a row says."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from faults_tally import Tally
from tiny_project import RECIPE
from typer.testing import CliRunner

from tunesmith.cli.main import app
from tunesmith.core.ledger import Ledger
from tunesmith.models.load import load_tokenizer
from tunesmith.models.tiny import tiny_chat_model

MARK = "Kontonummer4711"
"""Stands in every row, and may stand nowhere else but where rows are kept."""


def chat(number: int, *turns: tuple[str, object], **more: object) -> dict[str, object]:
    said = [{"role": role, "content": content} for role, content in turns]
    return {"messages": said, "id": f"{MARK}-{number}", **more}


def asked(number: int) -> tuple[str, str]:
    return "user", f"{MARK} question {number} 订单"


def answer(number: int) -> tuple[str, str]:
    return "assistant", f"{MARK} answer {number}"


Defect = Callable[[int, random.Random], str]
DEFECTS: dict[str, Defect] = {
    "broken_json": lambda n, draw: json.dumps(chat(n, asked(n), answer(n)))[: draw.randrange(20, 60)],
    "duplicate_key": lambda n, draw: f'{{"id": "{MARK}", "id": "{n}", "messages": []}}',
    "not_an_object": lambda n, draw: json.dumps([MARK, n]),
    "no_messages": lambda n, draw: json.dumps(chat(n)),
    "missing_columns": lambda n, draw: json.dumps({"other": f"{MARK} {n}"}),
    "unknown_role": lambda n, draw: json.dumps(chat(n, asked(n), ("alien", MARK))),
    "content_not_text": lambda n, draw: json.dumps(chat(n, asked(n), ("assistant", {"text": MARK}))),
    "empty_answer": lambda n, draw: json.dumps(chat(n, asked(n), ("assistant", draw.choice(["", " \n", "\u0007"])))),
    "empty_prompt": lambda n, draw: json.dumps(chat(n, ("user", draw.choice(["", "\t"])), answer(n))),
    "role_order": lambda n, draw: json.dumps(chat(n, asked(n), ("system", MARK), asked(n + 1), answer(n))),
    "same_role_twice": lambda n, draw: json.dumps(chat(n, asked(n), asked(n + 1), answer(n))),
    "assistant_first": lambda n, draw: json.dumps(chat(n, answer(n), asked(n + 1), answer(n + 1))),
    "no_assistant": lambda n, draw: json.dumps(chat(n, asked(n))),
    "bad_weight": lambda n, draw: json.dumps(
        {
            "messages": [
                dict(zip(("role", "content"), asked(n), strict=True), weight=draw.choice([7, -1, "x", True + 1]))
            ]
        }
    ),
    "lone_surrogate": lambda n, draw: json.dumps(chat(n, asked(n), ("assistant", f"{MARK} \ud83c"))),
    "too_deep": lambda n, draw: f'{{"messages": {"[" * 5000}"{MARK}"{"]" * 5000}}}',
    "bad_tool_call": lambda n, draw: json.dumps(
        {"messages": [dict(zip(("role", "content"), asked(n), strict=True), tool_calls=[{"name": 5}])]}
    ),
    "bad_tools": lambda n, draw: json.dumps(chat(n, asked(n), answer(n), tools=MARK)),
}


def write_rows(
    path: Path, count: int, draw: random.Random
) -> tuple[list[str], dict[int, tuple[str, str]], dict[int, int]]:
    """The lines of a file of good and defective rows, the fates that they must have, and words cut at the end."""
    lines: list[str] = []
    fates: dict[int, tuple[str, str]] = {}
    names = list(DEFECTS)
    trailing: dict[int, int] = {}
    for number in range(count):
        act = draw.random()
        if act < 0.3:
            name = names[number % len(names)]
            lines.append(DEFECTS[name](number, draw))
            fates[number] = ("dropped", name)
        elif act < 0.4 and number:
            other = draw.choice(
                [each for each in range(number) if each not in fates and each not in trailing] or [None]
            )
            if other is None:
                lines.append(json.dumps(chat(number, asked(number), answer(number))))
                continue
            lines.append(json.dumps({**json.loads(lines[other]), "note": f"{MARK} again"}))
            fates[number] = ("merged", "exact_duplicate_of_row")
        elif act < 0.45:
            lines.append(json.dumps(chat(number, asked(number), answer(number), ("user", f"{MARK} unanswered"))))
            trailing[number] = 1
        else:
            lines.append(json.dumps(chat(number, asked(number), answer(number)), ensure_ascii=draw.random() < 0.5))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return lines, fates, trailing


def program(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.case("D2")
@pytest.mark.timeout(300)
def test_a_thousand_rows_with_defects_are_all_accounted_for(tmp_path: Path, tally: Tally) -> None:
    assert len(DEFECTS) >= 12
    base = tiny_chat_model(tmp_path / "base", context=2048)
    folder = tmp_path / "project"
    (folder / "tickets").mkdir(parents=True)
    lines, fates, trailing = write_rows(folder / "tickets" / "train.jsonl", tally.amount(200, 1000), tally.random)
    for split in ("validation", "test"):
        rows = [chat(number, ("user", f"{split} {number} {MARK}"), answer(number)) for number in range(5)]
        (folder / "tickets" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.format(base=base).replace("max_length: 2048", "max_length: 70")
    (folder / "recipe.yaml").write_text(text, "utf-8")

    code, out, err = program("data", folder / "recipe.yaml", "--runs", folder / "runs", "--json")
    assert code == 0, (out, err)
    told = json.loads(out)
    run = Path(told["run"])
    ledger = Ledger.load(run / "ledger.jsonl")
    entries = [entry for entry in ledger.entries() if entry.source == "tickets/train.jsonl"]
    assert [entry.index for entry in entries] == list(range(len(lines))), "every row that was read"
    expected_cut = _cut_tokens(base, lines, fates, trailing)
    for entry in entries:
        fate, reason = fates.get(entry.index, ("kept", ""))
        if fate == "kept" and entry.index in expected_cut:
            fate, reason = "truncated", "tokens_behind_max_length"
            assert entry.amount == expected_cut[entry.index]
        elif fate == "kept" and entry.index in trailing:
            fate, reason = "truncated", "trailing_turn"
            assert entry.amount == trailing[entry.index]
        assert (entry.fate, entry.reason) == (fate, reason), entry
    totals: Counter[str] = Counter()
    for label, rows in ledger.totals().items():
        totals[label.partition(":")[0]] += rows
    assert sum(totals.values()) == len(ledger) == len(lines) + 10
    kept = totals["kept"] + totals["truncated"] + totals["masked"]
    assert kept + totals["merged"] + totals["dropped"] == len(ledger) and told["fates"] == dict(ledger.totals())
    tally.count("rows accounted for", len(ledger))
    tally.count("kinds of defect", len({reason for _, reason in fates.values()}))

    _everything_rejected_can_be_had(folder, run, lines, fates)
    _no_row_is_told(run, [out, err, *program("data", folder / "recipe.yaml", "--runs", folder / "runs")[1:]])


def _cut_tokens(base: Path, lines: list[str], fates: dict[int, object], trailing: dict[int, int]) -> dict[int, int]:
    """Tokens behind the limit, by row, counted with the template written out by hand."""
    tokenizer = load_tokenizer(base)
    found: dict[int, int] = {}
    for number, line in enumerate(lines):
        if number in fates:
            continue
        turns = json.loads(line)["messages"][: -trailing.get(number, 0) or None]
        text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
        length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if length > 70:
            found[number] = length - 70
    return found


def _everything_rejected_can_be_had(
    folder: Path, run: Path, lines: list[str], fates: dict[int, tuple[str, str]]
) -> None:
    out = folder / "rejected.jsonl"
    code, said, err = program("data", "rejected", run, "--out", out, "--json")
    assert code == 0, (said, err)
    rejected = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert json.loads(said)["rows"] == len(rejected) == len(fates)
    for row in rejected:
        assert (row["fate"], row["reason"]) == fates[row["index"]] and row["file"] == "train.jsonl"
        line = lines[row["index"]]
        assert row["original"] == line if "original" in row else row["content"] == json.loads(line)
    assert program("data", "rejected", run, "--out", out, "--json")[0] == 2, "never written over"
    source = folder / "tickets" / "train.jsonl"
    before = source.read_bytes()
    source.write_bytes(before.replace(b"question", b"Question", 1))
    code, said, _ = program("data", "rejected", run, "--out", folder / "other.jsonl", "--json")
    assert code == 2 and json.loads(said)["error"]["code"] == "data.source_changed"
    source.write_bytes(before)


def _no_row_is_told(run: Path, said: list[str]) -> None:
    """Rows stand in the splits and in the X-ray of some; nowhere else."""
    keep = {*(run / "data").glob("*.parquet"), run / "xray.html"}
    for path in run.rglob("*"):
        if path.is_file() and path not in keep:
            assert MARK.encode() not in path.read_bytes(), path
    assert not [text for text in said if MARK in text]


WRONG_FILES: dict[str, tuple[str, bytes]] = {
    "no header": ("csv", f"{MARK} hello,{MARK} you\n".encode() * 5),
    "a header of rows, twice": ("csv", f"{MARK} hello,{MARK} hello\n".encode() * 5),
    "quotes": ("csv", f'prompt,completion\n"{MARK},x\n'.encode()),
    "no JSON": ("jsonl", f"{MARK}\n".encode() * 5),
    "a broken document": ("json", f'[{{"prompt": "{MARK}" "x"}}]'.encode()),
    "mixed": ("jsonl", f'{{"prompt": "{MARK}", "completion": "x"}}\n{{"messages": "{MARK}"}}\n'.encode()),
    "unknown columns": ("jsonl", f'{{"x": "{MARK}"}}\n'.encode() * 5),
    "nothing left": ("jsonl", f'{{"prompt": "{MARK}", "completion": ""}}\n'.encode() * 5),
    "bytes": ("jsonl", f'{{"prompt": "{MARK}"'.encode() + b"\xff}\n"),
    "parquet": ("parquet", b"PAR1" + MARK.encode() * 20 + b"PAR1"),
    "the wrong kind": ("jsonl", f'{{"prompt": "{MARK}", "chosen": "{MARK}", "rejected": "x"}}\n'.encode() * 5),
    "one prompt": ("jsonl", f'{{"prompt": "{MARK}", "completion": "x"}}\n'.encode() * 5),
}


@pytest.mark.case("D2")
def test_no_error_tells_what_a_row_says(tmp_path: Path, tally: Tally) -> None:
    from tunesmith.core.errors import TunesmithError
    from tunesmith.data.prepare import prepare
    from tunesmith.messages import LANGUAGES, render
    from tunesmith.recipe.specs.data import DataSpec

    for name, (suffix, content) in WRONG_FILES.items():
        path = tmp_path / f"rows.{suffix}"
        path.write_bytes(content)
        with pytest.raises(TunesmithError) as caught:
            prepare(DataSpec.model_validate({"sources": [{"path": path.name}]}), tmp_path, Ledger())
        words = [render(caught.value, language) for language in LANGUAGES]
        assert MARK not in f"{caught.value!r} {words}", name
        tally.count("refusals of files")
