"""What a data card is made of: headings, sentences in both languages, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tunesmith.messages import Language

Words = Mapping[Language, str]
Cell = Words | str | int | float


@dataclass(frozen=True)
class Table:
    """Columns by their names, and rows of cells: a number is set to the right."""

    columns: tuple[Words, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A self-contained SVG; a card without pictures leaves it out."""

    svg: str


@dataclass(frozen=True)
class Bullets:
    """Sentences in a list."""

    lines: tuple[Words, ...]


Part = Table | Picture | Bullets | Words


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: Words
    parts: tuple[Part, ...]
