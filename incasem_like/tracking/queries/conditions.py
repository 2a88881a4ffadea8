"""Conditions on runs, as typed: ``status=COMPLETED``, ``dice>0.8``, ``name~mito``, ``started>2026-01-01``."""

from __future__ import annotations

import contextlib
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from incasem_like.errors import InputError
from incasem_like.terminal import nearest
from incasem_like.tracking.queries.fields import Field
from incasem_like.tracking.values import is_number

if TYPE_CHECKING:
    from incasem_like.tracking.model.summaries import RunSummary

STATUSES = ("RUNNING", "COMPLETED", "FAILED", "INTERRUPTED", "KILLED", "DAMAGED", "QUEUED", "TIMED_OUT")
_SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
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

    Returns its first moment and the first after it; a moment lasts for one second, or a minute where none is given.
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
            f"'{text}' is not a time: write 2026-01-31, 2026-01, '2026-01-31 14:30', today or yesterday."
        ) from None
    length = timedelta(seconds=1 if text.count(":") > 1 else 60)
    return begin.astimezone(), (begin + length).astimezone()


def read_seconds(text: str) -> float:
    """Read a duration in seconds: ``90``, ``90s``, ``5min``, ``2h``, ``1.5d``."""
    return _quantity(text, _SECONDS, "a duration: write seconds, or a number with s, min, h or d, such as 2h")


def read_bytes(text: str) -> float:
    """Read a size in bytes: ``1000``, ``20MB``, ``1.5GB``."""
    return _quantity(text, _BYTES, "a size: write bytes, or a number with kB, MB, GB or TB, such as 1.5GB")


def _quantity(text: str, units: Mapping[str, float], what: str) -> float:
    found = _QUANTITY.match(text)
    if found is None or found[2].lower() not in units:
        raise InputError(f"'{text}' is not {what}.")
    return float(found[1]) * units[found[2].lower()]


_FORM = re.compile(r"^\s*([^=!<>~]+?)\s*(!=|<=|>=|==|=|<|>|~)\s*(.*?)\s*$", re.DOTALL)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip
_NOTHING = ("", "none", "null")
Test = Callable[[Any], bool]


@dataclass(frozen=True)
class Condition:
    """One condition, as typed; ``~`` searches a regular expression in the text."""

    name: str
    sign: str
    value: str

    def compile(self, field: Field) -> Callable[[RunSummary], bool]:
        """Make the test of a run; ``InputError`` if the field cannot be compared with the value.

        A run without a value meets ``!=`` and ``=none`` only. Of several values (tags) one is enough, except that
        ``!=`` wants all of them different.
        """
        if self.value.lower() in _NOTHING and self.sign in ("=", "!="):
            return lambda run: (field.read(run) in (None, ())) == (self.sign == "=")
        test = self._test(field)

        def holds(run: RunSummary) -> bool:
            value = field.read(run)
            values = value if isinstance(value, tuple) else (value,)
            found = any(test(one) for one in values if one is not None)
            return not found if self.sign == "!=" else found

        return holds

    def _test(self, field: Field) -> Test:
        """The test of one value; for ``!=`` that of ``=``."""
        if self.sign == "~":
            try:
                pattern = re.compile(self.value, re.IGNORECASE)
            except re.error as error:
                raise InputError(
                    f"'{self.value}' in '{self}' is not a regular expression ({error}): correct it."
                ) from None
            return lambda value: pattern.search(shown(value)) is not None
        if field.quantity == "time":
            begin, end = read_period(self.value)
            tests: dict[str, Test] = {
                "<": lambda moment: moment < begin,
                "<=": lambda moment: moment < end,
                ">": lambda moment: moment >= end,
                ">=": lambda moment: moment >= begin,
            }
            return tests.get(self.sign, lambda moment: begin <= moment < end)
        if field.quantity == "status" and self.value.upper() not in STATUSES:
            raise InputError(
                f"Unknown status '{self.value}'{nearest(self.value.upper(), STATUSES)}: choose one of "
                f"{', '.join(STATUSES)}."
            )
        measured = field.quantity in ("seconds", "bytes")
        number: float | None = None
        if measured:
            number = read_seconds(self.value) if field.quantity == "seconds" else read_bytes(self.value)
        else:
            with contextlib.suppress(ValueError):
                number = float(self.value)
        if measured or self.sign in _ORDER:
            if number is None:
                raise InputError(
                    f"'{self}' compares with '{self.value}', but {self.sign} compares numbers and times: use = or ~."
                )
            compare: Callable[[Any, Any], bool] = _ORDER.get(self.sign, operator.eq)
            return lambda value: is_number(value) and compare(value, number)
        wanted, parsed = self.value.strip("\"'").lower(), self.value
        with contextlib.suppress(json.JSONDecodeError):
            parsed = json.loads(self.value)

        def equal(value: Any) -> bool:
            if is_number(value):
                return number is not None and bool(value == number)
            return value == parsed or shown(value).lower() == wanted

        return equal

    def __str__(self) -> str:
        return f"{self.name}{self.sign}{self.value}"


def parse_condition(text: str) -> Condition:
    """Read a condition; ``InputError`` if it has no operator, or nothing before it."""
    found = _FORM.match(text)
    if found is None:
        raise InputError(
            f"'{text}' is not a condition: write NAME=VALUE with one of = != < <= > >= ~, quoted when it holds < or >, "
            "which the shell takes for itself: 'dice>0.8'."
        )
    name, sign, value = found.groups()
    return Condition(name, "=" if sign == "==" else sign, value)
