"""Timing of training steps: waiting for samples and computing, separately."""

from __future__ import annotations

import time
from collections import deque

WINDOW = 50


class StepClock:
    """Times steps; call ``loaded`` when a batch has arrived and ``computed`` when its update is done."""

    def __init__(self) -> None:
        self._loading: deque[float] = deque(maxlen=WINDOW)
        self._computing: deque[float] = deque(maxlen=WINDOW)
        self._last = time.perf_counter()

    def restart(self) -> None:
        """Exclude the time since the last step (validation, a checkpoint)."""
        self._last = time.perf_counter()

    def loaded(self) -> None:
        """A batch has come."""
        self._loading.append(self._lap())

    def computed(self) -> None:
        """Its update is done."""
        self._computing.append(self._lap())

    @property
    def rate(self) -> float:
        """Iterations per second over the last steps."""
        seconds = sum(self._loading) + sum(self._computing)
        return len(self._computing) / max(seconds, 1e-9)

    def profile(self) -> str:
        """Return how the time of the last steps was spent, as a sentence."""
        count = max(len(self._computing), 1)
        loading, computing = sum(self._loading) / count, sum(self._computing) / count
        advice = "; more training.precache.num_workers would help" if loading > computing else ""
        return f"per iteration {loading:.3f} s waiting for samples, {computing:.3f} s computing{advice}"

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds
