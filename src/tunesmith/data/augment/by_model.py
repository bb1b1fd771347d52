"""Children by a model: texts by way of another language and back, and texts in other words.

A model's answer is refused where there is none, where it is much shorter or longer than the text, or where it says
the same; the ledger has the reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from tunesmith.core.errors import TunesmithError
from tunesmith.data.augment.children import Child, Row, asked_text, with_asked_text
from tunesmith.data.augment.generator import Generator
from tunesmith.data.defects import Reason
from tunesmith.recipe.specs.augment import BackTranslateSpec, ParaphraseSpec

_SHORTEST, _LONGEST = 0.4, 2.5
"""Length of an answer against its text: a translation or paraphrase outside of this has lost or added something."""
_HAN = re.compile("[\u3400-\u9fff]")
_CHINESE_SHARE = 0.3
_TRANSLATE = (
    "Translate the text between the marks into {language}. Answer with the translation alone.\n\n<<<\n{text}\n>>>"
)
_REPHRASE = (
    "Say the text between the marks in other words, in the same language. Its meaning, names, numbers and codes stay. "
    "Answer with the new text alone. (Version {number} of {count}.)\n\n<<<\n{text}\n>>>"
)


def back_translated(frame: pl.DataFrame, spec: BackTranslateSpec, generator: Generator) -> list[Child]:
    """Children by way of the languages named; what could not be translated there is not asked back."""
    rows = [row for row in frame.iter_rows(named=True) if asked_text(row)]
    pairs = [(row, number) for row in rows for number in range(spec.children)]
    there = [spec.by_way_of[number % len(spec.by_way_of)] for _, number in pairs]
    asked = [_TRANSLATE.format(language=way, text=asked_text(row)) for (row, _), way in zip(pairs, there, strict=True)]
    abroad = _answers(generator, asked)
    found = [place for place, text in enumerate(abroad) if text]
    back = [
        _TRANSLATE.format(language=_language_of(asked_text(pairs[place][0])), text=abroad[place]) for place in found
    ]
    returned = dict(zip(found, _answers(generator, back), strict=True))
    return [_child(row, returned.get(place)) for place, (row, _) in enumerate(pairs)]


def paraphrased(frame: pl.DataFrame, spec: ParaphraseSpec, generator: Generator) -> list[Child]:
    """Children in other words."""
    rows = [row for row in frame.iter_rows(named=True) if asked_text(row)]
    pairs = [(row, number) for row in rows for number in range(spec.children)]
    asked = [_REPHRASE.format(number=number + 1, count=spec.children, text=asked_text(row)) for row, number in pairs]
    return [_child(row, answer) for (row, _), answer in zip(pairs, _answers(generator, asked), strict=True)]


def _answers(generator: Generator, prompts: Sequence[str]) -> Sequence[str | None]:
    """The generator's answers, as many as prompts. Errors: augment.generator_lost."""
    answers = generator.generate(prompts) if prompts else []
    if len(answers) != len(prompts):
        raise TunesmithError("augment.generator_lost", asked=len(prompts), answered=len(answers))
    return [answer.strip().removeprefix("<<<").removesuffix(">>>").strip() if answer else None for answer in answers]


def _child(row: Row, answer: str | None) -> Child:
    text = asked_text(row)
    refused: Reason | None = None
    if not answer:
        refused = "made_without_answer"
    elif not _SHORTEST * len(text) <= len(answer) <= _LONGEST * len(text):
        refused = "made_of_odd_length"
    return Child(int(str(row["row"])), with_asked_text(row, answer or ""), refused)


def _language_of(text: str) -> str:
    """The language to come back to: Chinese by its characters, else the one that the first words are in."""
    if len(_HAN.findall(text)) >= _CHINESE_SHARE * len(text):
        return "Chinese (Simplified)"
    return "English" if text.isascii() else f"the language of these words: {text[:80]!r}"
