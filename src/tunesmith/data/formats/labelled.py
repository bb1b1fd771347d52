"""Rows with classes: a text and its label or labels, tokens and the tag of each, a text and the entities in it.

Tags are BIO or BIOES (`B-person`, `I-person`, `O`). Entities given as places in a text become BIO tags of its words;
scripts that are written without blanks have one word a character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from tunesmith.data.defects import Reason, RowDefect
from tunesmith.data.formats.layouts import Converter, Record, Row, first_of
from tunesmith.data.formats.turns import TurnKeys, from_text

TEXTS = ("text", "sentence", "content", "question", "query", "utterance", "review", "title", "文本", "内容")
LABELS = (
    "label",
    "labels",
    "category",
    "intent",
    "class",
    "topic",
    "sentiment",
    "label_text",
    "target",
    "标签",
    "类别",
    "意图",
)
TOKENS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels", "bio")
ENTITIES = ("entities", "spans", "label")
_LABEL_KEYS = ("label", "type", "tag", "entity_group")

OUTSIDE = "O"
_TAG = re.compile(r"O|[BIES]-\S+")
_WORD = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\u0e00-\u0eff]|[^\W_]+|[^\w\s]|_")
"""A character of a script without blanks, a run of letters and digits, or one sign."""


def is_text_class(row: Row) -> bool:
    """Whether a row has a text and a label."""
    return first_of(row, TEXTS) is not None and first_of(row, LABELS) is not None


def is_token_class(row: Row) -> bool:
    """Whether a row has tokens and tags, or a text and entities."""
    tagged = first_of(row, TOKENS) is not None and first_of(row, TAGS) is not None
    return tagged or (first_of(row, TEXTS) is not None and first_of(row, ENTITIES) is not None)


def read_text_class(row: Row, _keys: TurnKeys) -> Record:
    """A text and its labels; numbers and truth values become their words. Raises RowDefect."""
    named = first_of(row, LABELS)
    if named is None:
        raise RowDefect("missing_columns")
    stated = from_text(row[named]) if isinstance(row[named], str) and str(row[named])[:1] == "[" else row[named]
    listed = stated if isinstance(stated, list | tuple) else [stated]
    return Record("text_class", text=_text(row), labels=tuple(dict.fromkeys(label_name(each) for each in listed)))


def read_unlabelled_text(row: Row, _keys: TurnKeys) -> Record:
    """A text without its labels, should it have any. Raises RowDefect."""
    return Record("text_class", text=_text(row))


def read_unlabelled_tokens(row: Row, _keys: TurnKeys) -> Record:
    """Tokens without their tags, or the words of a text. Raises RowDefect."""
    named = first_of(row, TOKENS)
    if named is not None:
        return Record("token_class", tokens=tokens_of(row[named]))
    text = _text(row)
    return Record("token_class", tokens=tuple(text[first:last] for first, last in word_places(text)))


def _text(row: Row) -> str:
    named = first_of(row, TEXTS)
    if named is None:
        raise RowDefect("missing_columns")
    text = row[named]
    if not isinstance(text, str):
        raise RowDefect("content_not_text")
    if not text.strip():
        raise RowDefect("empty_text")
    return text


def label_name(value: object) -> str:
    """A label as text: whole numbers without a point. Raises RowDefect where it is none, or empty."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int):
        raise RowDefect("bad_labels" if value is not None else "empty_label")
    name = str(value).strip()
    if not name:
        raise RowDefect("empty_label")
    return name


def read_token_class(row: Row, _keys: TurnKeys) -> Record:
    """Tokens with a tag each, or a text with the places of its entities. Raises RowDefect."""
    named = first_of(row, TOKENS)
    if named is None:
        return _from_entities(row)
    tokens = tokens_of(row[named])
    stated = first_of(row, TAGS)
    if stated is None:
        raise RowDefect("missing_columns")
    tags = _words(row[stated], "bad_tags")
    if len(tags) != len(tokens) or not all(_TAG.fullmatch(tag) for tag in tags):
        raise RowDefect("bad_tags")
    return Record("token_class", tokens=tokens, labels=tags)


def tokens_of(value: object) -> tuple[str, ...]:
    """A list of tokens, or tokens with blanks between. Raises RowDefect."""
    return _words(value, "bad_tokens")


def word_places(text: str) -> list[tuple[int, int]]:
    """(first, end) of every word of a text: its tokens, where it comes without."""
    return [match.span() for match in _WORD.finditer(text)]


def _words(value: object, otherwise: Reason) -> tuple[str, ...]:
    """A list of texts, or texts with blanks between."""
    listed = from_text(value)
    words = listed.split() if isinstance(listed, str) else listed
    if not isinstance(words, Sequence) or not words or not all(isinstance(each, str) and each for each in words):
        raise RowDefect(otherwise)
    return tuple(words)


def _from_entities(row: Row) -> Record:
    text, named = _text(row), first_of(row, ENTITIES)
    if named is None:
        raise RowDefect("missing_columns")
    found = word_places(text)
    tags = [OUTSIDE] * len(found)
    for first, last, label in sorted(_places(from_text(row[named]), len(text))):
        inside = [place for place, (begin, end) in enumerate(found) if begin < last and end > first]
        if not inside or found[inside[0]][0] < first or found[inside[-1]][1] > last:
            raise RowDefect("entity_inside_word")
        if any(tags[place] != OUTSIDE for place in inside):
            raise RowDefect("bad_entities")  # one token has one tag
        for place in inside:
            tags[place] = f"{'B' if place == inside[0] else 'I'}-{label}"
    return Record("token_class", tokens=tuple(text[first:last] for first, last in found), labels=tuple(tags))


def _places(value: object, length: int) -> Iterable[tuple[int, int, str]]:
    """(first, end, label) of every entity, from objects with start, end and label, or lists in that order."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowDefect("bad_entities")
    for each in value:
        if isinstance(each, Mapping):
            named = first_of(each, _LABEL_KEYS)
            parts: Sequence[object] = [each.get("start"), each.get("end"), each[named] if named else None]
        elif isinstance(each, Sequence) and len(each) == 3 and not isinstance(each, str):
            parts = each
        else:
            raise RowDefect("bad_entities")
        first, last, label = parts
        if not (isinstance(first, int) and isinstance(last, int) and isinstance(label, str) and label.strip()):
            raise RowDefect("bad_entities")
        if not 0 <= first < last <= length:
            raise RowDefect("bad_entities")
        yield first, last, "_".join(label.split())


LABELLED_READERS: Mapping[str, Converter] = {"text_class": read_text_class, "token_class": read_token_class}
UNLABELLED_READERS: Mapping[str, Converter] = {
    "text_class": read_unlabelled_text,
    "token_class": read_unlabelled_tokens,
}
