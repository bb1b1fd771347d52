"""Sample rows for a first run: a customer's message in, a small JSON object of a stated schema out.

The same messages serve tasks with classes: what is wanted is the label of a text, product and order are its entities.

A message is put together from phrases (`phrases.toml`): opener, body, order, urgency, callback, closing. Every
phrase belongs to one split, so that validation and test measure unseen wording and not memory. The label follows
from the phrases chosen, so it is right by construction. Everything is drawn from a seed and a row's number: more
rows never change the earlier ones.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tunesmith.core.files import write_atomic
from tunesmith.core.seed import derive_seed
from tunesmith.core.types import SPLITS, SplitName
from tunesmith.data.samples.slips import scuff

Style = Literal["letter", "chat"]
SampleTask = Literal["chat", "text_class", "token_class"]
Urgency = Literal["low", "normal", "high"]
INTENTS = ("refund", "exchange", "delivery", "defect", "cancel", "billing", "account", "question")
PRODUCTS = (
    "kettle", "headset", "vacuum", "coffee machine", "lamp", "printer", "fan", "router",
    "keyboard", "watch", "toaster", "blender", "camera", "tablet", "speaker", "monitor",
)  # fmt: skip

SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "intent": {"type": "string", "enum": list(INTENTS)},
        "product": {"type": ["string", "null"], "enum": [*PRODUCTS, None]},
        "urgency": {"type": "string", "enum": ["low", "normal", "high"]},
        "order": {"type": ["string", "null"], "pattern": "^[A-H]-[0-9]{5}$"},
        "callback": {"type": "boolean"},
    },
    "required": ["intent", "product", "urgency", "order", "callback"],
    "additionalProperties": False,
}
"""What every answer must satisfy (JSON Schema, draft 2020-12)."""

SYSTEM_PROMPT = (
    "Turn the customer's message into JSON with the keys intent "
    f"({'|'.join(INTENTS)}), product (or null), urgency (low|normal|high), order (A-12345 or null), "
    "callback (true if a call is wanted)."
)

_ORDER_SHARE = {"question": 0.1, "account": 0.15}
_USUAL_ORDER_SHARE = 0.7
_CHAT_SHARE = 0.4
_ATTEMPTS = 50


@dataclass(frozen=True)
class Ticket:
    """One message with its label and the phrases it was put together from (`section/style/split/number`)."""

    message: str
    intent: str
    product: str | None
    named: str
    """The product in the customer's words, before any slip of the hand; empty without a product."""
    urgency: Urgency
    order: str | None
    callback: bool
    phrases: tuple[str, ...]

    @property
    def template(self) -> str:
        """The phrase of the body: what rows have in common that must not part."""
        return self.phrases[0]

    @property
    def answer(self) -> str:
        """The label as compact JSON with a fixed order of keys."""
        label = {
            "intent": self.intent,
            "product": self.product,
            "urgency": self.urgency,
            "order": self.order,
            "callback": self.callback,
        }
        return json.dumps(label, separators=(",", ":"))

    @property
    def entities(self) -> list[dict[str, object]] | None:
        """Places of product and order in the message; none where a slip of the hand has changed a name."""
        found: list[dict[str, object]] = []
        for label, name in (("product", self.named), ("order", self.order)):
            places = list(re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", self.message, re.I)) if name else []
            if name and len(places) != 1:
                return None
            found += [{"start": place.start(), "end": place.end(), "label": label} for place in places]
        return found

    def row(self, task: SampleTask = "chat") -> dict[str, object]:
        """The ticket as a row of a task: in the OpenAI messages layout, with its intent, or with its entities."""
        if task == "text_class":
            return {"text": self.message, "label": self.intent, "template": self.template}
        if task == "token_class":
            return {"text": self.message, "entities": self.entities, "template": self.template}
        turns = (("system", SYSTEM_PROMPT), ("user", self.message), ("assistant", self.answer))
        messages = [{"role": role, "content": content} for role, content in turns]
        return {"messages": messages, "template": self.template}


@dataclass(frozen=True)
class _Phrases:
    when: list[str]
    days: list[str]
    names: list[str]
    emoji: list[str]
    products: dict[str, list[str]]
    by_section: dict[str, dict[str, list[str]]]
    """`bodies/refund/letter` -> split -> phrases."""


@lru_cache
def _phrases() -> _Phrases:
    book = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text("utf-8"))
    sections = {
        f"bodies/{intent}/{style}": by_split
        for intent, styles in book["bodies"].items()
        for style, by_split in styles.items()
    }
    for part in ("openers", "orders", "urgency", "callback", "closings"):
        sections |= {f"{part}/{name}": by_split for name, by_split in book[part].items()}
    return _Phrases(book["when"], book["days"], book["names"], book["emoji"], book["products"], sections)


