"""The choice of checkpoints that predict, or that a training starts from, verified against their registered hashes."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.errors import CheckpointError
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import listed, rank
from incasem_like.tracking.stores.records import RunRecord

if TYPE_CHECKING:
    from incasem_like.config import SeriesSection

log = logging.getLogger("incasem_like.tracking")


@dataclass(frozen=True)
class ChosenCheckpoint:
    """The chosen weights, as they are now and as the training registered them; the iteration may be unknown."""

    path: Path
    sha256: str
    iteration: int | None


def choose_checkpoint(record: RunRecord, which: str | None) -> ChosenCheckpoint:
    """Find a checkpoint and verify it against what its training run registered.

    Args:
        record: The training run.
        which: ``best``, ``last``, an iteration, or the path of a file; None for the best, or the last where none was
            measured.

    Raises:
        CheckpointError: The checkpoint does not exist, or its file changed since it was tracked.
    """
    if which is None:
        try:
            tracked = record.checkpoint("best")
        except CheckpointError:
            tracked = record.checkpoint("last")
    elif which in ("best", "last") or which.isdigit():
        tracked = record.checkpoint(which)
    else:
        path = Path(which).expanduser().absolute()
        registered = [entry for entry in record.checkpoints if entry.path.resolve() == path.resolve()]
        if not registered:
            if not path.is_file():
                raise CheckpointError(
                    f"The checkpoint {path} does not exist: check the path, or choose best, last or an iteration."
                )
            sha256 = file_sha256(path)
            copied = [entry.iteration for entry in record.checkpoints if entry.sha256 == sha256]
            return ChosenCheckpoint(path, sha256, copied[0] if copied else None)
        tracked = registered[0]
    return ChosenCheckpoint(tracked.fetch(), tracked.sha256, tracked.iteration)


def choose_series(record: RunRecord, section: SeriesSection) -> list[ChosenCheckpoint]:
    """Find the checkpoints of a series, by iteration, each verified against what the training run registered.

    A checkpoint that cannot be found is left out, with a warning, unless ``section.step`` asks for it.

    Raises:
        CheckpointError: None is left, one that ``section.step`` asks for is missing, or one changed since it was
            tracked.
    """
    if section.checkpoint_dir is not None:
        folder, basename = section.checkpoint_dir, section.checkpoint_basename
        if not folder.is_dir():
            raise CheckpointError(f"The folder {folder} does not exist: correct series.checkpoint_dir.")
        name = re.compile(rf"{re.escape(basename)}(\d+)")
        files = {int(match[1]): path for path in folder.iterdir() if (match := name.fullmatch(path.name))}
        if not files:
            raise CheckpointError(
                f"{folder} holds no file called {basename} and a number: correct series.checkpoint_dir or "
                "series.checkpoint_basename."
            )
        wanted = _in_range(files, section, f"{folder}")
        return [ChosenCheckpoint(files[iteration], file_sha256(files[iteration]), iteration) for iteration in wanted]
    known = {checkpoint.iteration: checkpoint for checkpoint in record.checkpoints}
    run = f"Training run {record.id} in {record.store.description} ({record.status})"
    if not known:
        raise CheckpointError(f"{run} has no checkpoint: choose another run.")
    found = [known[iteration] for iteration in _in_range(known, section, run)]
    if section.step is None:
        there = [checkpoint for checkpoint in found if not checkpoint.is_nowhere()]
        lost = [checkpoint.iteration for checkpoint in found if checkpoint not in there]
        if lost and there:
            log.warning(
                "%s lacks checkpoints, which are neither on this machine nor in the run store, left out: iteration %s.",
                run,
                listed(lost),
            )
        found = there or found  # fetching the first then reports where it was looked for
    if section.best is not None:
        policy = (record.config.get("training") or {}).get("checkpoints") or {}
        metric = policy.get("best_metric")
        ranked = rank(found, metric, policy.get("best_mode") or "max")
        if not ranked:
            raise CheckpointError(
                f"No checkpoint of training run {record.id} in that range was measured by '{metric}': leave "
                "series.best out to take all."
            )
        found = sorted(ranked[: section.best], key=lambda checkpoint: checkpoint.iteration)
    return [ChosenCheckpoint(one.fetch(), one.sha256, one.iteration) for one in found]


def _in_range(known: Collection[int], section: SeriesSection, whose: str) -> list[int]:
    """Return the wanted ones of the known iterations, ascending."""
    there = sorted(known)
    start = there[0] if section.start is None else section.start
    stop = there[-1] if section.stop is None else section.stop
    if section.step is None:
        wanted = [iteration for iteration in there if start <= iteration <= stop]
        if not wanted:
            raise CheckpointError(
                f"{whose} has no checkpoint from iteration {start} to {stop}: choose a range with some of "
                f"{listed(there)}."
            )
        return wanted
    wanted = list(range(start, stop + 1, section.step))
    missing = [iteration for iteration in wanted if iteration not in known]
    if missing or not wanted:
        raise CheckpointError(
            f"{whose} has no checkpoint of iteration {listed(missing or [start])}, which series.step={section.step} "
            f"asks for: it has {listed(there)}; leave series.step out to take those."
        )
    return wanted
