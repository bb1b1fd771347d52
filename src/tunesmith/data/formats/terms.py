"""Whether a row may be used: who gave it agreed, and it is not older than may be kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

from tunesmith.core.errors import TunesmithError
from tunesmith.data.defects import Reason
from tunesmith.data.formats.times import moment_of
from tunesmith.data.formats.words import says_yes
from tunesmith.recipe.specs.sources import TermsSpec


def today() -> date:
    """The day (UTC) that retention is held against."""
    return datetime.now(UTC).date()


def refused_by(terms: TermsSpec, row: Mapping[str, object], day: date) -> Reason | None:
    """Why the terms keep a row out on a day; None where they do not. What is missing or cannot be read counts as a no.

    Errors: data.undated_row where rows go after some days and the recipe does not say what holds without a time.
    """
    if terms.consent is not None and not says_yes(row.get(terms.consent)):
        return "no_consent"
    if terms.time is None:
        return None
    moment = moment_of(row.get(terms.time))
    if terms.since is not None and (moment is None or moment.date() < date.fromisoformat(terms.since)):
        return "too_old"
    if terms.retention_days is None:
        return None
    if moment is not None:
        return "retention_past" if moment.date() < day - timedelta(terms.retention_days) else None
    if terms.undated is None:
        raise TunesmithError("data.undated_row", column=terms.time, days=terms.retention_days)
    return "no_date" if terms.undated == "drop" else None
