"""Rows of a file to a model that gives classes: each comes back with its label, labels or tags and how probable they
are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.adapt.files import stands_beside_a_base
from tunesmith.cli.manner import tell
from tunesmith.cli.terminal import Terminal
from tunesmith.cli.work import ready
from tunesmith.core.errors import TunesmithError
from tunesmith.core.events import Events
from tunesmith.core.files import MANIFEST, verify_folder
from tunesmith.core.types import Message
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.labelled import TEXTS, TOKENS, tokens_of, word_places
from tunesmith.data.formats.layouts import first_of
from tunesmith.messages import say
from tunesmith.models.head_kind import head_kind
from tunesmith.models.texts import TOKENIZER

if TYPE_CHECKING:
    from tunesmith.models.heads import Head
    from tunesmith.models.load import Loaded
    from tunesmith.tasks.classes import Judged

Row = Mapping[str, object]
PROMPT_COLUMNS = ("prompt", "question", "query", "instruction", "message", "text", "input", "问题", "提问", "文本")
_TEXT_COLUMNS = tuple(dict.fromkeys([*TEXTS, *PROMPT_COLUMNS]))
_LONGEST = 1 << 30


def classes_of_rows(
    folder: Path, rows: Sequence[Row], column: str | None, path: str, base: str | None = None
) -> list[dict[str, object]]:
    """The rows with `answer` and `score`: a label and its probability, or lists of them; tokens where they are tagged.

    Args:
        folder: a model with a head, as it was published.
        column: the column that holds what is asked; None looks for one.
        path: the file of the rows, for errors.
        base: where the base of a change is found that was published beside it.

    Errors: cli.predict_no_question, cli.predict_tokens, models.no_head, and those of loading.
    """
    by_token = head_kind(folder) == "token_class"
    asked = [_asked(row, number, column, path, by_token) for number, row in enumerate(rows, 1)]
    judged, several = _judge(folder, base, asked)
    found: list[dict[str, object]] = []
    for row, question, one in zip(rows, asked, judged, strict=True):
        scores = [None if each is None else round(each, 4) for each in one.probabilities]
        listed = by_token or several
        tokens = {"tokens": list(question[1])} if by_token else {}
        answer: object = list(one.labels) if listed else one.labels[0]
        found.append({**row, **tokens, "answer": answer, "score": scores if listed else scores[0]})
    return found


def _asked(row: Row, number: int, column: str | None, path: str, by_token: bool) -> tuple[str, tuple[str, ...]]:
    """The text of a row, and its tokens where those are asked: its words, if only a text is there.

    Errors: cli.predict_no_question, cli.predict_tokens.
    """
    columns = [column] if column else [*_TEXT_COLUMNS]
    texts = (row.get(name) for name in columns)
    text = next((each for each in texts if isinstance(each, str) and each.strip()), "")
    if not by_token:
        if not text:
            raise TunesmithError("cli.predict_no_question", path=path, row=number, columns=", ".join(columns))
        return text, ()
    tokens = _stated_tokens(row, column) or tuple(text[first:last] for first, last in word_places(text))
    if not tokens:
        listed = ", ".join([column] if column else TOKENS)
        raise TunesmithError("cli.predict_tokens", path=path, row=number, columns=", ".join(columns), tokens=listed)
    return " ".join(tokens), tokens


def _stated_tokens(row: Row, column: str | None) -> tuple[str, ...]:
    """The tokens that a row has by itself: a list, or a column of tokens in whatever form training reads."""
    named = column or first_of(row, TOKENS)
    value = row.get(named or "")
    if value is None or not (isinstance(value, list) or named in TOKENS):
        return ()
    try:
        return tokens_of(value)
    except RowDefect:
        return ()


def _judge(folder: Path, base: str | None, asked: Sequence[tuple[str, tuple[str, ...]]]) -> tuple[list[Judged], bool]:
    """What the model says of each, and whether a text may have several labels."""
    facts = verify_folder(folder) if (folder / MANIFEST).is_file() else {}
    ready()
    tell(say("cli.loading"), "dim")
    from tunesmith.evaluate.answers import Question
    from tunesmith.evaluate.labels import label_scores
    from tunesmith.models.heads import ClassPolicy, stated_head
    from tunesmith.tasks.registry import class_task_of

    head = stated_head(folder)
    if head is None:
        raise TunesmithError("models.no_head", path=str(folder))
    loaded, model = _load(folder, base, head)
    texts = folder if (folder / TOKENIZER).is_file() else model
    longest = facts.get("max_length")
    task = class_task_of(texts, head, longest if isinstance(longest, int) else _LONGEST, model)
    questions = [Question(row, (Message("user", text),), "", "", tokens) for row, (text, tokens) in enumerate(asked)]
    with Terminal() as listener:
        scores = label_scores(
            ClassPolicy(loaded.model, head.several).eval(), task, questions, Events(None, (listener,)), label="predict"
        )
    cut = sum(task.is_cut(each) for each in questions)
    if cut:
        tell(say("cli.predict_cut", rows=cut, tokens=task.max_length), "yellow")
    return [task.judge(part, question) for part, question in zip(scores, questions, strict=True)], head.several


def _load(folder: Path, base: str | None, head: Head) -> tuple[Loaded, Path]:
    """The model in memory, and the folder that states its positions."""
    import torch

    from tunesmith.adapt.published import load_published
    from tunesmith.models.load import load_with_head

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if stands_beside_a_base(folder):
        loaded, found = load_published(folder, base=base, dtype=torch.float32, device=device, head=head)
        return loaded, found.path
    return load_with_head(folder, head, dtype=torch.float32, device=device), folder
