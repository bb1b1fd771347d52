"""Tasks of Label Studio: its JSON with choices, labels of places, ratings, votes between two texts, and own words.

Source: "Label Studio JSON format of annotated tasks" (labelstud.io/guide/task_format) and the tags Choices, Labels,
Rating, Number, Pairwise and TextArea.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tunesmith.data.annotations.items import NAMED_FIELDS, Answer, Item, Span, Suggestion, number_of, pair_of
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.layouts import Row

_ANNOTATOR = "annotator"
"""Where a name stands that is neither the number nor the mail of an account there; Label Studio passes it over."""


def is_task(row: Row) -> bool:
    """Whether a row is a task, with what was said of it."""
    said = (row.get("annotations"), row.get("predictions"))
    return isinstance(row.get("data"), Mapping) and any(isinstance(each, list | tuple) for each in said)


def read_task(row: Row) -> Item:
    """A task. Annotations that were skipped do not count; where one is marked as the truth, only such do.

    Raises RowDefect: bad_annotation.
    """
    data = row.get("data")
    if not isinstance(data, Mapping):
        raise RowDefect("missing_columns")
    fields = {str(name): value for name, value in data.items()} | {
        name: row[name] for name in NAMED_FIELDS if name in row
    }
    done = [each for each in _objects(row.get("annotations")) if not each.get("was_cancelled")]
    done = [each for each in done if each.get("ground_truth")] or done
    votes: dict[str, dict[str, Answer]] = {}
    annotators: list[str] = []
    for place, annotation in enumerate(done):
        name = _name(annotation, place)
        annotators.append(name)
        for question, answer in _answers(annotation.get("result"), fields).items():
            votes.setdefault(question, {})[name] = answer
    suggestions = {
        question: Suggestion(answer, str(each.get("model_version") or ""), _score(each.get("score")))
        for each in _predictions(row)
        for question, answer in _answers(each.get("result"), fields).items()
    }
    return Item(_id(row), fields, votes, suggestions, tuple(dict.fromkeys(annotators)))


def _predictions(row: Row) -> list[Mapping[str, object]]:
    """What models proposed. A server's export has their numbers alone, and them whole in annotations made from them."""
    stated = row.get("predictions")
    if not isinstance(stated, list | tuple) or not any(isinstance(each, int) for each in stated):
        return _objects(stated)
    begun = [each.get("prediction") for each in _objects(row.get("annotations"))]
    return [each for each in begun if isinstance(each, Mapping) and each.get("result")]


def _id(row: Row) -> str:
    """The name that a row was given to people by; else the number that the server counts it by."""
    meta = row.get("meta")
    named = meta.get("id") if isinstance(meta, Mapping) else None
    stated = row.get("id") if named is None else named
    return "" if stated is None else str(stated)


def _objects(value: object) -> list[Mapping[str, object]]:
    if value is None:
        return []
    if not isinstance(value, Sequence) or not all(isinstance(each, Mapping) for each in value):
        raise RowDefect("bad_annotation")
    return list(value)


def _name(annotation: Mapping[str, object], place: int) -> str:
    """Who it was: an account by its number (an export may add names and mail), else the annotation's place."""
    who = annotation.get("completed_by")
    if isinstance(who, Mapping):
        who = who.get("id", who.get("email"))
    if who is None:
        who = annotation.get(_ANNOTATOR, f"#{place + 1}")
    return str(who)


def _score(value: object) -> float | None:
    return None if value is None else number_of(value)


def _answers(results: object, fields: Mapping[str, object]) -> dict[str, Answer]:
    """Answers by question. Marks in pictures, sounds and relations are of no kind that is read, and passed over."""
    found: dict[str, Answer] = {}
    for result in _objects(results):
        read, value, question = _READERS.get(str(result.get("type"))), result.get("value"), result.get("from_name")
        if read is None:
            continue
        if not isinstance(value, Mapping) or not isinstance(question, str):
            raise RowDefect("bad_annotation")
        answer = read(value, fields)
        if answer is not None:
            before = found.get(question, Answer(answer.kind))
            found[question] = Answer(answer.kind, before.names + answer.names, before.spans + answer.spans)
    return found


_Reader = Callable[[Mapping[str, object], Mapping[str, object]], Answer | None]


def _choices(value: Mapping[str, object], fields: Mapping[str, object]) -> Answer | None:
    if "start" in value:  # said of a place in the text, not of the whole
        return None
    return Answer("classes", _texts(value.get("choices")))


def _rating(value: Mapping[str, object], fields: Mapping[str, object]) -> Answer:
    return Answer("rating", (f"{number_of(value.get('rating', value.get('number'))):g}",))


