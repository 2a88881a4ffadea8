"""Predicting the same regions with many checkpoints of one training, as one tracked run that can be gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from incasem_like.config import SeriesConfig
from incasem_like.errors import DivergedError
from incasem_like.prediction import SERIES_FIGURE
from incasem_like.prediction.planning.checkpoint_choice import ChosenCheckpoint
from incasem_like.prediction.regions import Observing, Order, check_begun_alike, predict_regions
from incasem_like.prediction.series.plan import SeriesPlan, plan_series
from incasem_like.prediction.series.record import (
    COMMAND,
    Earlier,
    Entry,
    SeriesRecord,
    best_of,
    find_earlier,
    kept_of,
)
from incasem_like.tracking import Run, RunRecord, RunStore, run_experiment
from incasem_like.tracking.sessions import Continuation
from incasem_like.volumes.provenance import command_line

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

TOOL = "predict_multiple.py"
Draw = Callable[[Mapping[int, Mapping[str, float]], Sequence[str], tuple[str, int] | None], bytes]


@dataclass(frozen=True)
class FinishedSeries:
    """What a series came to.

    Attributes:
        run_id: The id of its run; 0 for one that is not tracked.
        plan: What was predicted with what.
        entries: What each checkpoint came to, by iteration.
        predicted: How many of them were predicted now.
    """

    run_id: int
    plan: SeriesPlan
    entries: tuple[Entry, ...]
    predicted: int

    @property
    def best(self) -> Entry | None:
        """The best of them; None where nothing was measured."""
        return best_of(self.entries, self.plan.metric)

    @property
    def kept(self) -> list[Entry]:
        """Those whose predictions stay on disk."""
        return kept_of(self.entries, self.plan)


@dataclass(frozen=True)
class Watching:
    """What is told of a series while it goes on.

    Attributes:
        started: Called with the run's id, the plan and the checkpoints that are left, before the first tile.
        measured: Called with the run's id and what each checkpoint came to.
        draw: Makes the figure, PNG, of scores by iteration, the regions' names, and the best score and iteration.
    """

    started: Callable[[int, SeriesPlan, Sequence[ChosenCheckpoint]], None] = lambda run_id, plan, left: None
    measured: Callable[[int, Entry], None] = lambda run_id, entry: None
    draw: Draw | None = None


WATCHED_BY_NOBODY = Watching()


def predict_series(
    config: SeriesConfig,
    training: RunRecord,
    *,
    store: Callable[[], RunStore | None],
    observing: Observing | None = None,
    workers: Workers | None = None,
    anew: bool = False,
    watching: Watching = WATCHED_BY_NOBODY,
    **options: Any,
) -> FinishedSeries:
    """Predict every region of ``prediction.data`` with many checkpoints, as a tracked run.

    Where the run store knows a run of the same series, of the same checkpoints or the first of them, this run is gone
    on with, whether it was interrupted or the training has more checkpoints now.

    Args:
        config: The configuration of the series.
        training: The training run.
        store: Opens the store of prediction runs, once volumes and checkpoints are there; None for an untracked run.
        observing: Makes what measures a region, as ``regions.Order`` takes it; used where there are labels.
        workers: Processes, here or elsewhere, that predict block by block; None predicts in this process.
        anew: Start another run in any case.
        watching: What is told of it.
        **options: run_name, comment, run_id, sources, observers, as ``tracking.run_experiment`` takes them.

    Raises:
        InputError: As ``plan_series``; or nothing can be written where predictions go; or the same series still goes
            on, or was begun with something else.
        CheckpointError: No checkpoint gives numbers.
        IncasemError: Blocks failed.
    """
    series = plan_series(config, training, workers)
    for place in series.plan.places(0):
        place.check_writable()
    runs = store()
    earlier = None if anew or runs is None else _gone_on_with(series, runs, options.get("run_id"))
    left = series.left(entry.key for entry in (earlier.entries if earlier is not None else ()))
    if earlier is not None and not left:
        return FinishedSeries(earlier.run_id, series, earlier.entries, 0)
    series = _checked(series, earlier, left, workers)
    finished: list[FinishedSeries] = []

    def work(run: Run) -> dict[str, Any]:
        record = SeriesRecord(run, series, earlier)
        watching.started(run.id, series, left)
        order = Order(TOOL, run.id, continuing_command(), earlier is not None, _of_labelled(observing), workers)
        for checkpoint in left:
            _take_in(_predict(series, checkpoint, order), run, record, watching)
        finished.append(FinishedSeries(run.id, series, tuple(record.entries), len(left)))
        return record.result()

    run_experiment(
        name=COMMAND,
        config=series.config.model_dump(mode="json"),
        main=work,
        store=runs,
        runs_directory=series.config.directories.runs,
        artifacts={"prediction_data.json": series.plan.data.text} if earlier is None else {},
        continues=None if earlier is None else Continuation(earlier.run_id, earlier.last_iteration),
        **{**options, "run_id": options.get("run_id") if earlier is None else None},
    )
    return finished[0]


def _gone_on_with(series: SeriesPlan, runs: RunStore, wanted: int | None) -> Earlier | None:
    """Find the run to go on with."""
    earlier = find_earlier(runs, series)
    return None if earlier is None or wanted not in (None, earlier.run_id) else earlier


def _checked(
    series: SeriesPlan, earlier: Earlier | None, left: Sequence[ChosenCheckpoint], workers: Workers | None
) -> SeriesPlan:
    """Make sure that what was left half-done is begun alike; then ask a worker, if so, which may wait in a queue."""
    _check_alike(series, earlier, left)
    if not series.plan.asks_worker:
        return series
    series = series.surveyed(left, workers)
    _check_alike(series, earlier, left)
    return series


def _check_alike(series: SeriesPlan, earlier: Earlier | None, left: Sequence[ChosenCheckpoint]) -> None:
    if earlier is not None and left:
        places = series.places(earlier.run_id, left[0].iteration or 0)
        check_begun_alike(series.plan_of(left[0]), places, "add --new to start another run")


def _of_labelled(observing: Observing | None) -> Observing | None:
    """Measure the regions that have labels."""
    if observing is None:
        return None
    return lambda region, index, classes: observing(region, index, classes) if region.labels else None


def _take_in(entry: Entry, run: Run, record: SeriesRecord, watching: Watching) -> None:
    record.add(entry)
    if watching.draw is not None and record.scores:
        run.add_artifact(watching.draw(record.scores, record.region_names, record.best_point), SERIES_FIGURE)
    watching.measured(run.id, entry)
    if entry.problem and len(record.entries) == record.wanted and all(one.problem for one in record.entries):
        raise DivergedError(entry.problem)


def continuing_command() -> str:
    """Say what to type to go on with the series that this command began or goes on with."""
    return command_line({"--new": 0})


def _predict(series: SeriesPlan, checkpoint: ChosenCheckpoint, order: Order) -> Entry:
    """Predict with one checkpoint; that its network diverged is what it came to, and no reason to stop."""
    begun, iteration = time.monotonic(), checkpoint.iteration or 0
    entry = Entry(iteration, checkpoint.sha256, str(checkpoint.path))
    try:
        voxels, scores = predict_regions(
            series.plan_of(checkpoint), series.places(order.prediction_id, iteration), order
        )
    except DivergedError as error:
        return replace(entry, problem=str(error))
    seconds = round(time.monotonic() - begun, 2)
    return replace(entry, scores=scores, voxels=voxels, seconds=seconds)
