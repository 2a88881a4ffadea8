"""An observer kept at a distance: in a thread of its own, where it may fail or hang without harm to the run."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import Any

from incasem_like.tracking.recording.sacred_quietly import RunObserver

log = logging.getLogger("incasem_like.tracking")

SECONDS_TO_FINISH = 10.0
MOST_WAITING = 1000


class GuardedObserver(RunObserver):  # type: ignore[misc]
    """Passes the events of a run on to another observer.

    Heartbeats that it is too slow for are left out, for the next one says the same and more; should it hang for long,
    the oldest events go. What it fails with is told by its type alone: messages quote addresses, and the address of a
    Slack webhook is its password.

    Args:
        observer: Any Sacred observer. The id it gives the run does not count.
        name: What it is called in messages.
    """

    def __init__(self, observer: Any, name: str) -> None:
        self.observer, self.name = observer, name
        self._waiting: deque[tuple[str, dict[str, Any]]] = deque()
        self._condition = threading.Condition()
        self._busy = False
        self._thread: threading.Thread | None = None
        self._complained: set[str] = set()
        self._files: Path | None = None

    def started_event(self, **event: Any) -> None:  # noqa: D102
        self._pass_on("started_event", event)

    def heartbeat_event(self, **event: Any) -> None:  # noqa: D102
        self._pass_on("heartbeat_event", event)

    def log_metrics(self, metrics_by_name: dict[str, Any], info: dict[str, Any]) -> None:  # noqa: D102
        if metrics_by_name:
            self._pass_on("log_metrics", {"metrics_by_name": metrics_by_name, "info": info})

    def resource_event(self, **event: Any) -> None:  # noqa: D102
        self._pass_on("resource_event", event)

    def artifact_event(self, name: str, filename: str, **event: Any) -> None:  # noqa: D102
        if self._files is None:
            self._files = Path(tempfile.mkdtemp(prefix="observed_"))
        kept = Path(tempfile.mkdtemp(dir=self._files)) / Path(filename).name
        shutil.copyfile(filename, kept)  # who added it may delete it before it is looked at
        self._pass_on("artifact_event", {"name": name, "filename": str(kept), **event})

    def completed_event(self, **event: Any) -> None:  # noqa: D102
        self._pass_on("completed_event", event)

    def interrupted_event(self, **event: Any) -> None:  # noqa: D102
        self._pass_on("interrupted_event", event)

    def failed_event(self, **event: Any) -> None:  # noqa: D102
        self._pass_on("failed_event", event)

    def join(self) -> None:
        """Wait a little for what is on its way."""
        self._pass_on("join", {})
        with self._condition:
            done = self._condition.wait_for(lambda: not self._waiting and not self._busy, timeout=SECONDS_TO_FINISH)
        if self._files is not None and done:
            shutil.rmtree(self._files, ignore_errors=True)
        if not done:
            log.warning("%s did not take the end of the run within %g s.", self.name, SECONDS_TO_FINISH)

    def _pass_on(self, method: str, event: dict[str, Any]) -> None:
        with self._condition:
            if method == "heartbeat_event" and self._waiting and self._waiting[-1][0] == method:
                self._waiting.pop()
            elif len(self._waiting) >= MOST_WAITING:
                self._waiting.popleft()
                self._complain("is too slow: some of the run is kept from it", "slow")
            self._waiting.append((method, copy.deepcopy(event)))  # it gets what was so now, and may change its own
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="observer", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def _work(self) -> None:
        method = ""
        while method != "join":
            with self._condition:
                self._condition.wait_for(lambda: bool(self._waiting))
                method, event = self._waiting.popleft()
                self._busy = True
            try:
                getattr(self.observer, method)(**event)
            except BaseException as error:
                self._complain(f"failed ({type(error).__name__}): the run goes on without it", method)
            with self._condition:
                self._busy = False
                self._condition.notify_all()

    def _complain(self, what: str, occasion: str) -> None:
        if occasion not in self._complained:
            self._complained.add(occasion)
            log.warning("%s %s.", self.name, what)
