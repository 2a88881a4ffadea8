"""A training as a tracked experiment: from a checked configuration to a run with checkpoints, logs and a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from incasem_like.errors import IncasemError
from incasem_like.networks import describe_arithmetic
from incasem_like.tracking import tracked_run
from incasem_like.tracking.model.checkpoints import highest_number
from incasem_like.training.arithmetic import record_arithmetic
from incasem_like.training.checkpoints import RunFolders, check_unused
from incasem_like.training.continuing import warn_of_changed_volumes
from incasem_like.training.preflight import check_training
from incasem_like.training.start import Beginning, BeginningFinder, with_first_network

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.tracking import RunRecord, RunStore


@dataclass(frozen=True)
class FinishedTraining:
    """A finished training.

    Attributes:
        folders: The folders with its files.
        result: Its results: iteration, loss, best_metric, best_value and best_iteration.
        was_complete: Whether it was complete before this call.
    """

    folders: RunFolders
    result: dict[str, Any]
    was_complete: bool = False


def train(
    config: TrainingConfig,
    *,
    store: Callable[[], RunStore | None],
    trainings: Callable[[], RunStore] | None = None,
    continued: RunRecord | None = None,
    repeats: RunRecord | None = None,
    starts_from: RunRecord | None = None,
    part_of: Mapping[str, Any] | None = None,
    started: Callable[[RunFolders, Beginning], None] = lambda folders, beginning: None,
    **options: Any,
) -> FinishedTraining:
    """Check a configuration, then train with it as a tracked run.

    Args:
        config: The configuration; a seed of None is drawn and tracked.
        store: Opens the run store, once the configuration has passed the checks; None for an untracked run, of id 0.
        trainings: Opens the store of the training that ``training.start_from`` names; by default the run's own.
        continued: A run of that store to resume, instead of a new one.
        repeats: The run whose configuration this is, for the record.
        starts_from: The run whose configuration and weights this starts with. For it and for ``repeats``, data that
            changed since are reported.
        part_of: The run that this training is a part of, as lineage: ``{"sweep_run_id": 3, "trial": 5}``.
        started: Called once this process has claimed the run, before the first iteration.
        **options: run_name, comment, run_id, observers, sources, as ``tracking.tracked_run`` takes them.

    Raises:
        InputError: Anything the preflight finds (see ``preflight.check_training``), or the run cannot be continued.
        IncasemError: The loss has become NaN or Inf, or the run store cannot be written.
    """

    def stored_trainings() -> RunStore:
        if (found := store()) is None:
            raise IncasemError("A training without a record cannot start from a tracked one unless its store is named.")
        return found

    trainings = trainings or stored_trainings
    if continued is None:
        config = with_first_network(config, trainings)
    checked = check_training(config.with_seed())
    if (record := repeats or starts_from) is not None:
        warn_of_changed_volumes(record, checked)
    runs = config.directories.runs
    beginning = BeginningFinder(checked, trainings, continued, repeats)
    if continued is not None and beginning.leaves_nothing_to_do:
        return FinishedTraining(RunFolders.of_run(runs, continued.id), dict(continued.result), was_complete=True)
    run_store = store()
    if continued is None and options.get("run_id") is not None:
        if run_store is not None:
            run_store.check_unused(options["run_id"], "--continue_run")
        check_unused(RunFolders.of_run(runs, options["run_id"]))
    from incasem_like.training.assembly import run_training  # tensorboard is slow to load, and bad input needs none

    continuation = beginning.continuation
    with tracked_run(
        name="train",
        config=checked.config.model_dump(mode="json"),
        store=run_store,
        runs_directory=runs,
        artifacts=checked.artifacts if continuation is None else {},
        continues=continuation,
        id_above=highest_number(runs),
        **options,
    ) as run:
        folders = RunFolders.of_run(runs, run.id) if run.id else RunFolders.unobserved(runs)
        if repeats is not None:
            run.set_info("repeats", repeats.id)
        record_arithmetic(run, describe_arithmetic(checked.config.torch), repeats)
        if part_of or beginning.found.lineage:
            run.set_info("parent", {**(part_of or {}), **beginning.found.lineage})
        run.result = run_training(checked, run, folders, beginning.found, started)
    return FinishedTraining(folders, run.result)
