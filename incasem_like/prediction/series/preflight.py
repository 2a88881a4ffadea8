"""What a series of predictions would do, and all that would stop it, found out without starting it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.prediction.planning.preflight import Surroundings, next_id, note_plan, note_surroundings
from incasem_like.prediction.planning.preflight_regions import Preflight, examine_regions
from incasem_like.prediction.regions import check_begun_alike
from incasem_like.prediction.series.choice import choose_series
from incasem_like.prediction.series.plan import SeriesPlan, with_measures
from incasem_like.prediction.series.record import Earlier, find_earlier
from incasem_like.tracking.model.checkpoints import listed

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.config import SeriesConfig
    from incasem_like.prediction.planning.checkpoint_choice import ChosenCheckpoint
    from incasem_like.tracking import RunRecord, RunStore


def examine_series(
    config: SeriesConfig,
    training: Callable[[], RunRecord],
    store: Callable[[], RunStore | None],
    *,
    workers_file: Path | None = None,
    anew: bool = False,
) -> Preflight:
    """Find out what a series would do; nothing is written but the measured speed, into the user's cache.

    Args:
        config: The configuration of the series.
        training: Finds the training run.
        store: Opens the store of prediction runs.
        workers_file: ``workers.yaml``, where workers are to predict.
        anew: Whether another run is to be started in any case.
    """
    found = Preflight()
    around = note_surroundings(found, config, store, workers_file)
    series: SeriesPlan | None = None
    with found.noting():
        series = _note_series(found, config, training(), around)
    if series is not None:
        with found.noting():
            earlier = None if anew or around.runs is None else find_earlier(around.runs, series)
            _examine(found, series, around.workers, earlier, next_id(around.runs))
    return found


def _note_series(found: Preflight, config: SeriesConfig, record: RunRecord, around: Surroundings) -> SeriesPlan | None:
    """Do what ``plan_series`` does, going on behind each problem as far as what is left makes sense."""
    checkpoints: list[ChosenCheckpoint] = []
    metric: str | None = None
    with found.noting():
        checkpoints = choose_series(record, config.series)
    with found.noting():
        config, metric = with_measures(config, record)
    if not checkpoints:
        return None
    plan = note_plan(found, config, [record], around, checkpoints[0])
    return None if plan is None else SeriesPlan(config, plan, tuple(checkpoints), metric)


def _examine(
    found: Preflight, series: SeriesPlan, workers: Workers | None, earlier: Earlier | None, new_id: int
) -> None:
    left = series.left(entry.key for entry in (earlier.entries if earlier is not None else ()))
    iterations = [checkpoint.iteration or 0 for checkpoint in series.checkpoints]
    known = "" if earlier is None else f"; run {earlier.run_id} goes on, {len(left)} of them are left"
    found.lines.append(f"Checkpoints: {len(iterations)} of iteration {listed(iterations)}{known}.")
    if not left:
        found.lines.append("Nothing is left to be done.")
        return
    run_id = new_id if earlier is None else earlier.run_id
    places = series.places(run_id, left[0].iteration or 0)
    plan = series.surveyed(left[:1], workers, ask=False).plan_of(left[0])
    begun = earlier is not None and check_begun_alike(plan, places, "add --new to start another run")
    keep = series.config.series.keep
    on_disk = {"all": len(left), "best": min(2, len(left)), "none": 1}[keep]
    measured = f"measured by {series.metric}" if series.measures else "not measured, for no entry names labels"
    kept = {"all": "all stay on disk", "best": "the best stays on disk", "none": "none stays on disk"}[keep]
    found.lines.append(f"Each is {measured}; {kept}. What follows is of iteration {left[0].iteration}.")
    examine_regions(found, plan, places, workers, resume=begun, times=len(left), kept=on_disk)
