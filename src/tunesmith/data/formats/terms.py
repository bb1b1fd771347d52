"""Whether a row may be used: who gave it agreed, and it is not older than may be kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from tunesmith.data.defects import Reason
from tunesmith.data.formats.times import moment_of
from tunesmith.data.formats.words import says_yes
from tunesmith.recipe.specs.sources import TermsSpec


def refused_by(terms: TermsSpec, row: Mapping[str, object]) -> Reason | None:
    """Why the terms keep a row out; None where they do not. What is missing or cannot be read counts as a no."""
    if terms.consent is not None and not says_yes(row.get(terms.consent)):
        return "no_consent"
    if terms.time is not None and terms.since is not None:
        moment = moment_of(row.get(terms.time))
        if moment is None or moment.date() < date.fromisoformat(terms.since):
            return "too_old"
    return None
