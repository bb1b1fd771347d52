"""The way from training rows to training rows with children: only here the methods meet.

Children are made from rows that were read, never from children, and stand behind them. They pass the gate of the table
first: its rules, its benchmarks. One that says what another training row says is merged with it; one that asks what a
row of validation or test asks goes. The ledger says all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.core.ledger import Ledger
from tunesmith.data.augment.balance import balanced
from tunesmith.data.augment.by_images import image_children
from tunesmith.data.augment.by_mixing import cutmix_children, mixup_children
from tunesmith.data.augment.by_model import back_translated, paraphrased
from tunesmith.data.augment.by_sounds import masked_children, sound_children
from tunesmith.data.augment.by_words import edit_children, synonym_children
from tunesmith.data.augment.children import Child, as_table
from tunesmith.data.augment.generator import Generator
from tunesmith.data.augment.synthesize import synthesized
from tunesmith.data.augment.thesaurus import Thesaurus, load_thesaurus
from tunesmith.data.defects import Reason
from tunesmith.data.gate import Admitted
from tunesmith.data.keys import content_key
from tunesmith.data.media.content import MediaPlaces
from tunesmith.data.notes import Note
from tunesmith.data.split import shared_with
from tunesmith.recipe.specs.augment import AugmentSpec

_Made = tuple[Reason, Callable[[], Iterable[Child]]]
_Admit = Callable[[pl.DataFrame, pl.DataFrame], Admitted]
_NOWHERE = MediaPlaces({})


def augmented(
    spec: AugmentSpec,
    train: pl.DataFrame,
    others: Mapping[str, pl.DataFrame],
    folder: Path,
    ledger: Ledger,
    generator: Generator | None = None,
    places: MediaPlaces = _NOWHERE,
    admit: _Admit = lambda made, _among: Admitted(made),
) -> tuple[pl.DataFrame, list[Note]]:
    """The training rows with their children, and what was done.

    Args:
        others: rows that no child may repeat, by the name of their split.
        folder: where the recipe's paths start.
        generator: who answers prompts; without one the methods that need it are left out, and a note says so.
        places: where pictures and sounds lie, and where those that are made are put down.
        admit: the gate that children pass before they come to the rows that are there.

    Errors: those of `load_thesaurus`, `synthesized` and `balanced`; augment.tagged_rows, data.source_changed.
    """
    _refuse_tagged(spec, train)
    table, notes = train, []
    for reason, make in (*_methods(spec, train, others, folder, generator), *_of_media(spec, train, places)):
        made = list(make())
        admitted = admit(as_table(made, reason, ledger), table)
        kept = _apart(_merged(table, admitted.frame, ledger), others, ledger)
        notes += [Note(f"augment.{reason}", {"made": len(made), "kept": len(kept)}), *admitted.notes]
        table = pl.concat([table, kept])
    if spec.asks_a_model and generator is None:
        notes.append(Note("augment.no_model_asked"))
    if spec.balance is not None:
        table, repeated, gone = balanced(table, spec.balance, spec.seed, ledger)
        notes.append(Note("augment.balanced", {"by": spec.balance.by, "repeated": repeated, "gone": gone}))
    return table, notes


def _refuse_tagged(spec: AugmentSpec, train: pl.DataFrame) -> None:
    """Tokens with tags know synonyms alone: everything else would part tags from their tokens."""
    fit = spec.edit is None and not spec.asks_a_model
    if not fit and (train["kind"] == "token_class").any():
        raise TunesmithError("augment.tagged_rows")


def _methods(
    spec: AugmentSpec,
    train: pl.DataFrame,
    others: Mapping[str, pl.DataFrame],
    folder: Path,
    generator: Generator | None,
) -> list[_Made]:
    """What the recipe asks for, each with the ledger's reason for its rows."""
    loaded: dict[str, Thesaurus] = {}

    def thesaurus(dictionary: str) -> Thesaurus:
        if dictionary not in loaded:
            loaded[dictionary] = load_thesaurus(dictionary, folder)
        return loaded[dictionary]

    found: list[_Made] = []
    synonyms, edit = spec.synonyms, spec.edit
    if synonyms is not None:
        words = thesaurus(synonyms.dictionary)
        found.append(("made_by_synonyms", lambda: synonym_children(train, synonyms, words, spec.seed)))
    if edit is not None:
        put_in = thesaurus(edit.dictionary) if edit.insert else None
        found.append(("made_by_edit", lambda: edit_children(train, edit, put_in, spec.seed)))
    if generator is not None:
        found += _asking(spec, train, others, folder, generator)
    return found


def _of_media(spec: AugmentSpec, train: pl.DataFrame, places: MediaPlaces) -> list[_Made]:
    """What the recipe asks for of pictures and sounds."""
    found: list[_Made] = []
    images, mixup, cutmix, sounds, masks = spec.images, spec.mixup, spec.cutmix, spec.sounds, spec.spec_augment
    if images is not None:
        found.append(("made_by_images", lambda: image_children(train, images, spec.seed, places)))
    if mixup is not None:
        found.append(("made_by_mixup", lambda: mixup_children(train, mixup, spec.seed, places)))
    if cutmix is not None:
        found.append(("made_by_cutmix", lambda: cutmix_children(train, cutmix, spec.seed, places)))
    if sounds is not None:
        found.append(("made_by_sounds", lambda: sound_children(train, sounds, spec.seed, places)))
    if masks is not None:
        found.append(("made_by_spec_augment", lambda: masked_children(train, masks, spec.seed, places)))
    return found


def _asking(
    spec: AugmentSpec, train: pl.DataFrame, others: Mapping[str, pl.DataFrame], folder: Path, generator: Generator
) -> list[_Made]:
    found: list[_Made] = []
    back, other_words, new = spec.back_translate, spec.paraphrase, spec.synthesize
    if back is not None:
        found.append(("made_by_back_translation", lambda: back_translated(train, back, generator)))
    if other_words is not None:
        found.append(("made_by_paraphrase", lambda: paraphrased(train, other_words, generator)))
    if new is not None:
        apart = others.values()
        found.append(("made_by_synthesis", lambda: synthesized(train, apart, new, folder, spec.seed, generator)))
    return found


def _merged(table: pl.DataFrame, children: pl.DataFrame, ledger: Ledger) -> pl.DataFrame:
    """The children that say something new; of the others the ledger names the row that says the same."""
    together = pl.concat([table, children]).select("row", content_key())
    first = together.with_columns(partner=pl.col("row").first().over("content_key")).tail(len(children))
    same = first.filter(pl.col("partner") != pl.col("row"))
    ledger.decide(same["row"], "merged", "exact_duplicate_of_row", same["partner"])
    return children.join(same, on="row", how="anti", maintain_order="left")


def _apart(children: pl.DataFrame, others: Mapping[str, pl.DataFrame], ledger: Ledger) -> pl.DataFrame:
    """The children that ask nothing that a row of another split asks."""
    for name, frame in others.items():
        shared = shared_with(children, frame)
        ledger.decide(shared["row"], "dropped", f"prompt_also_in_{name}")
        children = children.join(shared, on="row", how="anti", maintain_order="left")
    return children
