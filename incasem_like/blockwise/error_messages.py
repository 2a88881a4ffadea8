"""Errors of blocks as a worker tells them to the scheduler, and back."""

from __future__ import annotations

import incasem_like.errors
from incasem_like.blockwise.channel import Message
from incasem_like.blockwise.queue import BlockError
from incasem_like.errors import IncasemError

LONGEST_SENTENCE, LONGEST_TRACE = 2000, 6000  # characters


def error_message(error: BlockError) -> Message:
    """Tell an error in plain values; of a long trace the end."""
    sentence = str(error.error)[:LONGEST_SENTENCE]
    return {"kind": type(error.error).__name__, "message": sentence, "trace": error.trace[-LONGEST_TRACE:]}


def told_error(plain: Message, worker: str) -> BlockError:
    """Make an error of ours of what a worker told; of a class that is not known, the most general one."""
    kind = getattr(incasem_like.errors, str(plain["kind"]), IncasemError)
    if not (isinstance(kind, type) and issubclass(kind, IncasemError)):
        kind = IncasemError
    return BlockError(kind(str(plain["message"])), str(plain["trace"]), worker)
