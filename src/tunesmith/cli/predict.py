"""`tunesmith predict FILE --model RUN`: answers for every row of a file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.manner import answer, tell
from tunesmith.cli.models import Asked, base_of, folder_with_head, open_model, question
from tunesmith.cli.options import BaseOption
from tunesmith.cli.predict_classes import PROMPT_COLUMNS, Row, classes_of_rows
from tunesmith.cli.terminal import Terminal
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Events
from tunesmith.core.files import write_atomic
from tunesmith.core.types import Message
from tunesmith.messages import say

if TYPE_CHECKING:
    from tunesmith.models.generate import Progress

_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".xlsx")
ROLES = ("system", "user", "assistant", "tool")

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="cli.arg_file", show_default=False)]
ModelOption = Annotated[str, typer.Option("--model", metavar="RUN|BASE", help="cli.opt_model", show_default=False)]
OutOption = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="cli.opt_out", show_default=False)]
ColumnOption = Annotated[
    str | None, typer.Option("--column", metavar="NAME", help="cli.opt_column", show_default=False)
]
TaskOption = Annotated[str, typer.Option("--task", metavar="NAME", help="cli.opt_of_tasks", show_default=False)]
LengthOption = Annotated[int, typer.Option("--max-new-tokens", min=1, metavar="N", help="cli.opt_max_new_tokens")]


def predict(
    file: FileArgument, model: ModelOption, out: OutOption = None, column: ColumnOption = None,
    max_new_tokens: LengthOption = 256, base: BaseOption = None, task: TaskOption = "",
) -> None:  # fmt: skip
    """Read rows, ask the model each, and write the rows with their answers."""
    target = out or file.with_name(f"{file.stem}.answers.jsonl")
    if target.exists():
        raise TunesmithError("recipe.exists", path=str(target))
    rows = read_rows(file)
    folder = folder_with_head(model, task)
    if folder is not None:
        answered = classes_of_rows(folder, rows, column, str(file), base_of(folder, base))
    else:
        asked_for = [conversation(row, number, column, str(file)) for number, row in enumerate(rows, 1)]
        asked = open_model(model, base)
        with Terminal() as listener:
            texts = _answers(asked, asked_for, max_new_tokens, Events(None, (listener,)))
        answered = [{**row, "answer": text} for row, text in zip(rows, texts, strict=True)]
    lines = [json.dumps(row, ensure_ascii=False) for row in answered]
    write_atomic(target, "".join(line + "\n" for line in lines))
    tell(say("cli.predicted", rows=len(rows), path=str(target)))
    answer({"rows": len(rows), "out": str(target)})


def read_rows(path: Path) -> list[Row]:
    """Rows of a file of text or of a workbook, which training reads the same way. What was guessed of it is told.

    Errors: core.missing_file, cli.predict_format, cli.predict_broken, those of `read_files`.
    """
    from tunesmith.data.formats.files import Unread, read_files
    from tunesmith.data.formats.kinds import kind_of_file

    if kind_of_file(path) not in _KINDS:
        raise TunesmithError("cli.predict_format", path=str(path), suffixes=" ".join(_KINDS))
    if not path.is_file():
        raise TunesmithError("core.missing_file", path=str(path))
    files = read_files(path)
    rows: list[Row] = []
    for each in files:
        if each.guessed:
            tell(say("data.guessed_encoding", path=path.name, encoding=each.encoding))
        for note in each.notes:
            tell(say(note.code, **note.facts))
        for row in each.rows:
            if isinstance(row, Unread) or _has_half_character(row):
                reason = say(f"data.reason_{row.reason if isinstance(row, Unread) else 'lone_surrogate'}")
                raise TunesmithError("cli.predict_broken", path=str(path), row=len(rows) + 1, reason=reason)
            rows.append(row)
    return rows


def _has_half_character(row: Row) -> bool:
    """Whether a lone surrogate stands in the row: JSON can spell it, but no tokenizer reads it and no file takes it."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def conversation(row: Row, number: int, column: str | None, path: str) -> list[Message] | str:
    """What a row asks: its messages up to the last one that is not the assistant's, or the text of a column.

    Errors: cli.predict_no_question.
    """
    turns = row.get("messages")
    if column is None and isinstance(turns, list):
        messages = [_turn(turn) for turn in turns if isinstance(turn, dict)]
        while messages and messages[-1].role == "assistant":
            messages.pop()
        if messages:
            return messages
    for name in [column] if column else PROMPT_COLUMNS:
        value = row.get(name or "")
        if isinstance(value, str) and value.strip():
            return value
    names = ", ".join([column] if column else ["messages", *PROMPT_COLUMNS])
    raise TunesmithError("cli.predict_no_question", path=path, row=number, columns=names)


def _turn(turn: Mapping[str, object]) -> Message:
    role = str(turn.get("role", "user"))
    if role not in ROLES:
        raise TunesmithError("cli.predict_role", role=role, valid=", ".join(ROLES))
    content = turn.get("content")
    return Message(role, content if isinstance(content, str) else "")  # type: ignore[arg-type]


def _answers(asked: Asked, rows: Sequence[list[Message] | str], longest: int, events: Events) -> list[str]:
    from tunesmith.models.generate import generate
    from tunesmith.models.sampling import GenerateSettings

    prompts = [asked.task.prompt(question(row, asked.system) if isinstance(row, str) else row) for row in rows]
    settings = GenerateSettings(longest, end_token_ids=tuple(sorted(asked.task.end_token_ids)))
    done = 0

    def count(progress: Progress) -> None:
        nonlocal done
        if progress.completion is not None:
            done += 1
            events.emit("progress", what="predict", done=done, total=len(prompts))

    found = generate(asked.loaded.model, asked.loaded.tokenizer, prompts, settings, on_token=count)
    return [each.text for each in found]
