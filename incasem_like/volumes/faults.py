"""Translation of TensorStore's errors into one-sentence errors of the right class."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import re
from collections.abc import Iterator
from contextlib import contextmanager

from incasem_like.errors import DataError, DiskFullError, IncasemError, InputError

logger = logging.getLogger(__name__)
_STATUS = re.compile(r"^([A-Z_]{4,}): ")
_FILE = re.compile(r'(?:local file|key) "([^"]+)"')
_DETAIL = re.compile(r" \[[a-z_]+='.*$", re.DOTALL)
_NO_SPACE = ("No space left on device", "Disk quota exceeded", "os_error_code='28'", "os_error_code='122'")
_NOT_PERMITTED = (
    "Permission denied",
    "Operation not permitted",
    "Read-only file system",
    "HTTP status: 403",
    "code='403'",
)
_TOO_LONG = "File name too long"
_DAMAGED = {"FAILED_PRECONDITION", "DATA_LOSS", "INVALID_ARGUMENT", "OUT_OF_RANGE"}
_UNREACHABLE = {"ABORTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "UNAUTHENTICATED", "CANCELLED"}


class NotOpenedError(DataError):
    """An array whose metadata are damaged, or use features that TensorStore does not support.

    Attributes:
        reason: The reason as TensorStore states it.
    """

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"{address} cannot be opened ({reason}): its metadata are damaged or use what is not supported; "
            "restore them, or rewrite it with blosc, zstd or gzip."
        )
        self.reason = reason


@contextmanager
def translated(address: object, doing: str) -> Iterator[None]:
    """Turn TensorStore's errors into one sentence about ``address``.

    Args:
        address: The array or file being worked on, for the message.
        doing: ``"opening"``, ``"reading"`` or ``"writing"``.

    Raises:
        DiskFullError: The disk or quota is full.
        InputError: Not permitted, or the address cannot be written.
        DataError: A file is damaged, missing or unreachable.
    """
    try:
        yield
    except IncasemError:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        message = str(error)
        status = _STATUS.match(message)
        if status is None and not any(words in message for words in (*_NO_SPACE, *_NOT_PERMITTED, _TOO_LONG)):
            raise
        raise _meaning(status[1] if status else "", message, str(address), doing) from error


def _meaning(status: str, message: str, address: str, doing: str) -> IncasemError:
    file = _FILE.search(message)
    place = file[1].split("\x00")[0].removesuffix(".__lock") if file else address
    reason = short_reason(message)
    if any(words in message for words in _NO_SPACE):
        return DiskFullError(
            f"No space is left on the disk while writing {address}: free some and run the same command again."
        )
    if status == "PERMISSION_DENIED" or any(words in message for words in _NOT_PERMITTED):
        return InputError(f"Not permitted while {doing} {place}: change its permissions or choose another location.")
    if _TOO_LONG in message:
        return InputError(f"{address} has a name that is too long for the file system: choose a shorter one.")
    if doing == "writing" and status in {"NOT_FOUND", *_DAMAGED}:
        return InputError(f"{address} cannot be written ({reason}): choose a folder that can be.")
    if status == "NOT_FOUND":
        return DataError(f"{address} has no {place}: check the path.")
    if doing == "opening" and status in _DAMAGED:
        return NotOpenedError(address, reason)
    if status in _DAMAGED:
        return DataError(
            f"{address} is damaged: {place} cannot be decoded ({reason}); restore that file or write the dataset again."
        )
    if status in _UNREACHABLE:
        return DataError(f"{address} cannot be reached ({reason}): check the address and the connection.")
    return DataError(f"{doing.capitalize()} {address} failed ({reason}): check the path.")


def short_reason(message: str) -> str:
    """Return the most specific clause of a TensorStore message: what follows the file's name, or the last one."""
    text = _DETAIL.sub("", message).replace("\x00", "/")
    about_file = re.split(r'(?:local file|key) "[^"]+": ', text)
    clause = about_file[-1] if len(about_file) > 1 else text.rsplit(": ", 1)[-1]
    return clause.split(";")[0].strip().rstrip(".") or "no reason given"


def warn_once(sentence: str) -> None:
    """Log each distinct warning once; worker processes leave it to the process that started them."""
    if multiprocessing.parent_process() is None:
        _warn(sentence)


@functools.cache
def _warn(sentence: str) -> None:
    logger.warning(sentence)
