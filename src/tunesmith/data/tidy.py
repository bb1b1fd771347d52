"""One table made clean, rule after rule in a fixed order; what the rules share over the tables of a run lives here.

encodings mended -> Unicode -> repairs -> rows without words -> filters -> word lists -> personal data
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.clean import blank_reason, normalize
from tunesmith.data.content import Listed, apply_lists, read_lists
from tunesmith.data.filters import CountTokens, filter_rows
from tunesmith.data.formats.read import Note
from tunesmith.data.pii.apply import Held, PersonalData
from tunesmith.data.pii.find import Tagger
from tunesmith.data.pii.mask import Masker
from tunesmith.data.pii.sealed import user_key
from tunesmith.data.repair.apply import check_packages, repair_encoding, repair_texts
from tunesmith.recipe.specs.data import CleanSpec


@dataclass(frozen=True)
class Needs:
    """What needs a model, handed in from above: this room knows none."""

    tagger: Callable[[str], Tagger] | None = None
    """Loads the tagger of a folder, as the recipe names it."""
    count_tokens: CountTokens | None = None


class Cleaner:
    """The cleaning of one run, or of one stage `beside` it, whose placeholders then mean the same.

    Errors at the start: data.rule_needs_package, no_key, short_key, bad_word_list, nobody_tags, those of the tagger.
    """

    def __init__(
        self, spec: CleanSpec, folder: Path, ledger: Ledger, needs: Needs, beside: Cleaner | None = None
    ) -> None:
        check_packages(spec.repair)
        if spec.pii is not None and spec.pii.key is not None:
            user_key(spec.pii.key)
        self.spec = spec
        self._masker: Masker = beside._masker if beside is not None else Masker()
        same_rules = beside is not None and beside.spec.pii == spec.pii
        self.personal: PersonalData | None = (
            beside.personal if beside is not None and same_rules else self._new_personal(needs)
        )
        self._folder = folder
        self.listed: list[Listed] = []
        self._lists = read_lists(spec.content, folder)
        self._ledger = ledger
        self._needs = needs

    def _new_personal(self, needs: Needs) -> PersonalData | None:
        pii = self.spec.pii
        if pii is None:
            return None
        if pii.tagger is None:
            return PersonalData(pii, masker=self._masker)
        if needs.tagger is None:
            raise TunesmithError("data.nobody_tags")
        return PersonalData(pii, needs.tagger(pii.tagger), self._masker)

    def beside(self, spec: CleanSpec) -> Cleaner:
        """The cleaning of rows that one stage alone names, by settings of their own."""
        return Cleaner(spec, self._folder, self._ledger, self._needs, self)

    def apply(self, split: str, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[Note]]:
        """A table after every rule that the recipe names, and what is worth saying about it."""
        frame, held, notes = self.before_masks(split, frame)
        return (self.personal.mask(frame, held) if self.personal else frame), notes

    def before_masks(self, split: str, frame: pl.DataFrame) -> tuple[pl.DataFrame, Held, list[Note]]:
        """The same, but that what is to be masked stands in the texts still, and where."""
        notes: list[Note] = []
        frame = repair_encoding(frame, self.spec.repair, self._ledger)
        if self.spec.normalize:
            frame, changed = normalize(frame)
            self._ledger.change(changed, "normalized")
        frame = repair_texts(frame, self.spec.repair, self._ledger)
        if self.spec.normalize or self.spec.repair:
            frame = self._without_blank(frame)
        frame = filter_rows(frame, self.spec.filter, self._ledger, self._needs.count_tokens)
        frame, listed = apply_lists(frame, self._lists, split, self._ledger)
        notes += [Note("data.listed", {"rows": each.rows, "path": each.path, "split": split}) for each in listed]
        self.listed += listed
        if self.personal is None:
            return frame, Held(), notes
        frame, held = self.personal.search(frame, self._ledger)
        notes.append(Note(f"data.pii_{self.personal.spec.action}", {"rows": len(held.rows), "split": split}))
        return frame, held, notes

    def _without_blank(self, frame: pl.DataFrame) -> pl.DataFrame:
        blank = frame.select("row", blank_reason()).drop_nulls("reason")
        for (reason,), rows in blank.group_by("reason", maintain_order=True):
            self._ledger.decide(rows["row"], "dropped", str(reason))
        return frame.join(blank, on="row", how="anti", maintain_order="left")
