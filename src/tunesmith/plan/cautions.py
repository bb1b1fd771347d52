"""Warnings about how settings, rows and base go together: what the ranges of `advise` cannot see one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunesmith.core.errors import Fact
from tunesmith.plan.advise import SMALL_DATA_ROWS, Advice
from tunesmith.recipe.specs.train import TrainSpec

MANY_EPOCHS = 5.0
LONG_EPOCHS = 3.0
FAR_ABOVE = 8
"""Times the longest row from which a length limit guards against nothing."""
CUT_SHARE = 0.01
CHINESE_SHARE = 0.2
"""Share of Chinese characters from which rows count as Chinese."""
LONG_HOURS = 2.0
_HAN = ("\u4e00", "\u9fff")


@dataclass(frozen=True)
class RowFacts:
    """Training rows: their number, the longest in tokens, those cut at the limit, share of Chinese characters."""

    rows: int
    longest: int
    cut_rows: int
    chinese_share: float


@dataclass(frozen=True)
class BaseFacts:
    """The base: languages of a known one (empty: nobody says), and the format its weights were rounded to (or "")."""

    languages: tuple[str, ...] = ()
    rounded_to: str = ""


@dataclass(frozen=True)
class Circumstances:
    """What a caution looks at. `hours` is the forecast with nothing but training in it."""

    train: TrainSpec
    rows: RowFacts
    base: BaseFacts
    hours: float


@dataclass(frozen=True)
class Caution:
    """One caution: given when `applies`, said by sentence `plan.advice_<name>`; no source where it claims no figure."""

    name: str
    source: str
    applies: Callable[[Circumstances], bool]


def _foreign(facts: Circumstances) -> bool:
    languages = facts.base.languages
    speaks = not languages or "zh" in languages or "multilingual" in languages
    return not speaks and facts.rows.chinese_share > CHINESE_SHARE


CAUTIONS: tuple[Caution, ...] = (
    Caution("language", "", _foreign),
    Caution("rounded_base", "Dettmers and Zettlemoyer 2023, arXiv 2212.09720", lambda c: bool(c.base.rounded_to)),
    Caution(
        "many_epochs",
        "Ouyang et al. 2022, arXiv 2203.02155",
        lambda c: c.train.epochs > MANY_EPOCHS and c.rows.rows < SMALL_DATA_ROWS,
    ),
    Caution(
        "no_patience",
        "Prechelt 1998, Early Stopping - But When?",
        lambda c: c.train.epochs > LONG_EPOCHS and c.train.early_stopping.patience is None,
    ),
    Caution("cut_rows", "", lambda c: c.rows.cut_rows > CUT_SHARE * c.rows.rows),
    Caution("far_limit", "", lambda c: c.train.max_length > FAR_ABOVE * max(c.rows.longest, 1)),
    Caution("pilot", "", lambda c: c.hours > LONG_HOURS),
)


def cautions(facts: Circumstances) -> tuple[Advice, ...]:
    """Every caution that applies, the base's first."""
    figures: dict[str, Fact] = {
        "rows": facts.rows.rows,
        "longest": facts.rows.longest,
        "cut": facts.rows.cut_rows,
        "limit": facts.train.max_length,
        "epochs": f"{facts.train.epochs:g}",
        "hours": f"{facts.hours:.1f}",
        "languages": ", ".join(facts.base.languages),
        "chinese": f"{100 * facts.rows.chinese_share:.0f}%",
        "format": facts.base.rounded_to,
    }
    return tuple(Advice(each.name, each.source, figures) for each in CAUTIONS if each.applies(facts))


def chinese_share(texts: Sequence[str]) -> float:
    """Share of Chinese characters among those that are no blanks."""
    first, last = _HAN
    signs = [sign for text in texts for sign in text if not sign.isspace()]
    return sum(first <= sign <= last for sign in signs) / len(signs) if signs else 0.0
