"""The data card: one page in both languages that says what a run learned from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from tunesmith.core.errors import Fact
from tunesmith.core.types import SplitName
from tunesmith.data.prepared import Prepared
from tunesmith.messages import both

_CHINESE_ROW = 0.3
"""A row with at least this share of Chinese characters counts as Chinese: names and code mix into both languages."""


def row_text() -> pl.Expr:
    """All words of a row, whoever says them."""
    turns = [
        pl.col(name).list.eval(pl.element().struct.field("content")).list.join("\n")
        for name in ("messages", "chosen", "rejected")
    ]
    return pl.concat_str("text", pl.col("tokens").list.join(" "), *turns, separator="").alias("row_text")


def data_card(prepared: Prepared, tokens: Mapping[SplitName, Sequence[int]] | None = None) -> str:
    """The card as Markdown. `tokens` are the rows' lengths in tokens by split, when somebody counted them."""
    parts = [
        [f"# {_both('data.card_title')}", "", _both("data.card_intro")],
        _splits(prepared),
        _sources(prepared),
        _fates(prepared),
        _changes(prepared),
        _lengths(prepared, tokens or {}),
        _languages(prepared),
        _labels(prepared) or _trained(prepared),
        _notes(prepared),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _both(code: str, **facts: Fact) -> str:
    return " / ".join(dict.fromkeys(both(code, **facts).values()))


def _heading(code: str) -> list[str]:
    return [f"## {_both(code)}", ""]


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = [[_both(f"data.column_{name}") for name in columns], ["---"] * len(columns), *rows]
    return ["| " + " | ".join(_cell(value) for value in line) + " |" for line in lines]


def _cell(value: object) -> str:
    text = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _splits(prepared: Prepared) -> list[str]:
    total = sum(len(frame) for frame in prepared.frames.values())
    rows = [
        (split, len(frame), f"{len(frame) / total:.1%}", frame["group"].replace("", None).drop_nulls().n_unique())
        for split, frame in prepared.frames.items()
    ]
    old = [
        (name, len(frame), "", frame["group"].replace("", None).drop_nulls().n_unique())
        for name, frame in prepared.old.items()
    ]
    return [
        *_heading("data.card_splits"),
        *_table(("split", "rows", "share", "groups"), [*rows, *old]),
        "",
        _both("data.card_no_leak"),
    ]


def _sources(prepared: Prepared) -> list[str]:
    rows = [
        (
            source.name,
            source.split,
            file.path,
            file.layout,
            file.encoding,
            file.rows,
            file.readable,
            source.licence or _both("data.card_licence_unknown"),
            f"`{file.sha256}`",
        )
        for source in prepared.sources
        for file in source.files
    ]
    columns = ("source", "split", "file", "layout", "encoding", "rows", "readable", "licence", "sha256")
    return [*_heading("data.card_sources"), *_table(columns, rows)]


def _fates(prepared: Prepared) -> list[str]:
    rows = []
    for label, count in prepared.ledger.totals().items():
        fate, _, reason = label.partition(": ")
        rows.append((_both(f"data.fate_{fate}"), _both(f"data.reason_{reason}") if reason else "", count))
    rows.append((_both("data.card_read"), "", len(prepared.ledger)))
    return [*_heading("data.card_fates"), *_table(("fate", "reason", "rows"), rows)]


def _changes(prepared: Prepared) -> list[str]:
    """Which rules changed how many rows; nothing where none did."""
    rows = [(_both(f"data.change_{rule}"), *counts) for rule, counts in prepared.ledger.changed().items()]
    return [*_heading("data.card_changes"), *_table(("change", "rows", "places"), rows)] if rows else []


def _lengths(prepared: Prepared, tokens: Mapping[SplitName, Sequence[int]]) -> list[str]:
    rows = []
    for split, frame in prepared.frames.items():
        rows.append(
            (split, _both("data.unit_characters"), *_spread(frame.select(row_text().str.len_chars())["row_text"]))
        )
        if split in tokens:
            rows.append((split, _both("data.unit_tokens"), *_spread(pl.Series(tokens[split], dtype=pl.Int64))))
    return [*_heading("data.card_lengths"), *_table(("split", "unit", "mean", "median", "p95", "longest"), rows)]


def _spread(lengths: pl.Series) -> tuple[float, int, int, int]:
    median, high = (lengths.quantile(part, "nearest") or 0 for part in (0.5, 0.95))
    longest = lengths.max()
    mean = lengths.mean()
    return (
        float(mean) if isinstance(mean, float) else 0.0,
        int(median),
        int(high),
        longest if isinstance(longest, int) else 0,
    )


def _languages(prepared: Prepared) -> list[str]:
    rows = []
    for split, frame in prepared.frames.items():
        counted = frame.select(
            chinese=row_text().str.count_matches(r"\p{Han}"), written=row_text().str.count_matches(r"\S")
        )
        written = max(int(counted["written"].sum()), 1)
        in_chinese = counted.select((pl.col("chinese") >= _CHINESE_ROW * pl.col("written")).sum()).item()
        rows.append((split, f"{counted['chinese'].sum() / written:.1%}", in_chinese, len(frame) - in_chinese))
    columns = ("split", "chinese_characters", "chinese_rows", "other_rows")
    return [*_heading("data.card_languages"), *_table(columns, rows)]


def _labels(prepared: Prepared) -> list[str]:
    """How often each label stands in each split; nothing where rows have none."""
    splits = list(prepared.frames)
    counted = pl.concat(
        frame.select(pl.col("labels").explode().drop_nulls()).with_columns(split=pl.lit(split))
        for split, frame in prepared.frames.items()
    )
    if counted.is_empty():
        return []
    table = counted.pivot("split", index="labels", values="labels", aggregate_function="len").fill_null(0)
    rows = [[name, *(int(row.get(split, 0)) for split in splits)] for row in table.sort("labels").iter_rows(named=True)
            for name in (row["labels"],)]  # fmt: skip
    return [*_heading("data.card_labels"), *_table(("label", *splits), rows), "", _balance(counted)]


def _balance(counted: pl.DataFrame) -> str:
    """How unequal the classes are: the largest to the smallest, and the entropy of their shares (1: all alike)."""
    counts = counted["labels"].value_counts()["count"]
    shares = counts / counts.sum()
    evenness = float(-(shares * shares.log()).sum()) / math.log(len(counts)) if len(counts) > 1 else 1.0
    ratio = int(counts.max()) / int(counts.min())  # type: ignore[call-overload]
    return _both("data.card_balance", ratio=round(ratio, 1), evenness=round(evenness, 2))


def _trained(prepared: Prepared) -> list[str]:
    """Turns by role and what their weight says about learning them."""
    turns = pl.concat(
        [
            frame.select("kind", pl.col(name).alias("turn")).explode("turn").drop_nulls("turn")
            for frame in prepared.frames.values()
            for name in ("messages", "chosen", "rejected")
        ]
    )
    if turns.is_empty():
        return [*_heading("data.card_trained"), _both("data.card_trained_text")]
    weight = pl.col("turn").struct.field("weight")
    counted = (
        turns.select(
            role=pl.col("turn").struct.field("role"),
            weight=pl.when(weight.is_null()).then(pl.lit("")).otherwise(weight.cast(pl.String)),
        )
        .group_by("role", "weight")
        .len("turns")
        .sort("role", "weight")
    )
    rows = [
        (role, weight_text or _both("data.card_weight_open"), count) for role, weight_text, count in counted.iter_rows()
    ]
    return [
        *_heading("data.card_trained"),
        *_table(("role", "weight", "turns"), rows),
        "",
        _both("data.card_trained_rule"),
    ]


def _notes(prepared: Prepared) -> list[str]:
    notes = [*(note for source in prepared.sources for note in source.notes), *prepared.notes]
    lines = [f"- {_both(note.code, **note.facts)}" for note in notes]
    return [*_heading("data.card_notes"), *lines] if lines else []
