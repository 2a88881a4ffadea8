"""Why a server does not do what it was asked to, in one sentence that says what to do about it."""

from __future__ import annotations

import pymongo.errors

from incasem_like.errors import StoreError

_UNAUTHORIZED = 13


def no_answer(description: str) -> StoreError:
    """Make the error of a server that is gone."""
    return StoreError(f"{description} does not answer: start the server and try again.")


def refusal(description: str, doing: str, error: pymongo.errors.OperationFailure) -> StoreError:
    """Make the error of a server that refuses.

    Args:
        description: Of the database.
        doing: What it was to be: ``read``, ``written``.
        error: What the server said; its own words may quote what they should not.
    """
    if isinstance(error, pymongo.errors.WTimeoutError):
        return StoreError(
            f"{description} cannot bring a write to most members of its replica set: start those that are down, or add "
            "w=1 to the URL, which may lose the newest entries when a member fails."
        )
    if error.code == _UNAUTHORIZED:
        return StoreError(
            f"{description} refuses to be {doing} without a user name and password that have the right to: give them "
            "as mongodb://USER:PASSWORD@HOST:PORT, or have its administrator grant readWrite."
        )
    return StoreError(f"{description} refuses to be {doing} (code {error.code}): check the user's rights.")
