"""The choice among the checkpoints of a run: best, last, an iteration or a path."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NoReturn

from incasem_like.errors import CheckpointError
from incasem_like.tracking.checkpoints.record import CheckpointRecord

log = logging.getLogger("incasem_like.tracking")


def choose_checkpoint(
    records: Sequence[CheckpointRecord],
    which: str | int,
    *,
    metric: str | None,
    mode: str,
    run: str,
    superseded: Callable[[], Sequence[CheckpointRecord]] = tuple,
) -> CheckpointRecord:
    """Choose a checkpoint among those of a run.

    ``best`` and ``last`` fall, with a warning, on the next one in line where the first is neither on this machine nor
    in the run store: the machine that trains may have died before it was uploaded. They don't where the file is here
    but changed: that must be seen to.

    Args:
        records: The run's checkpoints, by iteration.
        which: ``best``, ``last``, an iteration, or the path of one of the files.
        metric: What ``best`` goes by; of equals the latest wins, undefined values (NaN) do not take part.
        mode: ``max`` or ``min``.
        run: The run's name in messages.
        superseded: Gives older ones that the run keeps no more, but whose copy the run store still has.

    Raises:
        CheckpointError: There is no such checkpoint.
    """
    if not records:
        raise CheckpointError(f"{run[0].upper()}{run[1:]} has no checkpoint: choose another run.")
    there = listed([record.iteration for record in records])
    if which == "last":
        return _first_to_be_had("last", list(reversed(records)), lambda: list(reversed(superseded())), run)
    if which == "best":
        problem = f"{run[0].upper()}{run[1:]} has no checkpoint measured by '{metric}'"
        ranked = rank(records, metric, mode) or _no_best(records, problem, there)
        return _first_to_be_had("best", ranked, lambda: rank(superseded(), metric, mode), run)
    text = str(which)
    for record in chain(records, _lazily(superseded)):
        if Path(text).absolute() in record.model.candidates or (text.isdigit() and int(text) == record.iteration):
            return record
    raise CheckpointError(
        f"{run[0].upper()}{run[1:]} has no checkpoint '{text}': choose best, last or one of the iterations {there}."
    )


def rank(records: Sequence[CheckpointRecord], metric: str | None, mode: str) -> list[CheckpointRecord]:
    """Sort the checkpoints that were measured, the best first; of equals the latest comes first."""
    sign = -1.0 if mode == "min" else 1.0
    measured = [record for record in records if not math.isnan(record.metrics.get(metric or "", math.nan))]
    return sorted(measured, key=lambda record: (sign * record.metrics[metric or ""], record.iteration), reverse=True)


def _first_to_be_had(
    word: str,
    ranked: Sequence[CheckpointRecord],
    further: Callable[[], Sequence[CheckpointRecord]],
    run: str,
) -> CheckpointRecord:
    """Take the first that is somewhere; when none is, the first, so that fetching it says what is missing."""
    wanted = ranked[0]
    if not wanted.model.is_nowhere():
        return wanted
    chosen = next((record for record in chain(ranked, _lazily(further)) if record.can_be_had()), wanted)
    if chosen is not wanted:
        log.warning(
            "The %s checkpoint of %s, iteration %d, is neither on this machine nor in the run store: iteration %d is "
            "taken, the %s one that can be had.",
            word,
            run,
            wanted.iteration,
            chosen.iteration,
            word,
        )
    return chosen


def _lazily(make: Callable[[], Sequence[CheckpointRecord]]) -> Iterator[CheckpointRecord]:
    yield from make()


def _no_best(records: Sequence[CheckpointRecord], problem: str, there: str) -> NoReturn:
    known = ", ".join(sorted({name for record in records for name in record.metrics})) or "none"
    raise CheckpointError(f"{problem} (metrics known: {known}): choose last or one of the iterations {there}.")


def listed(numbers: list[int]) -> str:
    """Write sorted numbers for a message: all of them, or the first and last few."""
    if len(numbers) <= 8:
        return ", ".join(map(str, numbers))
    return f"{', '.join(map(str, numbers[:3]))}, … {', '.join(map(str, numbers[-3:]))}"
