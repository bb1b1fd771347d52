"""Records of Argilla 2: what `records.to_json` writes, and the flat form of `to_datasets` and of its hub exports.

Source: argilla.Record.to_dict and argilla.records._io (fields, responses by question with value and user_id,
suggestions by question with value, score and agent; flat: question.responses, .responses.users, .responses.status,
question.suggestion, .suggestion.score, .suggestion.agent).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tunesmith.data.annotations.items import (
    NAMED_FIELDS,
    Answer,
    AnswerKind,
    Item,
    Span,
    Suggestion,
    number_of,
    pair_of,
)
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.layouts import Row

_RESPONSES, _SUGGESTION = ".responses", ".suggestion"
_PARTS = {"value": "", "score": ".score", "agent": ".agent"}
_FINISHED = (None, "submitted")
_LONGEST_LABEL = 80
"""Characters: longer ones are words of one's own."""
_SENTENCE_ENDS = (".", "!", "?", "。", "！", "？", "…")


def is_record(row: Row) -> bool:
    """Whether a row is a record, with its fields apart or flat."""
    nested = isinstance(row.get("fields"), Mapping) and ("responses" in row or "suggestions" in row)
    return nested or any(name.endswith((_RESPONSES, _SUGGESTION)) for name in row)


def read_record(row: Row) -> Item:
    """A record. Drafts and discarded answers do not count. Raises RowDefect: bad_annotation."""
    nested = _nested(row) if "fields" not in row else row
    stated = _mapping(nested.get("fields"))
    fields = {name: value for name, value in stated.items() if value is not None}
    fields |= {name: row[name] for name in NAMED_FIELDS if name in row}
    votes: dict[str, dict[str, Answer]] = {}
    for question, responses in _mapping(nested.get("responses")).items():
        for each in map(_mapping, _list(responses)):
            if _plain(each.get("status")) in _FINISHED:
                votes.setdefault(question, {})[str(each.get("user_id"))] = _answer(each.get("value"), fields)
    suggestions = {
        question: Suggestion(_answer(each.get("value"), fields), _agent(each.get("agent")), _score(each.get("score")))
        for question, each in ((name, _mapping(value)) for name, value in _mapping(nested.get("suggestions")).items())
        if each.get("value") is not None
    }
    annotators = dict.fromkeys(name for said in votes.values() for name in said)
    return Item(str(row.get("id") or ""), fields, votes, suggestions, tuple(annotators))


def _nested(row: Row) -> Mapping[str, object]:
    """A flat record with its parts apart. Metadata stand among the fields there and cannot be told from them."""
    questions = [name.removesuffix(_RESPONSES) for name in row if name.endswith(_RESPONSES)]
    proposed = [name.removesuffix(_SUGGESTION) for name in row if name.endswith(_SUGGESTION)]
    parts = tuple(f"{name}." for name in (*questions, *proposed))
    fields = {
        name: value
        for name, value in row.items()
        if not name.startswith(parts) and name not in ("id", "status", "_server_id", "inserted_at", "updated_at")
    }
    responses = {name: _responses(row, name + _RESPONSES) for name in questions}
    suggestions = {
        name: {part: row.get(f"{name}{_SUGGESTION}{end}") for part, end in _PARTS.items()} for name in proposed
    }
    return {"fields": fields, "responses": responses, "suggestions": suggestions}


def _responses(row: Row, name: str) -> list[dict[str, object]]:
    values = _list(row.get(name))
    users, status = _list(row.get(f"{name}.users")), _list(row.get(f"{name}.status"))
    if len(users) != len(values) or len(status) not in (0, len(values)):
        raise RowDefect("bad_annotation")
    states = status or [None] * len(values)
    return [
        {"value": value, "user_id": user, "status": state}
        for value, user, state in zip(values, users, states, strict=True)
    ]


def _answer(value: object, fields: Mapping[str, object]) -> Answer:
    """What a value says; its form tells the kind of question. Fields in an order are a preference."""
    if isinstance(value, str):
        pair = pair_of(fields) or ()
        other = tuple(name for name in pair if name != value)
        return Answer("preferred", (value, *other)) if value in pair else _label_or_words(value)
    if isinstance(value, int | float):
        return Answer("rating", (f"{number_of(value):g}",))
    listed = _list(value)
    if listed and all(isinstance(each, Mapping) and "start" in each for each in listed):
        return Answer("spans", spans=tuple(_span(_mapping(each)) for each in listed))
    names = tuple(each.get("value") if isinstance(each, Mapping) else each for each in listed)
    if not all(isinstance(name, str) for name in names):
        raise RowDefect("bad_annotation")
    texts = tuple(map(str, names))
    kind: AnswerKind = "preferred" if len(texts) > 1 and set(texts) <= set(fields) else "classes"
    return Answer(kind, texts)


def _label_or_words(value: str) -> Answer:
    """A record does not say whether a label was chosen or words were written; labels are short and no sentences."""
    if not value.strip():
        return Answer("text")
    written = len(value) > _LONGEST_LABEL or "\n" in value or value.rstrip().endswith(_SENTENCE_ENDS)
    return Answer("text" if written else "classes", (value,))


def _span(value: Mapping[str, object]) -> Span:
    start, end, label = value.get("start"), value.get("end"), value.get("label")
    if not isinstance(start, int) or not isinstance(end, int) or not isinstance(label, str):
        raise RowDefect("bad_annotation")
    return Span(start, end, label)


def _mapping(value: object) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RowDefect("bad_annotation")
    return value


def _list(value: object) -> Sequence[object]:
    if value is None:
        return []
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowDefect("bad_annotation")
    return value


def _plain(value: object) -> object:
    return None if value in ("", "None") else value


def _agent(value: object) -> str:
    """One model, or one for each part of the answer."""
    return "" if value is None else value if isinstance(value, str) else ", ".join(map(str, _list(value)))


def _score(value: object) -> float | None:
    """A list has a score for each part of the answer, which stands for none of the whole."""
    return None if value is None or isinstance(value, list) else number_of(value)


def write_record(item: Item, several: Iterable[str] = ()) -> dict[str, object]:
    """An item as `rg.Record.from_dict` takes it. Raises RowDefect: several_texts where somebody wrote several.

    Args:
        several: questions that may have several classes; their answers are lists.
    """
    lists = frozenset(several)

    def value(question: str, answer: Answer) -> object:
        return _value(answer, item.fields, question in lists)

    return {
        "id": item.id or None,
        "fields": dict(item.fields),
        "metadata": {},
        "suggestions": {
            question: {"value": value(question, each.answer), "score": each.score, "agent": each.agent or None}
            for question, each in item.suggestions.items()
        },
        "responses": {
            question: [{"value": value(question, answer), "user_id": name} for name, answer in votes.items()]
            for question, votes in item.votes.items()
        },
        "vectors": {},
        "_server_id": None,
    }


def _value(answer: Answer, fields: Mapping[str, object], several: bool) -> object:
    if answer.kind == "spans":
        return [{"start": each.start, "end": each.end, "label": each.label} for each in answer.spans]
    if answer.kind == "rating":
        number = float(answer.names[0])
        return int(number) if number.is_integer() else number
    if answer.kind == "text":
        if len(answer.names) > 1:
            raise RowDefect("several_texts")
        return answer.names[0] if answer.names else ""
    if answer.kind == "preferred" and set(answer.names) == set(pair_of(fields) or ()):
        return answer.names[0]
    return answer.names[0] if answer.kind == "classes" and not several and answer.names else list(answer.names)
