"""The record of a series in its run: each checkpoint with its hash and results, and the kept predictions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from incasem_like.prediction.experiment import record_plan
from incasem_like.prediction.series.plan import Entry, SeriesPlan
from incasem_like.tracking import Run, RunStore
from incasem_like.tracking.model.checkpoints import listed

COMMAND = "predict_multiple"
KEY = "series"


@dataclass(frozen=True)
class Earlier:
    """An earlier run of the same series: its id, and its finished entries by iteration."""

    run_id: int
    entries: tuple[Entry, ...]

    @property
    def last_iteration(self) -> int:
        """The last finished iteration; -1 for none."""
        return max((entry.iteration for entry in self.entries), default=-1)


def find_earlier(runs: RunStore, series: SeriesPlan) -> Earlier | None:
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
        earlier = Earlier(summary.id, tuple(Entry(**entry) for entry in recorded.get("entries") or ()))
        # Its metrics ascend with the iteration: only later checkpoints can be added.
        if all((one.iteration or 0) > earlier.last_iteration for one in series.remaining(earlier.entries)):
            runs.refuse_live(summary.id)
            return earlier
    return None


class SeriesRecord:
    """The record of a series in its run; entries are on disk before any prediction is deleted.

    Args:
        run: The run.
        series: The plan of the series.
        earlier: The results so far of a resumed run; None for a new run.

    Attributes:
        entries: The results of the checkpoints so far, by iteration.

    Raises:
        InputError: The outputs are occupied by another run's predictions, or an earlier prediction is an input.
    """

    def __init__(self, run: Run, series: SeriesPlan, earlier: Earlier | None) -> None:
        self._run, self._series = run, series
        self.entries: list[Entry] = [] if earlier is None else list(earlier.entries)
        for entry in self.entries:
            series.plan.check_not_read(series.locations(run.id, entry.iteration))
        if earlier is None:
            series.check_free(run.id)
        iterations = listed([checkpoint.iteration or 0 for checkpoint in series.checkpoints])
        record_plan(run, series.plan, {"training_run_id": series.plan.training_run_ids[0], "iterations": iterations})
        self._save()

    def add(self, entry: Entry) -> None:
        """Record the results of a checkpoint, and log its scores at its iteration."""
        for name, value in entry.scores.items():
            self._run.log_scalar(name, value, entry.iteration)
        self.entries.append(entry)
        self._save()

    def result(self) -> dict[str, Any]:
        """Return the summary that is stored as the run's result."""
        series, kept, best = self._series, self._series.kept_of(self.entries), self._series.best_of(self.entries)
        shown = best if best in kept else kept[-1] if kept else None
        folders: Sequence[Any] = [] if shown is None else series.folders(self._run.id, shown.iteration)
        return {
            "prediction_id": self._run.id,
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

    def _save(self) -> None:
        checkpoints = [
            {"iteration": one.iteration, "checkpoint": str(one.path), "sha256": one.sha256}
            for one in self._series.checkpoints
        ]
        entries = [vars(entry) for entry in self.entries]
        self._run.set_info(KEY, {"identity": self._series.identity, "checkpoints": checkpoints, "entries": entries})
        self._run.flush()
        kept = self._series.kept_of(self.entries)
        for entry in self.entries:
            if entry not in kept:
                for folder in self._series.folders(self._run.id, entry.iteration):
                    shutil.rmtree(folder, ignore_errors=True)
