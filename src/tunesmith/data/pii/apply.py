"""Personal data of a table: counted, masked or dropped. What was found is never said, only how often."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from tunesmith.core.ledger import Ledger
from tunesmith.core.types import Example, Message
from tunesmith.data.defects import Reason
from tunesmith.data.pii.find import Finder, Hit, Tagger
from tunesmith.data.pii.mask import Masker
from tunesmith.data.table import TURN_COLUMNS, to_examples
from tunesmith.data.texts import any_text, rewrite_rows, texts_of, with_texts
from tunesmith.recipe.specs.clean import PiiSpec, PiiType

_SINGLE = 1.5
"""Tokens of at most this mean length are characters of a text without blanks, such as Chinese."""


@dataclass(frozen=True)
class Finding:
    """Values of one type in the rows of one source."""

    source: str
    type: PiiType
    rows: int
    values: int


@dataclass(frozen=True)
class Held:
    """Numbers of the rows of a table that hold something, and what stands in each of their texts."""

    rows: tuple[int, ...] = ()
    hits: Mapping[str, Sequence[Hit]] = field(default_factory=dict)


class PersonalData:
    """One run's search for personal data. Placeholders go on from table to table, so that they mean the same in all.

    A `masker` that met values before goes on from there.
    """

    def __init__(self, spec: PiiSpec, tagger: Tagger | None = None, masker: Masker | None = None) -> None:
        self.spec = spec
        self.masker = masker or Masker()
        self._finder = Finder(spec.types, tagger)
        self._rows: Counter[tuple[str, PiiType]] = Counter()
        self._values: Counter[tuple[str, PiiType]] = Counter()

    def findings(self) -> list[Finding]:
        """What was found so far, by source and type."""
        keys = sorted(self._values)
        return [Finding(source, kind, self._rows[source, kind], self._values[source, kind]) for source, kind in keys]

    def add(self, findings: Iterable[Finding]) -> None:
        """Count what another search found, in other rows of the same sources."""
        for each in findings:
            self._rows[each.source, each.type] += each.rows
            self._values[each.source, each.type] += each.values

    def apply(self, frame: pl.DataFrame, ledger: Ledger) -> tuple[pl.DataFrame, int]:
        """The table after the recipe's action, and the number of rows that held something."""
        frame, held = self.search(frame, ledger)
        return self.mask(frame, held), len(held.rows)

    def search(self, frame: pl.DataFrame, ledger: Ledger) -> tuple[pl.DataFrame, Held]:
        """Find, count, tell, and drop where the recipe says so; what is to be masked stands in the texts still."""
        flagged = frame.select(self._may_hold(frame).alias("flagged"))["flagged"]
        looked_at = to_examples(frame.filter(flagged)) if flagged.any() else []
        hits = self._find(looked_at)
        counts = {example.row: self._count(example, hits) for example in looked_at}
        held = {row: types for row, types in counts.items() if types}
        if held and self.spec.action == "drop":
            reason: Reason = "personal_data"
            ledger.decide(held, "dropped", reason)
            frame = frame.filter(~frame["row"].is_in(list(held)))
        if self.spec.action == "mask":
            self._tell(held, ledger)
        return frame, Held(tuple(held), hits)

    def mask(self, frame: pl.DataFrame, held: Held) -> pl.DataFrame:
        """The table with placeholders in place of what `search` found in it, where the recipe says so."""
        if self.spec.action != "mask" or not held.rows:
            return frame
        flagged = frame["row"].is_in(list(held.rows))
        return rewrite_rows(frame, flagged, lambda examples: [self._masked(each, held.hits) for each in examples])

    def _may_hold(self, frame: pl.DataFrame) -> pl.Expr:
        """Whether any text of a row may hold something. Columns without a word are left out: looking costs the same."""
        used = [name for name in (*TURN_COLUMNS, "tokens") if (frame[name].list.len() > 0).any()]
        in_turns = [name for name in TURN_COLUMNS if name in used]
        turns = [
            pl.col(name).list.eval(self._finder.may_hold(pl.element().struct.field(field))).list.any()
            for name in in_turns
            for field in ("tool_calls", "name")
        ]
        # Calls may spell letters as \u1234; whatever holds such a sign is looked at.
        spelt = [pl.col(name).list.eval(pl.element().struct.field("tool_calls").str.contains(r"\\u")).list.any()
                 for name in in_turns]  # fmt: skip
        tokens = [self._finder.may_hold(pl.col("tokens").list.join(each)) for each in (" ", "") if "tokens" in used]
        others = [self._finder.may_hold(pl.col(name)) for name in ("group", "tools") if (frame[name] != "").any()]
        beside = pl.any_horizontal(pl.lit(False), *turns, *spelt, *tokens, *others)
        return any_text(self._finder.may_hold, in_turns) | beside.fill_null(False)

    def _find(self, examples: Iterable[Example]) -> dict[str, list[Hit]]:
        """Hits by text, over all texts of the rows."""
        texts = list(dict.fromkeys(text for example in examples for text in _all_texts(example)))
        return dict(zip(texts, self._finder.find_all(texts), strict=True))

    def _count(self, example: Example, hits: Mapping[str, Sequence[Hit]]) -> Counter[PiiType]:
        found = Counter(hit.type for text in _all_texts(example) for hit in hits[text])
        self._values.update({(example.origin.source, kind): count for kind, count in found.items()})
        self._rows.update((example.origin.source, kind) for kind in found)
        return found

    def _tell(self, held: dict[int, Counter[PiiType]], ledger: Ledger) -> None:
        for kind in sorted({kind for types in held.values() for kind in types}):
            rows = {row: types[kind] for row, types in held.items() if types[kind]}
            ledger.change(rows, f"masked_{kind}", rows.values())

    def _masked(self, example: Example, hits: Mapping[str, Sequence[Hit]]) -> Example:
        def mask(text: str) -> str:
            return self.masker.mask(text, hits[text])

        def mask_json(text: str) -> str:
            plain = _unescaped(text)
            return mask(plain) if hits[plain] else text

        def turns(stated: Sequence[Message]) -> tuple[Message, ...]:
            return tuple(
                replace(
                    turn,
                    name=mask(turn.name),
                    tool_calls=tuple(replace(call, arguments=mask_json(call.arguments)) for call in turn.tool_calls),
                )
                for turn in stated
            )

        example = with_texts(example, iter([mask(text) for text in texts_of(example)]))
        joined = _joined(example.tokens)
        return replace(
            example,
            origin=replace(example.origin, group=mask(example.origin.group)),
            tools=mask_json(example.tools),
            messages=turns(example.messages),
            chosen=turns(example.chosen),
            rejected=turns(example.rejected),
            tokens=self._masked_tokens(example.tokens, joined, hits[joined]),
        )

    def _masked_tokens(self, tokens: tuple[str, ...], joined: str, hits: Sequence[Hit]) -> tuple[str, ...]:
        """As many tokens as before: each one that a value touches becomes the value's placeholder."""
        if not hits:
            return tokens
        masked, start, between = [], 0, len(_between(tokens))
        for token in tokens:
            end = start + len(token)
            touching = next((hit for hit in hits if hit.start < end and hit.end > start), None)
            if touching is None:
                masked.append(token)
            else:
                value = joined[touching.start : touching.end]
                masked.append(self.masker.mask(value, [Hit(touching.type, 0, len(value))]))
            start = end + between
        return tuple(masked)


def _all_texts(example: Example) -> list[str]:
    """Every text of a row that may hold personal data, calls of functions and the group included."""
    turns = (*example.messages, *example.chosen, *example.rejected)
    arguments = [_unescaped(call.arguments) for turn in turns for call in turn.tool_calls]
    names = [turn.name for turn in turns]
    tools = _unescaped(example.tools)
    return [*texts_of(example), example.origin.group, tools, *names, *arguments, _joined(example.tokens)]


def _unescaped(text: str) -> str:
    """JSON text with its letters written as they are."""
    if "\\u" not in text:
        return text
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _between(tokens: Sequence[str]) -> str:
    return " " if sum(map(len, tokens)) > _SINGLE * len(tokens) else ""


def _joined(tokens: Sequence[str]) -> str:
    return _between(tokens).join(tokens)
