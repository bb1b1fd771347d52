"""A table of answers, one a row: who said which label of which item. The plainest form that agreement is told of."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.data.annotations.items import Answer, Item
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.labelled import LABELS, TEXTS, label_name
from tunesmith.data.formats.layouts import Row, first_of

_WHO = ("annotator", "rater", "coder", "worker", "user_id", "user")
_WHAT = ("item", "item_id", "task", "task_id", "id", *TEXTS)


def is_answer(row: Row) -> bool:
    """Whether a row says who gave which label to what."""
    return all(first_of(row, names) is not None for names in (_WHO, _WHAT, LABELS))


def items_of_answers(rows: Sequence[Row]) -> list[Item]:
    """The items of a table, each with everybody's answer; cells that are empty are gaps.

    Labels that are all numbers stay names: a table does not say that they are ratings.
    """
    votes: dict[str, dict[str, Answer]] = {}
    question = ""
    for row in rows:
        who, what, label = (first_of(row, names) for names in (_WHO, _WHAT, LABELS))
        if who is None or what is None or label is None:
            continue
        question = question or label
        try:
            name = label_name(row[label])
        except RowDefect:
            continue
        votes.setdefault(str(row[what]), {})[str(row[who])] = Answer("classes", (name,))
    return [Item(item, {}, {question: said}, annotators=tuple(said)) for item, said in votes.items()]
