"""What a run prints, kept beside what the terminal shows."""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, TextIO

from incasem_like.tracking.values import without_credentials

_MOVES_CURSOR = re.compile(r"\x1b\[(?:\d*[ABFGHJK]|\?25[lh])|\r(?!\n)")
_CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class OutputCapture:
    """Copies what Python code writes to stdout and stderr, from any thread of this process.

    Redrawn progress bars are left out, and of long output ``head`` characters of the beginning and about ``tail`` of
    the end are kept, so that a run of weeks does not fill memory or the record. Child processes are not captured: to
    share one pipe with them would let a worker that outlives the run hold it open.
    """

    def __init__(self, head: int = 200_000, tail: int = 600_000) -> None:
        self._room, self._limit = head, tail
        self._head: list[str] = []
        self._tail: deque[str] = deque()
        self._tail_length = 0
        self._dropped = False
        self._lock = threading.Lock()
        self._replaced = contextlib.ExitStack()

    def __enter__(self) -> OutputCapture:
        for original, redirect in (
            (sys.stdout, contextlib.redirect_stdout),
            (sys.stderr, contextlib.redirect_stderr),
        ):
            tee: Any = _Tee(original, self)
            self._replaced.enter_context(redirect(tee))
            _redirect_handlers(original, tee)
            self._replaced.callback(_redirect_handlers, tee, original)
        return self

    def __exit__(self, *error: object) -> None:
        self._replaced.close()

    def take(self, text: str) -> None:
        """Add a piece of output."""
        if not text or _MOVES_CURSOR.search(text):
            return
        text = _CONTROL_SEQUENCE.sub("", text)
        with self._lock:
            if self._room > 0:
                self._head.append(text[: self._room])
                text, self._room = text[self._room :], self._room - len(text)
            if text:
                self._tail.append(text)
                self._tail_length += len(text)
            while self._tail_length > self._limit and len(self._tail) > 1:
                self._tail_length -= len(self._tail.popleft())
                self._dropped = True

    def text(self) -> str:
        """Return the output, without credentials."""
        with self._lock:
            gap = "\n[… output left out …]\n" if self._dropped else ""
            kept = "".join(self._head) + gap + "".join(self._tail)
        return str(without_credentials(kept))


class _Tee:
    """A text stream that also shows what it is given to a capture; it outlives the terminal or pipe behind it."""

    def __init__(self, stream: TextIO, capture: OutputCapture) -> None:
        self._stream, self._capture = stream, capture

    def write(self, text: str) -> int:
        self._capture.take(text)
        with _reader_may_be_gone():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with _reader_may_be_gone():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _reader_may_be_gone() -> Iterator[None]:
    """Pass over a closed terminal or pipe: the work continues, or is interrupted in its own time, without a reader."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EPIPE):
            raise


def _redirect_handlers(before: Any, after: Any) -> None:
    """Redirect the root logger's handlers from one stream to another."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(after)
