"""Rows that a verb looks at: a run's, a recipe's as it would be read now, or those of a file or a folder."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tunesmith.cli.manner import tell
from tunesmith.cli.work import find_run
from tunesmith.core.errors import TunesmithError
from tunesmith.messages import say

if TYPE_CHECKING:
    from tunesmith.data.diff import Compared, Side
    from tunesmith.data.prepared import Prepared

What = Literal["run", "recipe", "file"]
_RECIPES = (".yaml", ".yml")


def looked_at(path: Path) -> tuple[What, Side, Prepared | None]:
    """What a path is, and its rows; what was prepared for this look, too. Errors: those of the three readers.

    A folder is a run, or holds runs (the newest is taken), or else it holds files of rows.
    """
    from tunesmith.data.sides import side_of_file, side_of_recipe, side_of_run

    if path.suffix.lower() in _RECIPES and not path.is_dir():
        return ("recipe", *side_of_recipe(path))
    run = run_in(path)
    if run is not None:
        return "run", side_of_run(run), None
    return ("file", *side_of_file(path))


def side_of(path: Path) -> Side:
    """The rows of a run, a recipe or a file. Errors: those of `looked_at`."""
    return looked_at(path)[1]


def compared_of(path: Path) -> Compared:
    """The same, or a corpus, for a comparison. Errors: those of `looked_at` and `side_of_corpus`."""
    from tunesmith.data.corpus.side import side_of_corpus
    from tunesmith.data.corpus.stated import is_corpus

    return side_of_corpus(path) if is_corpus(path) else side_of(path)


def run_in(path: Path) -> Path | None:
    """The run that a folder is or holds; None where there is none."""
    if not path.is_dir():
        return None
    try:
        return find_run(path)
    except TunesmithError:
        return None


def fate_words(label: str) -> str:
    """A fate with its reason, as the ledger sums them up, in words."""
    fate, _, reason = label.partition(": ")
    words = say(f"data.fate_{fate}")
    if not reason:
        return words
    try:
        reason = say(f"data.reason_{reason}")
    except KeyError:
        pass  # of an older version: as it stands in the ledger
    return say("cli.fate_reason", fate=words, reason=reason)


def tell_fates(fates: Mapping[str, int], changed: Mapping[str, tuple[int, int]]) -> None:
    """Say how many rows met each fate, and by what rules how many rows were changed at how many places."""
    for label, rows in fates.items():
        tell(say("cli.rows_fated", fate=fate_words(label), rows=f"{rows:,}"))
    for rule, (rows, places) in changed.items():
        tell(say("cli.rows_changed", rule=say(f"data.change_{rule}"), rows=f"{rows:,}", places=f"{places:,}"))


def refuse_dropped(name: str, fates: Mapping[str, int]) -> None:
    """Errors: versions.rows_refused where any row would be dropped."""
    gone = {label: count for label, count in fates.items() if label.startswith("dropped")}
    if gone:
        most = fate_words(max(gone, key=lambda label: gone[label]))
        raise TunesmithError("versions.rows_refused", path=name, rows=sum(gone.values()), reason=most)


def visible(text: str) -> str:
    """Text of a row without signs that steer a terminal or turn the direction of what follows (joiners stay)."""
    return "".join(
        sign if sign in "\n\t\u200c\u200d" or unicodedata.category(sign) not in ("Cc", "Cf", "Cs") else "\ufffd"
        for sign in text
    )
