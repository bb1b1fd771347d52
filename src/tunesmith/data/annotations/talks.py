"""Conversations out of what people said: an answer in their own words to learn, and an answer that they like or not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tunesmith.data.annotations.items import Answer, Item
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.layouts import ANSWERS, QUERIES, Record, Row, first_of, read_prompt_completion
from tunesmith.data.formats.pairs import read_kto
from tunesmith.data.formats.turns import TurnKeys

_PROMPTS = ("prompt", *QUERIES, "messages", "chat", "conversation", "context")
_LIKED = (
    "👍 up thumbs_up thumbsup upvote like liked good yes true 1 helpful accept 赞 点赞 好 喜欢 满意 有用 是".split()
)
_DISLIKED = (
    "👎 down thumbs_down thumbsdown downvote dislike disliked bad no false 0 unhelpful reject"
    " 踩 点踩 不好 不喜欢 不满意 没用 否"
).split()
_THUMBS: Mapping[str, bool] = {**dict.fromkeys(_LIKED, True), **dict.fromkeys(_DISLIKED, False)}
"""Choices that say whether an answer is liked, in small letters with blanks and hyphens as underscores."""


def asked_of(item: Item, answers: Collection[str] = ()) -> Row:
    """What was asked, as `prompt`, and the system prompt where there is one.

    It is the field of a usual name, or the only one besides the `answers`. Raises RowDefect: missing_columns.
    """
    others = {name: value for name, value in item.fields.items() if name not in answers and name != "system"}
    asked = first_of(others, _PROMPTS) or (next(iter(others)) if len(others) == 1 else None)
    if asked is None:
        raise RowDefect("missing_columns")
    return {"prompt": others[asked], **{name: item.fields[name] for name in ("system",) if name in item.fields}}


def taught(item: Item, answer: Answer, keys: TurnKeys) -> Record:
    """A chat with the words that somebody wrote as its answer.

    Raises RowDefect: not_annotated, several_texts, those of the reader.
    """
    if not answer.names:
        raise RowDefect("not_annotated")
    if len(answer.names) > 1:
        raise RowDefect("several_texts")
    return read_prompt_completion({**asked_of(item, ANSWERS), "completion": answer.names[0]}, keys)


def liked(item: Item, answer: Answer, keys: TurnKeys) -> Record:
    """The answer that people were shown, and whether they like it. A conversation may hold both, question and answer.

    Raises RowDefect: bad_label, missing_columns, those of the reader.
    """
    label = _THUMBS.get(_plain(answer.names[0])) if len(answer.names) == 1 else None
    if label is None:
        raise RowDefect("bad_label")
    shown = first_of(item.fields, ANSWERS)
    if shown is not None:
        return read_kto({**asked_of(item, ANSWERS), "completion": item.fields[shown], "label": label}, keys)
    asked = asked_of(item)
    if isinstance(asked["prompt"], str):
        raise RowDefect("missing_columns")
    return read_kto({"messages": asked["prompt"], **asked, "label": label}, keys)


def is_about_liking(items: Sequence[Item], question: str) -> bool:
    """Whether every answer to a question is one of the words for yes or for no; nothing but 1 may be stars of five."""
    names = {name for item in items for answer in item.votes.get(question, {}).values() for name in answer.names}
    return bool(names) and names != {"1"} and all(_plain(name) in _THUMBS for name in names)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")
