"""Rows with classes made of the product's own sample tickets: what is wanted, and which product is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from tunesmith.core.types import Example, Origin, SplitName
from tunesmith.data.samples.tickets import generate_tickets
from tunesmith.models.packed import Features


def text_rows(count: int, split: SplitName = "train", seed: int = 1) -> list[dict[str, object]]:
    """Messages with their intent."""
    return [{"text": each.message, "label": each.intent} for each in generate_tickets(count, split, seed=seed)]


def several_rows(count: int, split: SplitName = "train", seed: int = 1) -> list[dict[str, object]]:
    """Messages with any number of labels: the intent of most, and `urgent` and `callback` where they hold."""
    rows: list[dict[str, object]] = []
    for each in generate_tickets(count, split, seed=seed):
        marks = [name for name, holds in (("urgent", each.urgency == "high"), ("callback", each.callback)) if holds]
        rows.append({"text": each.message, "labels": marks + ([each.intent] if each.intent != "question" else [])})
    return rows


def token_rows(count: int, split: SplitName = "train", seed: int = 1) -> list[dict[str, object]]:
    """Words of messages, those of the product and of the order tagged."""
    rows: list[dict[str, object]] = []
    for each in generate_tickets(count, split, seed=seed):
        words = each.message.split()
        tags = ["O"] * len(words)
        for kind, named in (("product", each.product), ("order", each.order)):
            parts = named.split() if named else []
            for place in range(len(words) - len(parts) + 1):
                if parts and [word.strip(".,!?;:()").lower() for word in words[place : place + len(parts)]] == [
                    part.lower() for part in parts
                ]:
                    tags[place : place + len(parts)] = [f"B-{kind}", *[f"I-{kind}"] * (len(parts) - 1)]
        rows.append({"tokens": words, "tags": tags})
    return rows


def as_examples(rows: list[dict[str, object]], first: int = 0) -> list[Example]:
    """The same rows as a task takes them."""
    found = []
    for place, row in enumerate(rows):
        origin = Origin("tickets", place)
        if "tokens" in row:
            tokens, tags = tuple(map(str, row["tokens"])), tuple(map(str, row["tags"]))  # type: ignore[call-overload]
            found.append(Example(first + place, "token_class", origin, tokens=tokens, labels=tags))
        else:
            stated = row.get("labels", [row.get("label")])
            labels = tuple(map(str, stated))  # type: ignore[call-overload]
            found.append(Example(first + place, "text_class", origin, text=str(row["text"]), labels=labels))
    return found


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """The rows as a jsonl file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def random_features(task: str, first: bool, lengths: Sequence[int]) -> list[Features]:
    """Rows of random tokens and one of three classes: of every token, or at the row's first or last one."""
    draw = torch.Generator().manual_seed(3)
    found = []
    for number, length in enumerate(lengths):
        ids = tuple(torch.randint(3, 60, (length,), generator=draw).tolist())
        if task == "token_class":
            found.append(Features(number, ids, (1.0,) * length, tuple((place % 3,) for place in range(length))))
        else:
            place = 0 if first else length - 1
            weights = tuple(float(each == place) for each in range(length))
            found.append(Features(number, ids, weights, ((number % 3,),)))
    return found
