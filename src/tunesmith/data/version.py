"""The version of a data set: a hash of what its rows say, table by table, and of the settings that made them.

Rows count as a multiset: a file that was sorted anew gives the same version. (The order in which rows are trained is
that of the stored files, whose own hashes stand in the run's manifest.) Where a row comes from does not count either:
not its path, its number, its group or its licence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import polars as pl

from tunesmith.data.keys import seen
from tunesmith.data.table import SCHEMA, TURN_COLUMNS
from tunesmith.recipe.recipe import StageSpec
from tunesmith.recipe.specs.data import DataSpec, StageDataSpec

_FORMAT = 1
"""Of the text that is hashed for a row. Another format gives other versions, so it only ever changes with a release."""
_AT_ONCE = 20_000
"""Rows whose text is held at once."""
_NOT_CONTENT = ("path", "name", "licence")
"""Settings of a source that change no row."""


@dataclass(frozen=True)
class Version:
    """A data set's version: `id` stands for rows and settings, `content` for the rows alone (64 hexadecimal digits)."""

    id: str
    content: str
    rows: Mapping[str, int]

    def facts(self) -> dict[str, str]:
        """As the manifest of a folder states it; the numbers of rows stand there already."""
        return {"version": self.id, "content": self.content}


def version_of(tables: Mapping[str, pl.DataFrame], settings: Mapping[str, object]) -> Version:
    """The version of tables (splits, and those that stages name) that these settings made."""
    return version_of_digests({name: list(row_digests(frame)) for name, frame in tables.items()}, settings)


def version_of_digests(tables: Mapping[str, Sequence[bytes]], settings: Mapping[str, object]) -> Version:
    """The version of tables of which nothing is at hand but the digest of every row, in any order."""
    content = hashlib.sha256(f"rows {_FORMAT}".encode())
    for name in sorted(tables):
        content.update(_line(name, len(tables[name])))
        for digest in sorted(tables[name]):
            content.update(digest)
    text = json.dumps([_FORMAT, content.hexdigest(), settings], sort_keys=True, ensure_ascii=False)
    rows = {name: len(digests) for name, digests in tables.items()}
    return Version(hashlib.sha256(text.encode()).hexdigest(), content.hexdigest(), rows)


def made_by(spec: DataSpec | StageDataSpec) -> dict[str, object]:
    """The settings that make rows out of files: what differs from the defaults, without names and places of files."""
    stated: dict[str, object] = spec.model_dump(mode="json", exclude_defaults=True)
    for name, value in stated.items():
        if (name.endswith("sources") or name == "benchmarks") and isinstance(value, list):
            stated[name] = [{key: each[key] for key in each if key not in _NOT_CONTENT} for each in value]
    return stated


def settings_of(spec: DataSpec, stages: Sequence[StageSpec]) -> dict[str, object]:
    """The settings that make all rows of a run: the run's own, and those of stages with rows of their own."""
    own = {f"stages.{stage.name}.data": made_by(stage.data) for stage in stages if stage.data is not None}
    return made_by(spec) | own


def row_digests(frame: pl.DataFrame) -> Iterable[bytes]:
    """The SHA-256 of what each row says, in the order of the table: 32 bytes a row."""
    for first in range(0, len(frame), _AT_ONCE):
        for text in frame[first : first + _AT_ONCE].select(row_text=_whole_row())["row_text"]:
            yield hashlib.sha256(text.encode()).digest()


def text_digests(texts: pl.Series) -> Iterator[bytes]:
    """The same for rows that are nothing but texts, without their table: 32 bytes a row."""
    before, after = _around_a_text()
    for content in texts.cast(pl.Binary):
        yield hashlib.sha256(b"%b%d:%b%b" % (before, len(content), content, after)).digest()


@cache
def _around_a_text() -> tuple[bytes, bytes]:
    """What stands around the text of a row that has nothing else."""
    row = pl.DataFrame({"kind": ["text"]}, {"kind": pl.String})
    absent = [pl.lit(None, kind).alias(name) for name, kind in SCHEMA.items() if name != "kind"]
    before, after = row.with_columns(absent).select(row_text=_whole_row())["row_text"][0].encode().split(b"0:", 1)
    return before, after


def _line(name: str, rows: int) -> bytes:
    return f"\n{len(name)}:{name} {rows}\n".encode()


def _whole_row() -> pl.Expr:
    """All that training can see of a row, every part with its length before it, so that no two rows share a text."""
    turn = pl.element().struct
    parts = [turn.field(name) for name in ("role", "content", "tool_calls", "name", "tool_call_id")]
    weight = turn.field("weight").cast(pl.String).fill_null("")
    one_turn = pl.concat_str(*(_sized(part) for part in (*parts, weight)), separator="")
    turns = [_listed(name, one_turn) for name in TURN_COLUMNS]
    words = [_listed(name, _sized(pl.element())) for name in ("tokens", "labels")]
    liked = pl.col("label").cast(pl.String).fill_null("")
    said = [*(_sized(pl.col(name)) for name in ("kind", "text", "tools")), _sized(liked), *turns, *words]
    about = pl.when(pl.col("media").is_null()).then(pl.lit("")).otherwise(_sized(seen()))  # nothing for rows of words
    return pl.concat_str(*said, about)


def _sized(text: pl.Expr) -> pl.Expr:
    filled = text.fill_null("")
    return pl.concat_str(filled.str.len_bytes().cast(pl.String), pl.lit(":"), filled)


def _listed(name: str, each: pl.Expr) -> pl.Expr:
    joined = pl.col(name).list.eval(each).list.join("").fill_null("")
    return pl.concat_str(pl.col(name).list.len().fill_null(0).cast(pl.String), pl.lit("["), joined, pl.lit("]"))
