"""Predicting the same regions with many checkpoints of one training, as one tracked run that can be resumed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from incasem_like.blockwise.workers_file import Workers
from incasem_like.config import SeriesConfig
from incasem_like.errors import DivergedError
from incasem_like.prediction import SERIES_FIGURE
from incasem_like.prediction.experiment import (
    Observing,
    Request,
    TileObserver,
    predict_regions,
    record_plan,
)
from incasem_like.prediction.outputs import refuse_foreign_prediction
from incasem_like.prediction.planning.dry_run import report_networks, report_regions
from incasem_like.prediction.planning.planner import Findings
from incasem_like.prediction.series.plan import Entry, SeriesPlan, plan_series
from incasem_like.samples import Region
from incasem_like.tracking import Run, RunRecord, RunStore, tracked_run
from incasem_like.tracking.model.checkpoints import listed
from incasem_like.tracking.sessions import Continuation
from incasem_like.tracking.stores.records import ChosenCheckpoint
from incasem_like.volumes.provenance import command_line

TOOL = "predict_multiple.py"
COMMAND = "predict_multiple"
KEY = "series"
Draw = Callable[[Mapping[int, Mapping[str, float]], Sequence[str], tuple[str, int] | None], bytes]


@dataclass(frozen=True)
class FinishedSeries:
    """The results of a series, or of its part that is finished."""

    run_id: int  # 0 if it is not tracked
    plan: SeriesPlan
    entries: tuple[Entry, ...] = ()  # by iteration
    predicted: int = 0  # of them by this call

    @property
    def last_iteration(self) -> int:
        """The last finished iteration; -1 for none."""
        return max((entry.iteration for entry in self.entries), default=-1)

    @property
    def best(self) -> Entry | None:
        """The entry with the largest score, the latest of equals; None if none is measured."""
        metric = self.plan.metric or ""
        measured = [entry for entry in self.entries if metric in entry.scores]
        return max(measured, key=lambda entry: (entry.scores[metric], entry.iteration), default=None)

    @property
    def kept(self) -> list[Entry]:
        """The entries whose predictions stay on disk."""
        predicted, best = [entry for entry in self.entries if not entry.problem], self.best
        return {"all": predicted, "best": [] if best is None else [best], "none": []}[self.plan.config.series.keep]

    @property
    def result(self) -> dict[str, Any]:
        """The summary that is stored as the run's result."""
        series, kept, best = self.plan, self.kept, self.best
        shown = best if best in kept else kept[-1] if kept else None
        folders: Sequence[Any] = [] if shown is None else series.folders(self.run_id, shown.iteration)
        return {
            "prediction_id": self.run_id,
            "training_run_id": series.plan.training_run_ids[0],
            "checkpoints": len(self.entries),
            "best_iteration": None if best is None else best.iteration,
            "best_value": None if best is None or series.metric is None else best.scores[series.metric],
            "best_metric": series.metric,
            "outputs": dict(zip(series.region_names, map(str, folders), strict=False)),
            "iterations_kept": [entry.iteration for entry in kept],
            "problems": {str(entry.iteration): entry.problem for entry in self.entries if entry.problem},
            "voxels_predicted": sum(entry.voxels for entry in self.entries),
            "seconds": round(sum(entry.seconds for entry in self.entries), 2),
        }


