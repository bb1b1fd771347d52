"""Times as files state them, on one clock."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

_DIGITS_OF_A_DATE = 8
"""Eight digits, such as 20260131, are a day: as seconds they would all lie in the year 1970."""


def moment_of(value: object) -> datetime | None:
    """The moment in UTC of an ISO 8601 time (without a zone it is UTC), of a day (its beginning), or of seconds since
    1970; None for anything else.
    """
    try:
        if isinstance(value, str):
            value = _spelled(value.strip())
        if isinstance(value, int) and len(str(value)) == _DIGITS_OF_A_DATE:
            value = datetime.fromisoformat(str(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def _spelled(text: str) -> float | datetime:
    """Raises ValueError."""
    is_number = text.replace(".", "", 1).isdecimal() and len(text) != _DIGITS_OF_A_DATE
    return float(text) if is_number else datetime.fromisoformat(text)
