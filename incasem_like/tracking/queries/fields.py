"""The fields of a run that can be shown and sorted by, and conditions on them as typed: ``dice>0.8``, ``name~mito``."""

from __future__ import annotations

import contextlib
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any, Literal

from incasem_like.errors import InputError
from incasem_like.terminal import nearest
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.model.summaries import RunSummary, flatten
from incasem_like.tracking.values import is_number

Quantity = Literal["plain", "time", "seconds", "bytes", "status"]
_LOWER = re.compile(r"loss|error|distance|voi|nvi|\bnid\b|edits|hausdorff|arand|cremi", re.IGNORECASE)
_HIGHER = re.compile(
    r"dice|jaccard|iou|precision|recall|f1|f_score|accuracy|auc|rand_index|panoptic|mean_ap|erl\b|run_length",
    re.IGNORECASE,
)
ORGANELLE = "organelle"
# Of a dataset such as volumes/labels/er or volumes/labels/mito_corrected the last part names the organelle.
_LABELS = re.compile(r"(?:^|/)labels?/([^/]+)/?$")
ALIASES = {
    "tag": "tags",
    "note": "notes",
    "start_time": "started",
    "stop_time": "stopped",
    "hostname": "host",
    "duration": "took",
    "run_id": "id",
}
STATUSES = ("RUNNING", "COMPLETED", "FAILED", "INTERRUPTED", "KILLED", "DAMAGED", "QUEUED", "TIMED_OUT")
_SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
_QUANTITY = re.compile(r"^([\d.]+(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)$")
_FORM = re.compile(r"^\s*([^=!<>~]+?)\s*(!=|<=|>=|==|=|<|>|~)\s*(.*?)\s*$", re.DOTALL)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge
}  # fmt: skip
_NOTHING = ("", "none", "null")
Test = Callable[[Any], bool]


@dataclass(frozen=True)
class Field:
    """Something that runs have a value of.

    Attributes:
        name: As a person wrote it; heads the column.
        meaning: The whole name of what is meant: ``training.optimizer.lr``, ``dice_class_1.max``.
        read: Returns a run's value: None where it has none, a tuple where it has several (tags).
        needs_inputs: Whether ``read`` needs the run's inputs.
        metric: The metric that it is a value of, if it is one.
    """

    name: str
    meaning: str
    read: Callable[[RunSummary], Any]
    quantity: Quantity = "plain"
    needs_inputs: bool = False
    metric: str | None = None


def better(metric: str) -> Literal["max", "min"] | None:
    """Return whether the largest or the smallest value of a metric is best; None where its name does not tell."""
    if _LOWER.search(metric):
        return "min"
    return "max" if _HIGHER.search(metric) else None


def config_field(name: str, key: str) -> Field:
    """The value of a configuration key."""
    return Field(name, key, lambda run: run.config.get(key))


def result_field(name: str, key: str) -> Field:
    """A value of what the run came to, by its dotted key."""
    return Field(name, f"result.{key}", lambda run: flatten(run.result).get(key))


def metric_field(name: str, metric: str, value: str | None = None) -> Field:
    """A metric's ``last``, ``min`` or ``max`` in a run; by default its best, or its last where none is better."""
    chosen = value or better(metric) or "last"

    def read(run: RunSummary) -> float | None:
        found = run.summary.get(metric, {}).get(chosen)
        return found if isinstance(found, (int, float)) and not math.isnan(found) else None

    return Field(name, f"{metric}.{chosen}", read, metric=metric)


def seconds_taken(run: RunSummary) -> float | None:
    """How long a run took, or takes since: up to its end, its last sign of life, or now; seconds."""
    if run.start_time is None:
        return None
    now = datetime.now(UTC) if run.status == "RUNNING" else None
    end = run.stop_time or now or run.heartbeat
    return None if end is None else max((end - run.start_time).total_seconds(), 0.0)


def organelle_labels(run: RunSummary) -> tuple[str, ...]:
    """The names of the label datasets that a run read: ``…/labels/er`` names ``er``."""
    labels = [found[1] for address in input_addresses(run) if (found := _LABELS.search(address))]
    return tuple(dict.fromkeys(labels))


def input_addresses(run: RunSummary) -> list[str]:
    """The datasets that a run read, one by one."""
    found: list[str] = []
    for entry in run.inputs:
        if entry.get("address"):
            found.append(str(entry["address"]))
        hashes = entry.get("content_hashes")
        found += list(map(str, hashes)) if isinstance(hashes, Mapping) else []
    return found


def _data(run: RunSummary) -> tuple[str, ...]:
    """Names of the data-config entries, else of the containers."""
    names = []
    for entry in run.inputs:
        place = str(entry.get("file") or entry.get("address") or "")
        container = next((part for part in PurePosixPath(place).parts if part.endswith((".zarr", ".n5"))), place)
        names.append(str(entry.get("name") or container))
    return tuple(dict.fromkeys(names))


def _iteration(run: RunSummary) -> int | None:
    reached = run.result.get("iteration") if isinstance(run.result, Mapping) else None
    return reached or (run.checkpoints[-1].iteration if run.checkpoints else None)


_COMMON = (
    Field("id", "id", lambda run: run.id),
    Field("kind", "kind", lambda run: singular(run.kind)),
    Field("name", "name", lambda run: run.name or None),
    Field("command", "command", lambda run: run.command or None),
    Field("status", "status", lambda run: run.status, "status"),
    Field("started", "start time", lambda run: run.start_time, "time"),
    Field("stopped", "stop time", lambda run: run.stop_time, "time"),
    Field("heartbeat", "last sign of life", lambda run: run.heartbeat, "time"),
    Field("took", "duration", seconds_taken, "seconds"),
    Field("host", "machine", lambda run: run.hostname or None),
    Field("comment", "comment", lambda run: run.comment or None),
    Field("tags", "tags", lambda run: run.tags),
    Field("notes", "notes", lambda run: run.notes or None),
    Field("result", "result", lambda run: run.result),
    Field("parent", "run it came from", lambda run: tuple(f"{singular(kind)} {id}" for kind, id in run.parents)),
    Field("iteration", "last iteration", _iteration),
    Field("checkpoints", "number of checkpoints", lambda run: len(run.checkpoints)),
    Field("size", "bytes of the checkpoints", lambda run: sum(c.bytes for c in run.checkpoints), "bytes"),
    Field("data", "entries of the data configuration", _data, needs_inputs=True),
    Field(ORGANELLE, "organelle", lambda run: organelle_labels(run) or run.tags, needs_inputs=True),
)
COMMON_FIELDS: Mapping[str, Field] = {field.name: field for field in _COMMON}


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
    today = (now or datetime.now()).date()
    named = {"today": str(today), "yesterday": str(today - timedelta(days=1))}
    text = named.get(text.lower(), text)
    for form, longest in (("%Y", 366), ("%Y-%m", 31), ("%Y-%m-%d", 1)):
        with contextlib.suppress(ValueError, OverflowError):
            begin = datetime.strptime(text, form)
            end = begin + timedelta(days=longest)
            end = datetime(end.year, 1 if form == "%Y" else end.month, end.day if longest == 1 else 1)
            return begin.astimezone(), end.astimezone()
    try:
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
