"""Connections to a MongoDB server, and its errors in one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import pymongo.errors

from incasem_like.errors import NoAnswerError, StoreError

_UNAUTHORIZED = 13
AUTHENTICATION_FAILED = 18
# What a replica set has not given to most of its members it may take back when one of them fails. It says that it could
# not within a shorter time than the client waits for an answer. A server by itself takes no notice of either.
_UNLESS_THE_URL_SAYS_OTHERWISE = {
    "serverSelectionTimeoutMS": 4000,
    "connectTimeoutMS": 4000,
    "socketTimeoutMS": 20000,
    "w": "majority",
    "wTimeoutMS": 15000,
}


@contextlib.contextmanager
def server_errors(description: str, doing: str) -> Iterator[None]:
    """Turn errors of the server into errors for users; what it was to be, is ``read`` or ``written``."""
    try:
        yield
    except pymongo.errors.ConnectionFailure:
        raise NoAnswerError(f"{description} does not answer: start the server and try again.") from None
    except pymongo.errors.WTimeoutError:
        raise StoreError(
            f"{description} cannot bring a write to most members of its replica set: start those that are down, or add "
            "w=1 to the URL, which may lose the newest entries when a member fails."
        ) from None
    except pymongo.errors.OperationFailure as error:  # without its own words, which may quote what they should not
        if error.code == _UNAUTHORIZED:
            raise StoreError(
                f"{description} refuses to be {doing} without a user name and password that have the right to: give "
                "them as mongodb://USER:PASSWORD@HOST:PORT, or have its administrator grant readWrite."
            ) from None
        raise StoreError(f"{description} refuses to be {doing} (code {error.code}): check the user's rights.") from None


def connection_options(url: str) -> dict[str, Any]:
    """Return the options of a client that the URL leaves open."""
    said = {name.lower() for name, _ in parse_qsl(url.partition("?")[2], keep_blank_values=True)}
    return {name: value for name, value in _UNLESS_THE_URL_SAYS_OTHERWISE.items() if name.lower() not in said}


def reason_of(error: Exception, what: str) -> str:
    """Describe why the server did not take something, for a sentence that names it, without addresses or values."""
    if isinstance(error, pymongo.errors.ConnectionFailure):
        return "does not answer"
    if isinstance(error, pymongo.errors.WTimeoutError):
        return f"cannot bring {what} to most members of its replica set"
    if isinstance(error, pymongo.errors.OperationFailure):
        return f"refuses {what} ({(error.details or {}).get('codeName') or f'code {error.code}'})"
    return f"cannot be given {what} ({type(error).__name__})"
