"""Whether a row may be used: who gave it agreed, and it is not older than may be kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime

from tunesmith.data.defects import Reason
from tunesmith.data.formats.words import says_yes
from tunesmith.recipe.specs.sources import TermsSpec


def refused_by(terms: TermsSpec, row: Mapping[str, object]) -> Reason | None:
    """Why the terms keep a row out; None where they do not. What is missing or cannot be read counts as a no."""
    if terms.consent is not None and not says_yes(row.get(terms.consent)):
        return "no_consent"
    if terms.time is not None and terms.since is not None:
        day = _day(row.get(terms.time))
        if day is None or day < date.fromisoformat(terms.since):
            return "too_old"
    return None


def _day(value: object) -> date | None:
    """The day in UTC of a time: ISO 8601 (without a zone it is UTC), a date, or seconds since 1970."""
    try:
        if isinstance(value, str):
            value = float(value) if value.replace(".", "", 1).isdecimal() else datetime.fromisoformat(value.strip())
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC).date()
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).date()
    except (ValueError, OverflowError, OSError):
        return None
    return value if isinstance(value, date) else None
