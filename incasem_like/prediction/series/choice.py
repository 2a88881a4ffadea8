"""The choice of the checkpoints that predict in a series: a range, every so many iterations, the best, or a folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from incasem_like.config import SeriesSection
from incasem_like.errors import CheckpointError
from incasem_like.prediction.planning.checkpoint_choice import ChosenCheckpoint
from incasem_like.tracking import CheckpointRecord, RunRecord, file_sha256
from incasem_like.tracking.model.checkpoints import listed, rank

log = logging.getLogger("incasem_like.prediction")


def choose_series(record: RunRecord, section: SeriesSection) -> list[ChosenCheckpoint]:
    """Find the checkpoints of a series, by iteration, each held against what the training run registered.

    A checkpoint of which there is no trace is left out, with a warning, unless ``section.step`` asks for it.

    Args:
        record: The training run.
        section: Which.

    Raises:
        CheckpointError: None is left, one that ``section.step`` asks for is missing, or one changed since it was
            tracked.
        StoreError: The run store does not answer.
    """
    if section.checkpoint_dir is not None:
        files = _in_folder(section.checkpoint_dir, section.checkpoint_basename)
        wanted = _in_range(list(files), section, f"{section.checkpoint_dir}")
        return [ChosenCheckpoint(files[iteration], file_sha256(files[iteration]), iteration) for iteration in wanted]
    known = {checkpoint.iteration: checkpoint for checkpoint in record.checkpoints}
    run = f"training run {record.id} in {record.store.description} ({record.status})"
    if not known:
        raise CheckpointError(f"{run[0].upper()}{run[1:]} has no checkpoint: choose another run.")
    found = [known[iteration] for iteration in _in_range(list(known), section, run)]
    if section.step is None:
        found = _without_lost(found, run)
    if section.best is not None:
        found = _best(record, found, section.best)
    return [ChosenCheckpoint(one.fetch(), one.sha256, one.iteration) for one in found]


def _in_folder(folder: Path, basename: str) -> Mapping[int, Path]:
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder}: correct series.checkpoint_dir.")
    name = re.compile(rf"{re.escape(basename)}(\d+)")
    found = {int(match[1]): path for path in folder.iterdir() if (match := name.fullmatch(path.name))}
    if not found:
        raise CheckpointError(
            f"{folder} holds no file called {basename} and a number: correct series.checkpoint_dir or "
            "series.checkpoint_basename."
        )
    return found


def _in_range(known: Sequence[int], section: SeriesSection, whose: str) -> list[int]:
    """Give the wanted ones of the known iterations, ascending."""
    there = sorted(known)
    start = there[0] if section.start is None else section.start
    stop = there[-1] if section.stop is None else section.stop
    if section.step is None:
        wanted = [iteration for iteration in there if start <= iteration <= stop]
        if not wanted:
            raise CheckpointError(
                f"{whose[0].upper()}{whose[1:]} has no checkpoint from iteration {start} to {stop}: choose a range "
                f"with some of {listed(there)}."
            )
        return wanted
    wanted = list(range(start, stop + 1, section.step))
    missing = [iteration for iteration in wanted if iteration not in known]
    if missing or not wanted:
        raise CheckpointError(
            f"{whose[0].upper()}{whose[1:]} has no checkpoint of iteration {listed(missing or [start])}, which "
            f"series.step={section.step} asks for: it has {listed(there)}; leave series.step out to take those."
        )
    return wanted


def _without_lost(found: Sequence[CheckpointRecord], run: str) -> list[CheckpointRecord]:
    there = [checkpoint for checkpoint in found if not checkpoint.model.is_nowhere()]
    lost = [checkpoint.iteration for checkpoint in found if checkpoint not in there]
    if lost and there:
        log.warning(
            "Checkpoints of %s are neither on this machine nor in the run store, and left out: iteration %s.",
            run,
            listed(lost),
        )
    return there or list(found)  # fetching the first then says where it was looked for


def _best(record: RunRecord, found: Sequence[CheckpointRecord], count: int) -> list[CheckpointRecord]:
    policy = (record.config.get("training") or {}).get("checkpoints") or {}
    metric = policy.get("best_metric")
    ranked = rank(found, metric, policy.get("best_mode") or "max")
    if not ranked:
        raise CheckpointError(
            f"No checkpoint of training run {record.id} in that range was measured by '{metric}': leave series.best "
            "out to take all."
        )
    return sorted(ranked[:count], key=lambda checkpoint: checkpoint.iteration)
