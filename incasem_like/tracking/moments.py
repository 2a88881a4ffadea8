"""Moments as stores keep them: ISO text, or a datetime with a time zone or, meaning UTC, without."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def as_utc(value: str | datetime) -> datetime:
    """Read a moment, in UTC and saying so."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def utc_moment(value: Any) -> datetime | None:
    """Read a moment, in UTC and saying so; None for what is none, for anybody may have written it."""
    try:
        return as_utc(value) if isinstance(value, (str, datetime)) else None
    except (ValueError, OverflowError):
        return None


def naive_utc(value: Any) -> datetime | None:
    """Read a moment in UTC without a time zone, as Sacred and MongoDB keep it; None for what is none."""
    moment = utc_moment(value)
    return None if moment is None else moment.replace(tzinfo=None)