def _labels(value: Mapping[str, object], fields: Mapping[str, object]) -> Answer:
    """A place counts characters; older versions counted UTF-16 units, which the stated text gives away."""
    start, end, said = value.get("start"), value.get("end"), value.get("text")
    if not isinstance(start, int) or not isinstance(end, int):
        raise RowDefect("bad_annotation")  # a place in HTML, told by a path
    if isinstance(said, str):
        start, end = _by_characters(said, start, end, [text for text in fields.values() if isinstance(text, str)])
    return Answer("spans", spans=tuple(Span(start, end, label) for label in _texts(value.get("labels"))))


def _by_characters(said: str, start: int, end: int, texts: Sequence[str]) -> tuple[int, int]:
    if any(text[start:end] == said for text in texts):
        return start, end
    for text in texts:
        units = text.encode("utf-16-le", "surrogatepass")
        if units[2 * start : 2 * end].decode("utf-16-le", "replace") == said:
            first = len(units[: 2 * start].decode("utf-16-le", "replace"))
            return first, first + len(said)
    raise RowDefect("bad_annotation")


def _pairwise(value: Mapping[str, object], fields: Mapping[str, object]) -> Answer:
    """Left or right of two fields; the export does not say of which, so their names must."""
    pair = ("left", "right") if {"left", "right"} <= set(fields) else pair_of(fields)
    selected = value.get("selected")
    if pair is None or selected not in ("left", "right"):
        raise RowDefect("bad_annotation")
    return Answer("preferred", pair if selected == "left" else pair[::-1])


def _words(value: Mapping[str, object], fields: Mapping[str, object]) -> Answer | None:
    if "start" in value:  # about a place in the text
        return None
    said = value.get("text")
    texts = (said,) if isinstance(said, str) else _texts(said)
    return Answer("text", tuple(text for text in texts if text.strip()))


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(each, str) for each in value):
        raise RowDefect("bad_annotation")
    return tuple(value)


_READERS: Mapping[str, _Reader] = {
    "choices": _choices,
    "rating": _rating,
    "number": _rating,
    "labels": _labels,
    "pairwise": _pairwise,
    "textarea": _words,
}


def write_task(item: Item) -> dict[str, object]:
    """An item as a task to import. Raises RowDefect: no_two_answers for an order of more than two fields."""
    stated: dict[str, object] = {"id": int(item.id)} if item.id.isdecimal() else {"meta": {"id": item.id}}
    voters = dict.fromkeys((*item.annotators, *(name for votes in item.votes.values() for name in votes)))
    annotations = [
        {**_who(name), "was_cancelled": False, "ground_truth": False, "result": _results(item, _answers_of(item, name))}
        for name in voters
    ]
    predictions = [
        {
            "model_version": each.agent or "-",
            **({} if each.score is None else {"score": each.score}),
            "result": _results(item, [(question, each.answer)]),
        }
        for question, each in item.suggestions.items()
    ]
    return {**stated, "data": dict(item.fields), "annotations": annotations, "predictions": predictions}


def _who(name: str) -> dict[str, object]:
    if name.isdecimal():
        return {"completed_by": int(name)}
    return {"completed_by": {"email": name}} if "@" in name else {_ANNOTATOR: name}


def _answers_of(item: Item, annotator: str) -> list[tuple[str, Answer]]:
    return [(question, votes[annotator]) for question, votes in item.votes.items() if annotator in votes]


def _results(item: Item, answers: Iterable[tuple[str, Answer]]) -> list[dict[str, object]]:
    return [
        {"id": f"{question}-{place}", "from_name": question, "origin": "manual", **result}
        for question, answer in answers
        for place, result in enumerate(_results_of(item, question, answer))
    ]


def _results_of(item: Item, question: str, answer: Answer) -> list[dict[str, object]]:
    if answer.kind == "preferred":
        pair = ("left", "right") if {"left", "right"} <= set(item.fields) else pair_of(item.fields)
        if pair is None or set(answer.names) != set(pair):
            raise RowDefect("no_two_answers")
        side = "left" if answer.names == pair else "right"
        return [{"to_name": question, "type": "pairwise", "value": {"selected": side}}]
    if answer.kind == "spans":
        name, text = item.text()
        return [{"to_name": name, "type": "labels", "value": _place(each, text)} for each in answer.spans]
    name = item.about()
    if answer.kind == "text":
        return [{"to_name": name, "type": "textarea", "value": {"text": list(answer.names)}}] if answer.names else []
    if answer.kind == "rating":
        number = float(answer.names[0])
        stars = int(number) if number.is_integer() else number
        return [{"to_name": name, "type": "rating", "value": {"rating": stars}}]
    return [{"to_name": name, "type": "choices", "value": {"choices": list(answer.names)}}] if answer.names else []


def _place(span: Span, text: str) -> dict[str, object]:
    covered = text[span.start : span.end]
    return {"start": span.start, "end": span.end, "text": covered, "labels": [span.label]}
