"""Signals that end a training: noted on arrival, handled between steps, so that no update is left unfinished."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

NOTICE = b"\nStopping after this step; once more stops at once.\n"
STANDARD_ERROR = 2
ECHO_SECONDS = 5  # torchrun passes a ctrl-C on that the terminal sent to this process, too
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """A context in which the first SIGINT, SIGTERM or SIGHUP is only noted; a second has its usual effect at once.

    On leaving the context the previous handlers are restored. Signals that were ignored when the process started
    (``nohup``, a background job) stay ignored. Outside the main thread it does nothing, since signals
    arrive only there.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._noted = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.signal is not None

    def deliver(self) -> None:
        """Let the noted signal have its usual effect: KeyboardInterrupt, or the handler of the tracking package."""
        if self.signal is None:
            return
        self._put_back()
        signal.raise_signal(self.signal)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() < self._noted + ECHO_SECONDS:
                return
            self._put_back()
            signal.raise_signal(number)
            return
        self.signal, self._noted = number, time.monotonic()
        with contextlib.suppress(OSError):  # the terminal was closed
            os.write(STANDARD_ERROR, NOTICE)  # print() is not reentrant and may fail here

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
