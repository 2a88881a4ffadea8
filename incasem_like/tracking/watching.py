"""Watching runs of other machines for a sign of life, before one is taken or closed that only two clocks call dead.

The time of a heartbeat is that of the run's machine. Where its clock is minutes behind, the run looks dead to others
although it beats every ten seconds; that it beats can be seen without any clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from incasem_like.tracking.recording.heartbeat import SECONDS_BETWEEN_HEARTBEATS

if TYPE_CHECKING:
    from incasem_like.tracking.store import RunStore

log = logging.getLogger("incasem_like.tracking")

SECONDS_TO_WATCH = 2.5 * SECONDS_BETWEEN_HEARTBEATS  # a beat may be late on a busy machine, and slow to arrive
_LOOKS = 10

Key = TypeVar("Key")


def signs_of_life(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Give of a run's document what changes with each heartbeat, or when it ends or is continued."""
    return tuple(str(document.get(key)) for key in ("session", "status", "heartbeat"))


def watch(look: Callable[[], Mapping[Key, object]], who: str) -> set[Key]:
    """Look at runs for a little longer than a heartbeat takes, and give those that changed meanwhile.

    Args:
        look: Gives the signs of life of each run now; one that is gone is left out.
        who: What is watched, for a person: ``Training run 3 in …``.
    """
    log.warning(
        "%s: nothing was heard for minutes, but by another machine's clock, which may be wrong; watching for %g s.",
        who,
        SECONDS_TO_WATCH,
    )
    before, moved = look(), set[Key]()
    end = time.monotonic() + SECONDS_TO_WATCH
    while before.keys() - moved and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SECONDS_TO_WATCH / _LOOKS))
        now = look()
        moved |= {key for key, signs in before.items() if now.get(key) != signs}
    return moved


class Watch:
    """Makes sure that runs of a store are dead that say RUNNING and look dead from here.

    What was watched in vain need not be watched again as long as it shows the same signs.

    Args:
        store: Of the runs.
    """

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._silent: dict[int, object] = {}

    def heard_of(self, run_ids: Iterable[int]) -> set[int]:
        """Give those of some runs that are heard of; all are watched at once, and only those that need it."""
        doubtful = {run_id: signs for run_id, signs in self._look(run_ids).items() if signs != self._silent.get(run_id)}
        if not doubtful:
            return set()
        runs = "Run" if len(doubtful) == 1 else "Runs"
        who = f"{runs} {', '.join(map(str, sorted(doubtful)))} in {self._store.description}"
        moved = watch(lambda: self._look(doubtful, only_doubtful=False), who)
        self._silent.update({run_id: signs for run_id, signs in doubtful.items() if run_id not in moved})
        return moved

    def _look(self, run_ids: Iterable[int], *, only_doubtful: bool = True) -> dict[int, object]:
        found = {run_id: self._store.find(run_id) for run_id in run_ids}
        return {
            run_id: signs_of_life(record.document)
            for run_id, record in found.items()
            if record is not None and (record.seems_dead or not only_doubtful)
        }
