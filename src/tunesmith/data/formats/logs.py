"""Rows that a service left behind: requests with their responses in OpenAI's form, and what people said of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunesmith.core.types import Message, RowKind
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.layouts import Converter, Record, Row, chat_record
from tunesmith.data.formats.turns import TurnKeys, check_answer, check_prompt, from_text, read_tools, read_turns
from tunesmith.data.formats.words import says_yes

_SUCCESS = range(200, 300)
_CUT_SHORT = frozenset({"length", "content_filter"})


def is_request_log(row: Row) -> bool:
    """Whether a row is a request and its response, apart or in one."""
    return ("request" in row and "response" in row) or ("messages" in row and "choices" in row)


def is_feedback(row: Row) -> bool:
    """Whether a row is what our own service keeps of a person's word on an answer."""
    return {"kind", "messages", "answer", "consent"} <= set(row)


def read_request_log(row: Row, keys: TurnKeys) -> Record:
    """What was asked, and the first choice of the response as the answer.

    Both may be wrapped in a `body`, as in files of the Batch API. Raises RowDefect: request_failed for an error or a
    status that is no success, answer_not_whole where the answer was cut or filtered.
    """
    apart = "request" in row
    asked = _body(row["request"]) if apart else row
    response = _body(row["response"]) if apart else row
    choices = from_text(response.get("choices"))
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise RowDefect("no_assistant")
    choice = choices[0]
    answer = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(answer, Mapping):
        raise RowDefect("no_assistant")
    if choice.get("finish_reason") in _CUT_SHORT:
        raise RowDefect("answer_not_whole")
    turns = (*read_turns(asked.get("messages"), keys), *read_turns([answer], keys))
    return chat_record(turns, read_tools(asked.get("tools") or asked.get("functions")))


def _body(value: object) -> Row:
    """A request or response, taken out of what it was sent in. Raises RowDefect."""
    found = from_text(value)
    if not isinstance(found, Mapping):
        raise RowDefect("no_messages")
    status = found.get("status_code")
    if found.get("error") or (isinstance(status, int) and status not in _SUCCESS):
        raise RowDefect("request_failed")
    return _body(found["body"]) if "body" in found else found


def _liked(row: Row, keys: TurnKeys) -> Record:
    """An answer that was liked, or what it was corrected to."""
    kind = _kind(row)
    if kind not in ("like", "correction"):
        raise RowDefect("other_feedback")
    answer = _answer(row, "answer" if kind == "like" else "corrected")
    return chat_record((*read_turns(row.get("messages"), keys), answer))


def _preferred(row: Row, keys: TurnKeys) -> Record:
    """A correction before the answer that needed it, or the answer that was chosen before the other."""
    kind = _kind(row)
    if kind not in ("choice", "correction"):
        raise RowDefect("other_feedback")
    names = ("answer", "rejected") if kind == "choice" else ("corrected", "answer")
    prompt = read_turns(row.get("messages"), keys)
    check_prompt(prompt)
    chosen, rejected = (_answer(row, name) for name in names)
    for answer in (chosen, rejected):
        check_answer((answer,))
        check_prompt((*prompt, answer))
    if chosen == rejected:
        raise RowDefect("same_answers")
    return Record("preference", prompt, chosen=(chosen,), rejected=(rejected,))


def _judged(row: Row, keys: TurnKeys) -> Record:
    kind = _kind(row)
    if kind not in ("like", "dislike"):
        raise RowDefect("other_feedback")
    messages = (*read_turns(row.get("messages"), keys), _answer(row, "answer"))
    check_prompt(messages)
    check_answer(messages)
    return Record("kto", messages, label=kind == "like")


def _kind(row: Row) -> object:
    """Raises RowDefect where the person did not agree that anything is learned from it."""
    if not {"kind", "messages", "answer"} <= set(row):
        raise RowDefect("missing_columns")
    if not says_yes(row.get("consent")):
        raise RowDefect("no_consent")
    return row["kind"]


def _answer(row: Row, name: str) -> Message:
    said = row.get(name)
    if not isinstance(said, str) or not said.strip():
        raise RowDefect("empty_answer")
    return Message("assistant", said)


FEEDBACK_READERS: Mapping[RowKind, Converter] = {"chat": _liked, "preference": _preferred, "kto": _judged}
"""What each kind of row takes out of feedback; the rest is dropped as other feedback."""
