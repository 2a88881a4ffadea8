"""The thread that writes a run's record at intervals and when asked."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Heartbeat(threading.Thread):
    """Calls ``beat`` every ``interval`` seconds and once more when stopped.

    All beats happen in this thread, which no signal interrupts, so ctrl-C cannot break one off halfway.
    """

    def __init__(self, beat: Callable[[], None], interval: float) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._beat, self._interval = beat, interval
        self._condition = threading.Condition()
        self._asked = self._done = 0
        self._stopping = False

    def run(self) -> None:  # noqa: D102
        stopping = False
        while not stopping:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._asked > self._done, timeout=self._interval)
                stopping, asked = self._stopping, self._asked
            self._beat()
            with self._condition:
                self._done = asked
                self._condition.notify_all()

    def now(self) -> None:
        """Beat now and return when it is done."""
        with self._condition:
            self._asked += 1
            mine = self._asked
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._done >= mine or not self.is_alive())

    def stop(self) -> None:
        """Beat a last time and end the thread."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        self.join()
