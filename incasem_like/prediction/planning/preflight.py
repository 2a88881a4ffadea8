"""What a prediction would do, and all that would stop it, found out without starting it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from incasem_like.blockwise.check_workers import worker_problems
from incasem_like.blockwise.workers_file import Workers, load_workers
from incasem_like.config import PredictionConfig, resolve_training_config
from incasem_like.networks import for_this_machine
from incasem_like.prediction.computing.loading import load_network
from incasem_like.prediction.experiment import check_resumable
from incasem_like.prediction.planning.checkpoint_choice import ChosenCheckpoint, checkpoint_for, choose_checkpoint
from incasem_like.prediction.planning.ensemble_plan import add_member, check_counts, ensemble_of
from incasem_like.prediction.planning.plan import PredictionPlan, check_tiles, load_regions_config
from incasem_like.prediction.planning.preflight_regions import Preflight, examine_regions
from incasem_like.prediction.planning.settling import settled
from incasem_like.prediction.planning.survey import check_place
from incasem_like.samples import Region, open_regions
from incasem_like.terminal import shown_path

if TYPE_CHECKING:
    from incasem_like.config import DataConfig, TrainingConfig
    from incasem_like.tracking import RunRecord, RunStore


def examine_prediction(
    config: PredictionConfig,
    training: Callable[[], RunRecord],
    store: Callable[[], RunStore | None],
    *,
    further: Callable[[], Sequence[RunRecord]] = tuple,
    resume: int | None = None,
    workers_file: Path | None = None,
) -> Preflight:
    """Find out what a prediction would do; nothing is written but the measured speed, into the user's cache.

    Args:
        config: The configuration of the prediction.
        training: Finds the training run.
        store: Opens the store of prediction runs.
        further: Finds more training runs, where the mean of several networks is predicted.
        resume: Number of the prediction to go on with.
        workers_file: ``workers.yaml``, where workers are to predict.
    """
    found = Preflight()
    around = note_surroundings(found, config, store, workers_file)
    plan: PredictionPlan | None = None
    with found.noting():
        records = [training(), *further()]
        check_counts(config, len(records))
        plan = note_plan(found, config, records, around)
    if plan is not None:
        prediction_id = resume or next_id(around.runs)
        with found.noting():
            if resume is not None:
                check_resumable(plan, resume, around.runs)
        examine_regions(found, plan, plan.places(prediction_id), around.workers, resume=resume is not None)
    return found


def next_id(runs: RunStore | None) -> int:
    """Say which id a new run would get."""
    return max(runs.ids() if runs is not None else (), default=0) + 1


@dataclass(frozen=True)
class Surroundings:
    """What a prediction needs besides its plan; what is not there is None.

    Attributes:
        runs: The store of prediction runs.
        workers: Who predicts.
        asks_worker: Whether one of them is asked first; None where no device can be used.
    """

    runs: RunStore | None
    workers: Workers | None
    asks_worker: bool | None


def note_surroundings(
    found: Preflight,
    config: PredictionConfig,
    store: Callable[[], RunStore | None],
    workers_file: Path | None,
) -> Surroundings:
    """Look at run store, workers and device."""
    runs: RunStore | None = None
    workers: Workers | None = None
    asks_worker: bool | None = None
    with found.noting():
        runs = store()
    with found.noting():
        workers = None if workers_file is None else load_workers(workers_file)
    if workers is not None:
        for problem in worker_problems(workers):
            with found.noting():
                raise problem
    if workers is not None or workers_file is None:
        with found.noting():
            asks_worker = check_place(config, workers)
    return Surroundings(runs, workers, asks_worker)


def note_plan(
    found: Preflight,
    config: PredictionConfig,
    records: Sequence[RunRecord],
    around: Surroundings,
    checkpoint: ChosenCheckpoint | None = None,
) -> PredictionPlan | None:
    """Do what ``plan_ensemble`` and ``settled`` do, going on behind each problem as far as what is left makes sense.

    Args:
        found: Gets lines and problems.
        config: The configuration of the prediction.
        records: The training runs.
        around: Where it is to happen; no worker is started.
        checkpoint: Of the first; None for what the configuration says.
    """
    members: list[PredictionPlan] = []
    with found.noting():
        first = _note_first(found, config, records[0], around, checkpoint)
        members += [] if first is None else [first]
    for index, record in enumerate(records[1:] if members else (), 1):
        with found.noting():
            members.append(add_member(config, members[0], index, record))
    for index, member in enumerate(members):
        with found.noting():
            members[index] = settled(member, around.workers, ask=False)
            _note_network(found, members[index])
    return ensemble_of(config, members) if len(members) == len(records) else None


def _note_first(
    found: Preflight,
    config: PredictionConfig,
    record: RunRecord,
    around: Surroundings,
    checkpoint: ChosenCheckpoint | None,
) -> PredictionPlan | None:
    """Do what ``plan_prediction`` does for the first network, as far as what is left makes sense."""
    trained = resolve_training_config(record.config, directories=config.directories)
    data: DataConfig | None = None
    with found.noting():
        data = load_regions_config(config, trained)
    regions = [] if data is None else _open_regions(found, config, trained, data)
    chosen = network = None
    with found.noting():
        chosen = checkpoint or choose_checkpoint(record, checkpoint_for(config, 0))
        network = load_network(trained.model, for_this_machine(config.torch), chosen.path)
    if not regions or data is None or chosen is None or network is None or around.asks_worker is None:
        return None
    plan = PredictionPlan(
        config, trained, record.id, chosen, data, tuple(regions), network, asks_worker=around.asks_worker
    )
    check_tiles(plan)
    return plan


def _note_network(found: Preflight, plan: PredictionPlan) -> None:
    iteration = "" if plan.checkpoint.iteration is None else f", iteration {plan.checkpoint.iteration}"
    found.lines.append(f"Network: training run {plan.training_run_id}{iteration}: {shown_path(plan.checkpoint.path)}")
    if plan.precision is not None:
        found.lines.append(f"Precision: {plan.precision}")
    elif not plan.knows_precision:
        asked = plan.config.torch.precision
        found.lines.append(f"Precision: a worker that is started first holds torch.precision={asked} against fp32.")


def _open_regions(
    found: Preflight, config: PredictionConfig, trained: TrainingConfig, data: DataConfig
) -> list[Region]:
    """Open the entries one by one, so that each one's problem is heard."""
    regions: list[Region] = []
    for entry in data.entries:
        with found.noting():
            regions += open_regions(
                data.model_copy(update={"entries": (entry,)}),
                num_classes=trained.data.num_classes,
                voxel_size=trained.data.voxel_size,
                need_labels=config.prediction.log_metrics,
                downsample_factor=trained.data.downsample_factor,
            )
    return regions
