"""What a run learned from, gathered for its data card: sections of tables, sentences and pictures in both languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from tunesmith.core.errors import Fact
from tunesmith.core.types import SplitName
from tunesmith.data.card_made_media import made_media_section
from tunesmith.data.card_media import media_section
from tunesmith.data.card_parts import Bullets as Bullets
from tunesmith.data.card_parts import Cell, Part, Picture, Section, Table, Words
from tunesmith.data.diversity import MOST_WORDS, compared
from tunesmith.data.formats.read import rows_by_licence
from tunesmith.data.plots import bars, spread
from tunesmith.data.prepared import Prepared
from tunesmith.messages import LANGUAGES, both

_CHINESE_ROW = 0.3
"""A row with at least this share of Chinese characters counts as Chinese: names and code mix into both languages."""
_MOST_BARS = 20


def row_text() -> pl.Expr:
    """All words of a row, whoever says them."""
    turns = [
        pl.col(name).list.eval(pl.element().struct.field("content")).list.join("\n")
        for name in ("messages", "chosen", "rejected")
    ]
    return pl.concat_str("text", pl.col("tokens").list.join(" "), *turns, separator="").alias("row_text")


def card_sections(prepared: Prepared, tokens: Mapping[SplitName, Sequence[int]] | None = None) -> list[Section]:
    """The card. `tokens` are the rows' lengths in tokens by split, when somebody counted them."""
    found = [
        _splits(prepared),
        _sources(prepared),
        _fates(prepared),
        _changes(prepared),
        _made(prepared),
        media_section(prepared.tables),
        made_media_section(prepared),
        *(
            [_lengths(prepared, tokens or {}), _languages(prepared), _diversity(prepared)]
            if _has_words(prepared)
            else []
        ),
        _labels(prepared) or _trained(prepared),
        _notes(prepared),
    ]
    return [each for each in found if each is not None]


def _has_words(prepared: Prepared) -> bool:
    """Whether any row says something; a picture with classes says nothing."""
    return any((frame.select(row_text())["row_text"] != "").any() for frame in prepared.tables.values()) or not any(
        frame["media"].is_not_null().any() for frame in prepared.tables.values()
    )


def _columns(*names: str) -> tuple[Words, ...]:
    return tuple(both(f"data.column_{name}") for name in names)


def _line(code: str, **facts: Fact) -> str:
    """A sentence in both languages, for a picture."""
    return " · ".join(dict.fromkeys(both(code, **facts)[each] for each in LANGUAGES))


def _splits(prepared: Prepared) -> Section:
    total = sum(len(frame) for frame in prepared.frames.values()) or 1
    rows: list[tuple[Cell, ...]] = [
        (split, len(frame), f"{len(frame) / total:.1%}", _groups(frame)) for split, frame in prepared.frames.items()
    ]
    rows += [(name, len(frame), "", _groups(frame)) for name, frame in prepared.beside.items()]
    version = both("card.version", version=prepared.version.id, content=prepared.version.content[:12])
    table = Table(_columns("split", "rows", "share", "groups"), tuple(rows))
    return Section(both("data.card_splits"), (version, table, both("data.card_no_leak")))


def _groups(frame: pl.DataFrame) -> int:
    return frame["group"].replace("", None).drop_nulls().n_unique()


def _sources(prepared: Prepared) -> Section:
    unknown = both("data.card_licence_unknown")
    rows = tuple(
        (
            source.name,
            source.split,
            file.path,
            file.layout,
            file.encoding,
            file.rows,
            file.readable,
            source.licence or unknown,
            f"`{file.sha256}`",
        )
        for source in prepared.sources
        for file in source.files
    )
    columns = _columns("source", "split", "file", "layout", "encoding", "rows", "readable", "licence", "sha256")
    kept = pl.concat([frame.select("source") for frame in prepared.tables.values()])["source"]
    picture = _counted("card.kept_by_source", _frequent(kept))
    return Section(both("data.card_sources"), (*picture, Table(columns, rows), *_licences(prepared, unknown)))