def predict_series(
    config: SeriesConfig,
    training: RunRecord,
    *,
    store: Callable[[], RunStore | None],
    observing: Observing | None = None,
    workers: Workers | None = None,
    anew: bool = False,
    started: Callable[[int, SeriesPlan, Sequence[ChosenCheckpoint]], None] = lambda run_id, plan, remaining: None,
    measured: Callable[[int, Entry], None] = lambda run_id, entry: None,
    draw: Draw | None = None,
    **options: Any,
) -> FinishedSeries:
    """Predict every region of ``prediction.data`` with many checkpoints, as a tracked run.

    If the run store has a run of the same series, of the same checkpoints or the first of them, this run is
    resumed, whether it was interrupted or the training has more checkpoints now.

    Args:
        config: The configuration of the series.
        training: The training run.
        store: Opens the store of prediction runs, once volumes and checkpoints were found; None for an untracked run.
        observing: Makes the observer that measures a region, as for ``experiment.Request``; used if there are labels.
        workers: Workers, on this or other machines, that predict block by block; None predicts in this process.
        anew: Start another run in any case.
        started: Called with the run's id, the plan and the remaining checkpoints, before the first tile.
        measured: Called with the run's id and the results of each checkpoint.
        draw: Makes the figure, PNG, of scores by iteration, the regions' names, and the best score and iteration.
        **options: run_name, comment, run_id, sources, observers, as ``tracking.run_experiment`` takes them.

    Raises:
        InputError: As ``plan_series``; or the outputs cannot be written; or the same series is still running, or was
            begun with other settings.
        CheckpointError: No checkpoint gives finite values.
        IncasemError: Blocks failed.
    """
    series = plan_series(config, training, workers)
    series.plan.check_outputs(series.plan.locations(0))
    runs = store()
    earlier = None if anew or runs is None else find_earlier(runs, series)
    if earlier is not None and options.get("run_id") not in (None, earlier.run_id):
        earlier = None
    remaining = series.remaining(earlier.entries if earlier is not None else ())
    if earlier is not None and not remaining:
        return earlier
    series = series.profiled(remaining)
    if earlier is not None:
        options["run_id"] = None

    def observe(region: Region, index: int, classes: int) -> TileObserver | None:
        return observing(region, index, classes) if observing is not None and region.labels else None

    with tracked_run(
        name=COMMAND,
        config=series.config.model_dump(mode="json"),
        store=runs,
        runs_directory=series.config.directories.runs,
        artifacts={"prediction_data.json": series.plan.data.text} if earlier is None else {},
        continues=None if earlier is None else Continuation(earlier.run_id, earlier.last_iteration),
        **options,
    ) as run:
        finished = FinishedSeries(run.id, series) if earlier is None else replace(earlier, plan=series)
        _begin(run, finished, anew=earlier is None)
        started(run.id, series, remaining)
        request = Request(TOOL, run.id, continuing_command(), earlier is not None, observe)
        for checkpoint in remaining:
            entry = _predict(series, checkpoint, request)
            for name, value in entry.scores.items():
                run.log_scalar(name, value, entry.iteration)
            finished = replace(finished, entries=(*finished.entries, entry), predicted=finished.predicted + 1)
            _save(run, finished, draw)
            measured(run.id, entry)
        if all(entry.problem for entry in finished.entries):
            raise DivergedError(finished.entries[-1].problem)
        run.result = finished.result
    return finished


def _begin(run: Run, finished: FinishedSeries, *, anew: bool) -> None:
    """Record the plan of a series in its run.

    Raises:
        InputError: The outputs are occupied by another run's predictions.
    """
    series = finished.plan
    for folder in series.folders(run.id, 0) if anew else ():
        if folder.parent.exists():
            refuse_foreign_prediction(folder.parent)
    iterations = listed([checkpoint.iteration or 0 for checkpoint in series.checkpoints])
    record_plan(run, series.plan, {"training_run_id": series.plan.training_run_ids[0], "iterations": iterations})
    _save(run, finished)


def _save(run: Run, finished: FinishedSeries, draw: Draw | None = None) -> None:
    """Record the results so far and their figure, then delete the predictions that do not stay on disk."""
    series, kept = finished.plan, finished.kept
    checkpoints = [
        {"iteration": one.iteration, "checkpoint": str(one.path), "sha256": one.sha256} for one in series.checkpoints
    ]
    entries = [vars(entry) for entry in finished.entries]
    run.set_info(KEY, {"identity": series.identity, "checkpoints": checkpoints, "entries": entries})
    run.flush()
    scores, best = {one.iteration: one.scores for one in finished.entries if one.scores}, finished.best
    if draw is not None and scores:
        point = None if best is None or series.metric is None else (series.metric, best.iteration)
        run.add_artifact(draw(scores, series.region_names, point), SERIES_FIGURE)
    for entry in finished.entries:
        if entry not in kept:
            for folder in series.folders(run.id, entry.iteration):
                shutil.rmtree(folder, ignore_errors=True)


