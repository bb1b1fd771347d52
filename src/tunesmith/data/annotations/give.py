"""Rows given to people: items with what the rows say as suggestions, and files that Label Studio and Argilla import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from tunesmith.core.types import Example, Message
from tunesmith.data.annotations.argilla import write_record
from tunesmith.data.annotations.items import Answer, AnswerKind, Item, Span, Suggestion, of_one_kind, questions_of
from tunesmith.data.annotations.label_studio import write_task
from tunesmith.data.annotations.rows import Tool
from tunesmith.data.defects import RowDefect
from tunesmith.data.formats.labelled import OUTSIDE

QUESTION, PREFERENCE, CORRECTION = "label", "preference", "correction"
LEFT, RIGHT = "answer_a", "answer_b"
_LIKING = {True: "liked", False: "disliked"}
AGENT = "tunesmith"
_SINGLE = 1.5
"""Tokens of at most this mean length are characters of a text without blanks, such as Chinese."""


def item_of(example: Example) -> Item:
    """A row as an item without answers. What the row says is suggested, except which of two answers is better.

    Raises RowDefect: not_for_people for a kind that people are not asked about, or answers that are no plain texts.
    """
    name = f"{example.origin.source}:{example.origin.index}"
    if example.kind == "text_class":
        answer = Answer("classes", example.labels)
        return Item(name, {"text": example.text}, {}, {QUESTION: Suggestion(answer, AGENT)})
    if example.kind == "token_class":
        text, spans = _marked(example.tokens, example.labels)
        return Item(name, {"text": text}, {}, {QUESTION: Suggestion(Answer("spans", spans=spans), AGENT)})
    if example.kind == "text":
        return Item(name, {"text": example.text}, {})
    if example.kind == "chat" or example.kind == "kto":
        return _answered(example, name)
    if example.kind != "preference":
        raise RowDefect("not_for_people")
    answers = [_said(example.chosen), _said(example.rejected)]
    if hashlib.sha256(name.encode()).digest()[0] % 2:  # on no fixed side: who answers must not learn where the best is
        answers.reverse()
    return Item(name, {"prompt": _asked(example.messages), LEFT: answers[0], RIGHT: answers[1]}, {})


def _answered(example: Example, name: str) -> Item:
    """The last answer of a conversation: to be corrected, or to be liked or not."""
    asked, answer = example.messages[:-1], _said(example.messages[-1:])
    suggested = Answer("text", (answer,)) if example.label is None else Answer("classes", (_LIKING[example.label],))
    question = CORRECTION if example.label is None else QUESTION
    return Item(name, {"prompt": _asked(asked), "answer": answer}, {}, {question: Suggestion(suggested, AGENT)})


def _said(turns: Sequence[Message]) -> str:
    if len(turns) != 1 or turns[0].role != "assistant" or turns[0].tool_calls:
        raise RowDefect("not_for_people")
    return turns[0].content


def _asked(turns: Sequence[Message]) -> str | list[dict[str, str]]:
    """The question as text where there is one alone, else the conversation."""
    if any(turn.tool_calls for turn in turns):
        raise RowDefect("not_for_people")
    if len(turns) == 1:
        return turns[0].content
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _marked(tokens: Sequence[str], tags: Sequence[str]) -> tuple[str, tuple[Span, ...]]:
    """The text of tokens, and the places that their tags (BIO or BIOES) mark."""
    between = " " if sum(map(len, tokens)) > _SINGLE * len(tokens) else ""
    spans: list[Span] = []
    start, going_on = 0, False
    for token, tag in zip(tokens, tags, strict=True):
        prefix, _, label = tag.partition("-")
        end = start + len(token)
        if going_on and prefix in ("I", "E") and spans[-1].label == label:
            spans[-1] = Span(spans[-1].start, end, label)
        elif tag != OUTSIDE:
            spans.append(Span(start, end, label))
        going_on = tag != OUTSIDE and prefix not in ("E", "S")
        start = end + len(between)
    return between.join(tokens), tuple(spans)


@dataclass(frozen=True)
class Given:
    """What is written: the file, the labelling interface of Label Studio ("" for Argilla), and items left out."""

    content: str
    interface: str
    items: int
    left_out: int


def written(items: Sequence[Item], tool: Tool) -> Given:
    """Items in a tool's form, with everybody's answers and the suggestions."""
    items = of_one_kind(items)
    several = _several(items)
    made: list[dict[str, object]] = []
    for item in items:
        try:
            made.append(write_task(item) if tool == "label_studio" else write_record(item, several))
        except RowDefect:
            continue
    interface = _interface(items, several) if tool == "label_studio" else ""
    return Given(json.dumps(made, ensure_ascii=False, indent=1) + "\n", interface, len(made), len(items) - len(made))


def _all_answers(items: Iterable[Item], question: str) -> list[Answer]:
    return [
        answer
        for item in items
        for answer in (
            *item.votes.get(question, {}).values(),
            *(each.answer for name, each in item.suggestions.items() if name == question),
        )
    ]


def _several(items: Sequence[Item]) -> frozenset[str]:
    """Questions with several classes, or none, in some answer."""
    kinds = questions_of(items)
    asked = [name for name, kind in kinds.items() if kind == "classes"]
    return frozenset(name for name in asked if any(len(each.names) != 1 for each in _all_answers(items, name)))


def _interface(items: Sequence[Item], several: frozenset[str]) -> str:
    """A labelling interface that shows every field and asks every question; of unlabelled texts for no question."""
    fields = dict.fromkeys(name for item in items for name in item.fields)
    shown = [
        line for name in fields for line in _shown(name, [item.fields[name] for item in items if name in item.fields])
    ]
    asked = [
        line
        for question, kind in _asked_questions(items).items()
        for line in _control(question, kind, items, question in several)
    ]
    return "\n".join(["<View>", *(f"  {line}" for line in (*shown, *asked)), "</View>", ""])


def _asked_questions(items: Sequence[Item]) -> Mapping[str, AnswerKind]:
    """Questions of the items; which of two answers is better where they have two and nobody was asked yet."""
    found = questions_of(items)
    pairs = any(LEFT in item.fields and RIGHT in item.fields for item in items)
    return {PREFERENCE: "preferred"} if pairs and not found else found


def _shown(name: str, values: Sequence[object]) -> list[str]:
    """The tag that shows a field: a text, or a conversation. Anything else, such as a number, is not shown."""
    stands = f"name={quoteattr(name)} value={quoteattr('$' + name)}"
    if all(isinstance(each, str) for each in values):
        return [f"<Text {stands}/>"]
    turns = [turn for each in values if isinstance(each, list | tuple) for turn in each]
    if turns and all(isinstance(turn, Mapping) for turn in turns):
        return [f'<Paragraphs {stands} layout="dialogue" nameKey="role" textKey="content"/>']
    return []


def _judged_field(items: Sequence[Item]) -> str:
    """The field that answers are about, by the first item that has one."""
    for item in items:
        with suppress(RowDefect):
            return item.about()
    return "text"


def _control(question: str, kind: AnswerKind, items: Sequence[Item], several: bool) -> list[str]:
    answers, name = _all_answers(items, question), quoteattr(question)
    if kind == "preferred":
        pair = next((each.names for each in answers if each.names), (LEFT, RIGHT))
        return [f"<Pairwise name={name} toName={quoteattr(','.join(sorted(pair)))}/>"]
    about = quoteattr(_judged_field(items))
    if kind == "text":
        most = max((len(each.names) for each in answers), default=1)
        return [f'<TextArea name={name} toName={about} rows="6" editable="true" maxSubmissions="{max(most, 1)}"/>']
    if kind == "rating":
        most = max((int(float(each.names[0])) for each in answers if each.names), default=5)
        return [f'<Rating name={name} toName={about} maxRating="{max(most, 5)}"/>']
    tag, inner = ("Labels", "Label") if kind == "spans" else ("Choices", "Choice")
    values = dict.fromkeys(label for each in answers for label in (*each.names, *(span.label for span in each.spans)))
    choice = f' choice="{"multiple" if several else "single"}"' if kind == "classes" else ""
    inside = [f"  <{inner} value={quoteattr(value)}/>" for value in sorted(values)]
    return [f"<{tag} name={name} toName={about}{choice}>", *inside, f"</{tag}>"]
