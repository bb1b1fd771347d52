"""Rows without labels, such as texts of a domain that nobody has labelled yet, in the form of the labelled ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from tunesmith.core.types import Example


def with_stand_ins(
    examples: Mapping[str, Sequence[Example]], unlabelled: Collection[str], labels: Sequence[str]
) -> dict[str, Sequence[Example]]:
    """The tables; rows that are unlabelled get the first of the labels in place of their own, rows of tokens for each.

    They are then encoded and cut like all others; whoever trains on them knows their numbers and never looks at it.
    """
    return {
        name: [_with(labels[0], each) for each in rows] if name in unlabelled else rows
        for name, rows in examples.items()
    }


def _with(label: str, example: Example) -> Example:
    return replace(example, labels=(label,) * max(1, len(example.tokens)))
