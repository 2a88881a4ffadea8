"""What a run notes of its series: each checkpoint with its hash, what came of it, and which predictions are kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from incasem_like.prediction.regions import check_not_read, described
from incasem_like.prediction.series.plan import SeriesPlan
from incasem_like.tracking import Run, RunRecord, RunStore
from incasem_like.tracking.model.checkpoints import listed

COMMAND = "predict_multiple"
KEY = "series"


@dataclass(frozen=True)
class Entry:
    """What one checkpoint came to.

    Attributes:
        iteration: Its number of updates.
        sha256: Of its file.
        checkpoint: Where that was.
        scores: Defined ones by name: of each region, and their means.
        voxels: That were predicted.
        seconds: That it took.
        problem: Why there is no prediction, or empty.
    """

    iteration: int
    sha256: str
    checkpoint: str
    scores: Mapping[str, float] = field(default_factory=dict)
    voxels: int = 0
    seconds: float = 0.0
    problem: str = ""

    @property
    def key(self) -> tuple[int, str]:
        """What it is told by."""
        return self.iteration, self.sha256


@dataclass(frozen=True)
class Earlier:
    """A run of the same series.

    Attributes:
        run_id: Its id.
        entries: What it has done, by iteration.
    """

    run_id: int
    entries: tuple[Entry, ...]

    @property
    def last_iteration(self) -> int:
        """The last that it has done; -1 for none."""
        return max((entry.iteration for entry in self.entries), default=-1)


def find_earlier(runs: RunStore, series: SeriesPlan) -> Earlier | None:
    """Find the latest run of the same series that this one can go on with.

    Raises:
        InputError: It still goes on.
        StoreError: The run store does not answer.
    """
    parent = ("trainings", series.plan.training_run_id)
    for summary in reversed(runs.summaries()):
        if summary.command != COMMAND or parent not in summary.parents:
            continue
        record = runs.get(summary.id)
        earlier = _earlier(record, series)
        if earlier is not None:
            runs.refuse_live(record.id)
            return earlier
    return None


def _earlier(record: RunRecord, series: SeriesPlan) -> Earlier | None:
    noted = record.info.get(KEY)
    if not isinstance(noted, Mapping) or noted.get("identity") != series.identity:
        return None
    earlier = Earlier(record.id, tuple(Entry(**entry) for entry in noted.get("entries") or ()))
    left = series.left(entry.key for entry in earlier.entries)
    # What it logs goes up with the iteration.
    return earlier if all((one.iteration or 0) > earlier.last_iteration for one in left) else None


def best_of(entries: Iterable[Entry], metric: str | None) -> Entry | None:
    """Give the entry with the largest score, the latest of equals; None where none is measured."""
    measured = [entry for entry in entries if metric is not None and metric in entry.scores]
    return max(measured, key=lambda entry: (entry.scores[metric or ""], entry.iteration), default=None)


def kept_of(entries: Iterable[Entry], series: SeriesPlan) -> list[Entry]:
    """List the entries whose predictions stay on disk."""
    predicted = [entry for entry in entries if not entry.problem]
    if series.config.series.keep == "best":
        best = best_of(predicted, series.metric)
        return [] if best is None else [best]
    return predicted if series.config.series.keep == "all" else []


class SeriesRecord:
    """The record of a series in its run; what is noted is on disk before anything is deleted.

    Args:
        run: The run.
        series: What is predicted with what.
        earlier: What it has done before; None for a new run.

    Raises:
        InputError: The predictions of another run are where those of this one go, or an earlier one is an input.

    Attributes:
        entries: What each checkpoint came to so far, by iteration.
    """

    def __init__(self, run: Run, series: SeriesPlan, earlier: Earlier | None) -> None:
        self._run, self._series = run, series
        self.entries: list[Entry] = [] if earlier is None else list(earlier.entries)
        for entry in self.entries:
            check_not_read(series.plan, series.places(run.id, entry.iteration))
        if earlier is None:
            series.check_free(run.id)
        iterations = listed([checkpoint.iteration or 0 for checkpoint in series.checkpoints])
        run.set_info("parent", {"training_run_id": series.plan.training_run_id, "iterations": iterations})
        run.inputs([described(region) for region in series.plan.regions])
        run.set_info("num_params", series.plan.num_params)
        if series.plan.precision is not None:
            run.set_info("precision", asdict(series.plan.precision))
        self._note()
        self._delete_what_is_not_kept()

    @property
    def region_names(self) -> list[str]:
        """Names of the regions, in the order of the data configuration."""
        return self._series.region_names

    @property
    def wanted(self) -> int:
        """How many checkpoints there are."""
        return len(self._series.checkpoints)

    @property
    def best(self) -> Entry | None:
        """The best entry so far; None where nothing was measured."""
        return best_of(self.entries, self._series.metric)

    @property
    def best_point(self) -> tuple[str, int] | None:
        """Score and iteration of the best entry."""
        return (self._series.metric, best.iteration) if (best := self.best) and self._series.metric else None

    @property
    def scores(self) -> dict[int, Mapping[str, float]]:
        """All scores by iteration."""
        return {entry.iteration: entry.scores for entry in self.entries if entry.scores}

    @property
    def kept(self) -> list[Entry]:
        """The entries whose predictions stay on disk."""
        return kept_of(self.entries, self._series)

    def add(self, entry: Entry) -> None:
        """Note what a checkpoint came to, and log its scores at its iteration."""
        for name, value in entry.scores.items():
            self._run.log_scalar(name, value, entry.iteration)
        self.entries.append(entry)
        self._note()
        self._delete_what_is_not_kept()

    def result(self) -> dict[str, Any]:
        """Sum the series up, as its run keeps it."""
        best, metric, kept = self.best, self._series.metric, self.kept
        shown = best if best in kept else kept[-1] if kept else None
        return {
            "prediction_id": self._run.id,
            "training_run_id": self._series.plan.training_run_id,
            "checkpoints": len(self.entries),
            "best_iteration": None if best is None else best.iteration,
            "best_value": None if best is None or metric is None else best.scores[metric],
            "best_metric": metric,
            "outputs": {} if shown is None else self._folders(shown),
            "iterations_kept": [entry.iteration for entry in kept],
            "problems": {str(entry.iteration): entry.problem for entry in self.entries if entry.problem},
            "voxels_predicted": sum(entry.voxels for entry in self.entries),
            "seconds": round(sum(entry.seconds for entry in self.entries), 2),
        }

    def _folders(self, entry: Entry) -> dict[str, str]:
        """Say where the prediction of one iteration is; those of the others are beside it."""
        places = self._series.places(self._run.id, entry.iteration)
        group = self._series.group(self._run.id, entry.iteration)
        return {
            name: str(place.container / group) for name, place in zip(self._series.region_names, places, strict=True)
        }

    def _note(self) -> None:
        self._run.set_info(
            KEY,
            {
                "identity": self._series.identity,
                "checkpoints": [
                    {"iteration": one.iteration, "checkpoint": str(one.path), "sha256": one.sha256}
                    for one in self._series.checkpoints
                ],
                "entries": [vars(entry) for entry in self.entries],
            },
        )
        self._run.flush()

    def _delete_what_is_not_kept(self) -> None:
        kept = self.kept
        for entry in self.entries:
            if entry not in kept:
                for folder in self._series.folders(self._run.id, entry.iteration):
                    shutil.rmtree(folder, ignore_errors=True)
