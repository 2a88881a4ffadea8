"""Values as stores hold them: plain JSON, keys that MongoDB accepts, no credentials, and times in UTC."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any

# A password may hold a slash that nobody escaped; in other URLs an @ behind the first slash belongs to the path.
# Schemes are short: to look for longer ones would take a time that grows with the square of a long word's length.
# Where a text begins with MongoDB's URL, the password may hold blanks and quotation marks, which nobody escaped either.
_CREDENTIALS = re.compile(
    r"\A(?P<whole>mongodb(?:\+srv)?://)[^\n]{0,400}@"
    r"|(?P<scheme>mongodb(?:\+srv)?://)[^\s'\"]*@|(?P<other>[A-Za-z][A-Za-z0-9+.-]{0,40}://)[^/\s'\"]*@"
)
_LARGEST_BSON_INTEGER = 2**63 - 1
# MongoDB and Omniboard read a dot in a key as a path and a leading dollar as an operator; these look like them, and the
# percent sign marks a key that had one of the stand-ins in the first place.
_DOT, _DOLLAR, _ESCAPE = "\uff0e", "\uff04", "\uff05"
_STAND_INS = re.compile(f"[{_DOT}{_DOLLAR}{_ESCAPE}]")
_WRITTEN = re.compile(f"{_ESCAPE}(.)|{_DOT}|{_DOLLAR}", re.DOTALL)


def plain(value: Any) -> Any:
    """Copy a value into plain JSON: dict with text keys, list, str, int, float, bool, None.

    NumPy and torch scalars become Python numbers, arrays and sets become lists, paths and enum members their text.
    Sacred's own serializer would write ``{"py/object": …}`` for them, which neither a person nor Omniboard can read.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    for base in (str, bool, int, float):
        if isinstance(value, base):
            return base(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)


def without_credentials(value: Any) -> Any:
    """Copy a plain value with ``user:password@`` taken out of every URL in its texts."""
    if isinstance(value, str):
        return _CREDENTIALS.sub(lambda found: found[found.lastgroup or 0], value) if "@" in value else value
    if isinstance(value, dict):
        return {key: without_credentials(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_credentials(item) for item in value]
    return value


def to_bson(value: Any) -> Any:
    """Make a plain value fit for MongoDB: dots and leading dollars in keys, and integers beyond 64 bits (then text)."""
    if isinstance(value, dict):
        return {escape_key(key): to_bson(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_bson(item) for item in value]
    if type(value) is int and not -_LARGEST_BSON_INTEGER - 1 <= value <= _LARGEST_BSON_INTEGER:
        return str(value)
    return value


def from_bson(value: Any) -> Any:
    """Undo ``to_bson`` on what MongoDB gives back."""
    if isinstance(value, dict):
        return {unescape_key(key): from_bson(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_bson(item) for item in value]
    return value


def escape_key(key: str) -> str:
    """Write a key so that MongoDB and Omniboard take it."""
    key = _STAND_INS.sub(lambda found: _ESCAPE + found[0], key).replace(".", _DOT)
    return _DOLLAR + key[1:] if key.startswith("$") else key


def unescape_key(key: str) -> str:
    """Undo ``escape_key``."""
    if key.isascii():  # as nearly all are
        return key
    return _WRITTEN.sub(lambda found: found[1] or {_DOT: ".", _DOLLAR: "$"}[found[0]], key)


def as_utc(value: str | datetime) -> datetime:
    """Read a moment, in UTC and saying so."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def now() -> datetime:
    """Return the present in UTC without a time zone, as Sacred and MongoDB keep it."""
    return datetime.now(UTC).replace(tzinfo=None)


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


def is_number(value: Any) -> bool:
    """Return whether a value is an integer or a float; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a value that is a mapping; an empty one for anything else."""
    return value if type(value) is dict or isinstance(value, Mapping) else {}


def as_sequence(value: Any) -> Sequence[Any]:
    """Return a value that is a list or tuple; an empty one for anything else."""
    return value if isinstance(value, (list, tuple)) else ()