def phrase_texts(split: SplitName) -> dict[str, str]:
    """Every phrase of a split by its identifier."""
    return {
        f"{section}/{split}/{number}": text
        for section, by_split in _phrases().by_section.items()
        for number, text in enumerate(by_split[split])
    }


class _Writer:
    """Puts one ticket together; `phrases` collects what was used."""

    def __init__(self, split: SplitName, draw: random.Random) -> None:
        self.split = split
        self.draw = draw
        self.phrases: list[str] = []

    def phrase(self, section: str) -> str:
        options = _phrases().by_section[section][self.split]
        number = self.draw.randrange(len(options))
        self.phrases.append(f"{section}/{self.split}/{number}")
        return options[number]

    def ticket(self, intent: str) -> Ticket:
        draw, book = self.draw, _phrases()
        style: Style = "chat" if draw.random() < _CHAT_SHARE else "letter"
        body = self.phrase(f"bodies/{intent}/{style}")
        product = draw.choice(PRODUCTS) if "{product}" in body else None
        named = draw.choice(book.products[product]) if product else ""
        order = f"{draw.choice('ABCDEFGH')}-{draw.randrange(10_000, 100_000)}"
        has_order = draw.random() < _ORDER_SHARE.get(intent, _USUAL_ORDER_SHARE)
        urgency: Urgency = draw.choices(("low", "normal", "high"), (0.25, 0.45, 0.3))[0]
        callback = draw.random() < 0.3

        parts = [body.format(product=named, when=draw.choice(book.when), day=draw.choice(book.days))]
        if has_order:
            parts.append(self.phrase(f"orders/{style}").format(order=order))
        if urgency != "normal":
            parts.append(self.phrase(f"urgency/{urgency}"))
        if callback:
            parts.append(self.phrase("callback/yes"))
        elif draw.random() < 0.2:
            parts.append(self.phrase("callback/no"))
        if draw.random() < 0.4:
            parts[1:] = draw.sample(parts[1:], len(parts) - 1)
        if draw.random() < 0.55:
            parts.insert(0, self.phrase(f"openers/{style}"))
        if draw.random() < 0.5:
            parts.append(self.phrase(f"closings/{style}").format(name=draw.choice(book.names)))
        message = self._join(parts, style)
        return Ticket(
            message=scuff(message, draw, keep=order),
            intent=intent,
            product=product,
            named=named,
            urgency=urgency,
            order=order if has_order else None,
            callback=callback,
            phrases=tuple(self.phrases),
        )

    def _join(self, parts: list[str], style: Style) -> str:
        """One message of the parts; a chat has small letters and loose separators."""
        if style == "chat":
            separator = self.draw.choice([", ", " - ", ". ", "\n", " "])
            order_kept = [part if "-" in part else part.lower().rstrip(".!") for part in parts]
            message = separator.join(order_kept)
        else:
            message = self.draw.choice([" ", " ", "\n"]).join(parts)
        if self.draw.random() < 0.12:
            message = f"{message} {self.draw.choice(_phrases().emoji)}"
        return message


def generate_tickets(rows: int, split: SplitName, seed: int, task: SampleTask = "chat") -> list[Ticket]:
    """Draw `rows` tickets of a split, all messages different, intents in equal numbers.

    Where entities are wanted, a message whose names have suffered a slip of the hand is drawn again.
    """
    tickets: list[Ticket] = []
    seen: set[str] = set()
    for number in range(rows):
        for attempt in range(_ATTEMPTS):
            draw = random.Random(derive_seed(seed, f"tickets-{split}", number, attempt))
            ticket = _Writer(split, draw).ticket(INTENTS[number % len(INTENTS)])
            if ticket.message not in seen and (task != "token_class" or ticket.entities is not None):
                break
        seen.add(ticket.message)
        tickets.append(ticket)
    return tickets


def write_tickets(
    folder: Path, *, train: int, validation: int, test: int, seed: int, task: SampleTask = "chat"
) -> dict[SplitName, Path]:
    """Write `train.jsonl`, `validation.jsonl` and `test.jsonl` as rows of a task; returns their paths."""
    paths: dict[SplitName, Path] = {}
    for split, rows in zip(SPLITS, (train, validation, test), strict=True):
        tickets = generate_tickets(rows, split, seed, task)
        lines = (json.dumps(ticket.row(task), ensure_ascii=False) for ticket in tickets)
        paths[split] = folder / f"{split}.jsonl"
        write_atomic(paths[split], "".join(line + "\n" for line in lines))
    return paths
