"""Rows without labels, such as texts of a domain that nobody has labelled yet, in the form of the labelled ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from tunesmith.core.types import Example


def with_stand_ins(
    examples: Mapping[str, Sequence[Example]], unlabelled: Collection[str], labels: Sequence[str]
) -> dict[str, Sequence[Example]]:
    """The tables; rows of those that are unlabelled get the first of the labels in place of one of their own.

    They are then encoded and cut like all others; whoever trains on them knows their numbers and never looks at it.
    """
    return {
        name: [replace(each, labels=tuple(labels[:1])) for each in rows] if name in unlabelled else rows
        for name, rows in examples.items()
    }
