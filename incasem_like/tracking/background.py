"""A thread that does something at intervals and when asked, such as to write a run's record."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("incasem_like.tracking")
SECONDS_BETWEEN_HEARTBEATS = 10.0
_SECONDS_BETWEEN_LOOKS = 0.5


class Heartbeat(threading.Thread):
    """Calls ``beat`` every ``interval`` seconds and once more when stopped.

    All beats happen in this thread, which no signal interrupts, so ctrl-C cannot break one off halfway. A beat that
    fails does not end it.
    """

    def __init__(self, beat: Callable[[], None], interval: float, name: str = "heartbeat") -> None:
        super().__init__(name=name, daemon=True)
        self._beat, self._interval = beat, interval
        self._condition = threading.Condition()
        self._asked = self._done = 0
        self._stopping = self._complained = False

    def run(self) -> None:  # noqa: D102
        stopping = False
        while not stopping:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._asked > self._done, timeout=self._interval)
                stopping, asked = self._stopping, self._asked
            try:
                self._beat()
            except Exception as error:
                if not self._complained:
                    log.warning("The %s of a run failed (%s): it is tried again.", self.name, type(error).__name__)
                self._complained = True
            with self._condition:
                self._done = asked
                self._condition.notify_all()

    def ask(self) -> int:
        """Request a beat soon, without waiting; return what to pass to ``wait``."""
        with self._condition:
            self._asked += 1
            self._condition.notify_all()
            return self._asked

    def wait(self, asked: int, seconds: float | None = None) -> bool:
        """Wait for the beat that was asked for, at most some seconds, and say whether it is done.

        A thread that is gone, as after a fork, is not waited for.
        """
        left = seconds
        with self._condition:
            while self._done < asked and self.is_alive() and (left is None or left > 0):
                look = _SECONDS_BETWEEN_LOOKS if left is None else min(left, _SECONDS_BETWEEN_LOOKS)
                self._condition.wait(look)
                left = None if left is None else left - look
            return self._done >= asked

    def now(self) -> None:
        """Beat now and return when it is done."""
        self.wait(self.ask())

    def stop(self, seconds: float | None = None) -> None:
        """Beat a last time and end the thread; after some seconds leave it to itself."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self.join(seconds)