def _predict(series: SeriesPlan, checkpoint: ChosenCheckpoint, request: Request) -> Entry:
    """Predict with one checkpoint; a diverged network is recorded and does not stop the series."""
    started, iteration = time.monotonic(), checkpoint.iteration or 0
    entry = Entry(iteration, checkpoint.sha256, str(checkpoint.path))
    locations = series.locations(request.prediction_id, iteration)
    try:
        voxels, scores = predict_regions(series.plan_of(checkpoint), locations, request)
    except DivergedError as error:
        return replace(entry, problem=str(error))
    return replace(entry, scores=scores, voxels=voxels, seconds=round(time.monotonic() - started, 2))


def continuing_command() -> str:
    """Return the command that resumes the series that this command began or resumes."""
    return command_line({"--new": 0})


def examine_series(
    config: SeriesConfig,
    training: Callable[[], RunRecord],
    store: Callable[[], RunStore | None],
    *,
    workers_file: Path | None = None,
    anew: bool = False,
) -> Findings:
    """Examine what a series would do; only the measured speed is written, into the user's cache.

    The arguments are those of ``predict_series``; ``training`` finds the training run.
    """
    found = Findings.collected(store, workers_file)
    with found.collecting():
        series = plan_series(config, training(), found=found)
        earlier = None if anew or found.runs is None else find_earlier(found.runs, series)
        remaining = series.remaining(() if earlier is None else earlier.entries)
        resumed = "" if earlier is None else f"; run {earlier.run_id} is resumed, {len(remaining)} of them are left"
        iterations = [checkpoint.iteration or 0 for checkpoint in series.checkpoints]
        found.lines.append(f"Checkpoints: {len(iterations)} of iteration {listed(iterations)}{resumed}.")
        if not remaining:
            found.lines.append("Nothing is left to be done.")
            return found
        first, keep = remaining[0], series.config.series.keep
        locations = series.locations(found.next_id if earlier is None else earlier.run_id, first.iteration or 0)
        plan = series.profiled([first], probe=False).plan_of(first)
        measured = f"measured by {series.metric}" if series.metric else "not measured, since no entry names labels"
        kept = {"all": "all stay on disk", "best": "the best stays on disk", "none": "none stays on disk"}[keep]
        found.lines.append(f"Each is {measured}; {kept}. The following is for iteration {first.iteration}.")
        report_networks(found, plan)
        on_disk = {"all": len(remaining), "best": min(2, len(remaining)), "none": 1}[keep]
        report_regions(found, plan, locations, resumes=earlier is not None, times=len(remaining), kept=on_disk)
    return found


def find_earlier(runs: RunStore, series: SeriesPlan) -> FinishedSeries | None:
    """Find the latest run of the same series that can be resumed.

    Raises:
        InputError: It is still running.
        StoreError: The run store does not answer.
    """
    parent = ("trainings", series.plan.training_run_ids[0])
    for summary in reversed(runs.summaries()):
        if summary.command != COMMAND or parent not in summary.parents:
            continue
        recorded = runs.get(summary.id).info.get(KEY)
        if not isinstance(recorded, Mapping) or recorded.get("identity") != series.identity:
            continue
        earlier = FinishedSeries(summary.id, series, tuple(Entry(**entry) for entry in recorded.get("entries") or ()))
        # Its metrics ascend with the iteration: only later checkpoints can be added.
        if all((one.iteration or 0) > earlier.last_iteration for one in series.remaining(earlier.entries)):
            runs.refuse_live(summary.id)
            return earlier
    return None
