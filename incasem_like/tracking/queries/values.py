"""Values of runs as text, and times, durations and sizes as a person types them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from incasem_like.errors import InputError

STATUSES = ("RUNNING", "COMPLETED", "FAILED", "INTERRUPTED", "KILLED", "DAMAGED", "QUEUED", "TIMED_OUT")
_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_QUANTITY = re.compile(r"^([\d.]+(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)$")
_DATE = re.compile(r"^(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?$")


def shown(value: Any) -> str:
    """Write a value as text: lists and mappings as JSON, true, false and none in small letters."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds")
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def read_period(text: str, now: datetime | None = None) -> tuple[datetime, datetime]:
    """Read a year, month, day, moment, ``today`` or ``yesterday`` of this machine's time zone.

    Returns:
        The first moment of it and the first after it; a moment lasts for one second, or a minute where none is given.

    Raises:
        InputError: It is no time.
    """
    midnight = (now or datetime.now()).replace(hour=0, minute=0, second=0, microsecond=0)
    days = {"today": midnight, "yesterday": midnight - timedelta(days=1)}
    if text.lower() in days:
        begin = days[text.lower()]
        return begin.astimezone(), (begin + timedelta(days=1)).astimezone()
    try:
        if found := _DATE.match(text):
            year, month, day = (int(part) if part else None for part in found.groups())
            assert year is not None
            begin = datetime(year, month or 1, day or 1)
            if day:
                return begin.astimezone(), (begin + timedelta(days=1)).astimezone()
            following = datetime(year + 1, 1, 1) if month in (None, 12) else datetime(year, (month or 0) + 1, 1)
            return begin.astimezone(), following.astimezone()
        begin = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"'{text}' is no time: write 2026-01-31, 2026-01, '2026-01-31 14:30', today or yesterday."
        ) from None
    length = timedelta(seconds=1 if text.count(":") > 1 else 60)
    return begin.astimezone(), (begin + length).astimezone()


def read_seconds(text: str) -> float:
    """Read a duration in seconds: ``90``, ``90s``, ``5min``, ``2h``, ``1.5d``.

    Raises:
        InputError: It is no duration.
    """
    found = _QUANTITY.match(text)
    unit = _SECONDS.get((found[2] or "s").lower()) if found else None
    if found is None or unit is None:
        raise InputError(f"'{text}' is no duration: write seconds, or a number with s, min, h or d, such as 2h.")
    return float(found[1]) * unit


def read_bytes(text: str) -> float:
    """Read a size in bytes: ``1000``, ``20MB``, ``1.5GB``.

    Raises:
        InputError: It is no size.
    """
    found = _QUANTITY.match(text)
    unit = _BYTES.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise InputError(f"'{text}' is no size: write bytes, or a number with kB, MB, GB or TB, such as 1.5GB.")
    return float(found[1]) * unit