def _licences(prepared: Prepared, unknown: Words) -> tuple[Part, ...]:
    """Rows by licence, where the rows of a source have several."""
    counted = [(each, rows_by_licence(each)) for each in prepared.sources]
    if all(len(rows) < 2 and each.licence in rows for each, rows in counted):
        return ()
    lines = [
        (each.name, each.split, licence or unknown, rows)
        for each, found in counted
        for licence, rows in sorted(found.items())
    ]
    return (both("card.rows_by_licence"), Table(_columns("source", "split", "licence", "rows"), tuple(lines)))


def _frequent(values: pl.Series) -> list[tuple[str, int]]:
    """Values with how often they stand there, the most frequent first."""
    counted = values.value_counts(sort=True, name="rows").sort(["rows", values.name], descending=[True, False])
    return [(str(name), int(rows)) for name, rows in counted.iter_rows()]


def _counted(code: str, values: Sequence[tuple[str, int]]) -> tuple[Part, ...]:
    """A picture of counts under its title; nothing where there is only one bar to see."""
    return (both(code), _picture(code, values)) if len(values) > 1 else ()


def _picture(code: str, values: Sequence[tuple[str, int]]) -> Picture:
    """A bar for each of the first values; the rest is only counted, since together it would dwarf them."""
    shown, rest = values[:_MOST_BARS], values[_MOST_BARS:]
    lines = [(name, rows, f"{rows:,}") for name, rows in shown]
    if rest:
        lines.append((_line("card.others", count=len(rest)), 0, f"{sum(rows for _, rows in rest):,}"))
    return Picture(bars(_line(code), [(name, rows) for name, rows, _ in lines], [figure for _, _, figure in lines]))


def _fates(prepared: Prepared) -> Section:
    rows: list[tuple[Cell, ...]] = []
    by_fate: dict[str, int] = {}
    for label, count in prepared.ledger.totals().items():
        fate, _, reason = label.partition(": ")
        rows.append((both(f"data.fate_{fate}"), both(f"data.reason_{reason}") if reason else "", count))
        words = _line(f"data.fate_{fate}")
        by_fate[words] = by_fate.get(words, 0) + count
    sums = prepared.ledger.sums()
    rows.append((both("data.card_read"), "", sums["read"]))
    rows += [(both("card.all_made"), "", sums["made"])] if sums["made"] else []
    picture = _counted("card.rows_by_fate", sorted(by_fate.items(), key=lambda each: -each[1]))
    return Section(both("data.card_fates"), (*picture[1:], Table(_columns("fate", "reason", "rows"), tuple(rows))))


def _changes(prepared: Prepared) -> Section | None:
    """Which rules changed how many rows; nothing where none did."""
    rows: list[tuple[Cell, ...]] = [
        (both(f"data.change_{rule}"), *counts) for rule, counts in prepared.ledger.changed().items()
    ]
    columns = _columns("change", "rows", "places")
    return Section(both("data.card_changes"), (Table(columns, tuple(rows)),)) if rows else None


def _made(prepared: Prepared) -> Section | None:
    """Rows of training that were made here, by how many each parent has; nothing where none were."""
    train = prepared.frames.get("train")
    if train is None or train["parent"].is_null().all():
        return None
    made = train.filter(pl.col("parent").is_not_null())
    read, parents = len(train) - len(made), made["parent"].n_unique()
    words = both(
        "card.made_text",
        made=f"{len(made):,}",
        share=f"{len(made) / len(train):.1%}",
        parents=f"{parents:,}",
        rows=f"{read:,}",
    )
    return Section(both("card.made"), (words,))


def _lengths(prepared: Prepared, tokens: Mapping[SplitName, Sequence[int]]) -> Section:
    rows: list[tuple[Cell, ...]] = []
    shown: dict[str, Sequence[int]] = {}
    for split, frame in prepared.tables.items():
        characters = frame.select(row_text().str.len_chars())["row_text"]
        rows.append((split, both("data.unit_characters"), *_spread(characters)))
        counted = next((lengths for name, lengths in tokens.items() if name == split), None)
        if counted is not None:
            rows.append((split, both("data.unit_tokens"), *_spread(pl.Series(counted, dtype=pl.Int64))))
        if split in prepared.frames or not prepared.frames:
            shown[split] = characters.to_list() if counted is None else counted
    unit = _line("data.unit_tokens" if tokens else "data.unit_characters")
    picture = Picture(spread(_line("data.card_lengths"), unit, shown))
    columns = _columns("split", "unit", "mean", "median", "p95", "longest")
    return Section(both("data.card_lengths"), (both("card.share_of_rows"), picture, Table(columns, tuple(rows))))


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


def _languages(prepared: Prepared) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for split, frame in prepared.tables.items():
        counted = frame.select(
            chinese=row_text().str.count_matches(r"\p{Han}"), written=row_text().str.count_matches(r"\S")
        )
        written = max(int(counted["written"].sum()), 1)
        in_chinese = counted.select((pl.col("chinese") >= _CHINESE_ROW * pl.col("written")).sum()).item()
        rows.append((split, f"{counted['chinese'].sum() / written:.1%}", in_chinese, len(frame) - in_chinese))
    columns = _columns("split", "chinese_characters", "chinese_rows", "other_rows")
    return Section(both("data.card_languages"), (Table(columns, tuple(rows)),))


def _diversity(prepared: Prepared) -> Section:
    rows: list[tuple[Cell, ...]] = []
    texts = [frame.select(row_text())["row_text"] for frame in prepared.tables.values()]
    for split, found in zip(prepared.tables, compared(texts), strict=True):
        shares = (f"{each:.1%}" for each in found.distinct)
        rows.append((split, found.rows, found.words, *shares, f"{found.compression:.2f}"))
    names = ("rows_measured", "words_measured", "distinct_1", "distinct_2", "distinct_3", "compression")
    columns = (*_columns("split"), *(both(f"card.column_{name}") for name in names))
    words = both("card.diversity_text", words=f"{MOST_WORDS:,}")
    return Section(both("card.diversity"), (words, Table(columns, tuple(rows))))


def _labels(prepared: Prepared) -> Section | None:
    """How often each label stands in each split; nothing where rows have none."""
    splits = list(prepared.tables)
    counted = pl.concat(
        frame.select(pl.col("labels").explode().drop_nulls()).with_columns(split=pl.lit(split))
        for split, frame in prepared.tables.items()
    )
    if counted.is_empty():
        return None
    table = counted.pivot("split", index="labels", values="labels", aggregate_function="len").fill_null(0)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (str(row["labels"]), *(int(row.get(split, 0)) for split in splits))
        for row in table.sort("labels").iter_rows(named=True)
    )
    first = counted.filter(pl.col("split") == splits[0])["labels"]
    frequent = _frequent(first)
    most, least = (frequent[0][1], frequent[-1][1]) if frequent else (0, 0)
    balance = both("card.balance", split=splits[0], labels=len(frequent), most=most, least=least)
    named = (both("data.column_label"), *(_name_of(split) for split in splits))
    return Section(both("data.card_labels"), (balance, _picture("data.card_labels", frequent), Table(named, rows)))


def _name_of(split: str) -> Words:
    try:
        return both(f"data.column_{split}")
    except KeyError:
        return dict.fromkeys(LANGUAGES, split)


def _trained(prepared: Prepared) -> Section:
    """Turns by role and what their weight says about learning them."""
    turns = pl.concat(
        [
            frame.select("kind", pl.col(name).alias("turn")).explode("turn").drop_nulls("turn")
            for frame in prepared.tables.values()
            for name in ("messages", "chosen", "rejected")
        ]
    )
    title = both("data.card_trained")
    if turns.is_empty():
        return Section(title, (both("data.card_trained_text"),))
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
    open_weight = both("data.card_weight_open")
    rows = tuple((role, weight_text or open_weight, count) for role, weight_text, count in counted.iter_rows())
    return Section(title, (Table(_columns("role", "weight", "turns"), rows), both("data.card_trained_rule")))


def _notes(prepared: Prepared) -> Section | None:
    lines = tuple(both(note.code, **note.facts) for note in prepared.all_notes)
    return Section(both("data.card_notes"), (Bullets(lines),)) if lines else None
