"""A training as a tracked experiment: from a checked configuration to a run with checkpoints, logs and a result."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from incasem_like.errors import IncasemError
from incasem_like.tracking.model.checkpoints import highest_number
from incasem_like.training.arithmetic import record_arithmetic
from incasem_like.training.checkpoints import CheckpointFolder, RunFolders, check_unused
from incasem_like.training.continuing import put_in_order, warn_of_changed_volumes
from incasem_like.training.processes import NO_MORE, Job, Start, announce, following, share, world_size
from incasem_like.training.start import Beginning, BeginningFinder, with_first_network
from incasem_like.volumes import check_outputs

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.samples import SyntheticSamples, TrainingSamples
    from incasem_like.tracking import Run, RunRecord, RunStore
    from incasem_like.training.log import TrainingLog
    from incasem_like.training.optimization import Optimization
    from incasem_like.training.preflight import CheckedTraining
    from incasem_like.training.tensorboard import TensorBoardLog
    from incasem_like.training.trainer import Batch, Trainer
    from incasem_like.training.validation import Validator


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


def with_seed(config: TrainingConfig) -> TrainingConfig:
    """Draw the seed if the configuration sets none."""
    return config if config.seed is not None else config.model_copy(update={"seed": secrets.randbelow(2**32)})


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
    from incasem_like.tracking import tracked_run
    from incasem_like.training.preflight import check_training

    def stored_trainings() -> RunStore:
        if (found := store()) is None:
            raise IncasemError("A training without a record cannot start from a tracked one unless its store is named.")
        return found

    trainings = trainings or stored_trainings
    if continued is None:
        config = with_first_network(config, trainings)
    checked = check_training(with_seed(config))
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
        record_arithmetic(run, checked.config.torch, repeats)
        if part_of or beginning.found.lineage:
            run.set_info("parent", {**(part_of or {}), **beginning.found.lineage})
        run.result = run_training(checked, run, folders, beginning.found, started)
    return FinishedTraining(folders, run.result)


def run_training(
    checked: CheckedTraining,
    run: Run,
    folders: RunFolders,
    beginning: Beginning,
    started: Callable[[RunFolders, Beginning], None],
) -> dict[str, Any]:
    """Assemble a training inside its run, and run it.

    Raises:
        InputError: The folder of a new run holds checkpoints of another store's run, or the run would write to one
            of its inputs.
    """
    from incasem_like.training.tensorboard import TensorBoardLog, hyperparameters

    regions = (*checked.training_regions, *checked.validation_regions)
    check_outputs(
        [folders.models, folders.tensorboard, folders.snapshots],
        [address for region in regions for address in region.addresses],
        "copy the input elsewhere",
    )
    resumption, checkpoint = beginning.resumption, None
    if resumption is None:
        check_unused(folders)
    else:
        checkpoint = put_in_order(resumption, run, CheckpointFolder(folders.models))
    started(folders, beginning)
    first_step = None if resumption is None else resumption.iteration + 1
    with TensorBoardLog(folders.tensorboard, first_step) as tensorboard:
        tensorboard.trial(f"{folders.tensorboard.name} {run.name}", hyperparameters(checked.config))
        trainer = build_trainer(checked, run, folders, tensorboard, beginning)
        if checkpoint is not None:
            trainer.restore(checkpoint)
        if world_size() > 1:
            share(Start(trainer.parts.optimization.state(), trainer.iteration))
        run.inputs([region.record for region in regions])
        return trainer.fit()


def build_trainer(
    checked: CheckedTraining, run: Run, folders: RunFolders, tensorboard: TensorBoardLog, beginning: Beginning
) -> Trainer:
    """Assemble the network, samples, validation and logs of a run."""
    import torch

    from incasem_like.networks import AutoContext, count_parameters
    from incasem_like.training.log import TrainingLog
    from incasem_like.training.optimization import Optimization, seeded_network
    from incasem_like.training.snapshots import SampleShow
    from incasem_like.training.trainer import Trainer, TrainingParts

    config = checked.config
    assert config.seed is not None
    if config.torch.num_threads is not None:
        torch.set_num_threads(config.torch.num_threads)
    network = seeded_network(config.model, config.seed)
    torch.manual_seed(config.seed)  # dropout draws from the global generators, whose states checkpoints keep
    run.set_info("num_params", count_parameters(network))  # as a metric it would flatten all other curves
    run.set_info("targets", [target.describe() for target in config.resolved_targets])
    samples = _samples(checked)
    share(Job(config, samples))
    optimization = Optimization(config, network)
    if beginning.start is not None:
        beginning.start.load(optimization)
    elif beginning.first is not None:
        assert isinstance(network, AutoContext)
        network.read_first(beginning.first.path)
    log = TrainingLog(config, run, tensorboard)
    show = SampleShow(config, tensorboard, folders.snapshots)
    parts = TrainingParts(
        optimization=optimization,
        batches=lambda start, stop: load_batches(config, samples, start, stop),
        checkpoints=CheckpointFolder(folders.models),
        log=log,
        run=run,
        validation=_validator(checked, optimization, log, folders) if checked.validation_regions else None,
        show=show,
        keep=show.keep,
        registered=lambda: [entry["iteration"] for entry in run.info.get("checkpoints") or ()],
    )
    return Trainer(config, parts)


def _samples(checked: CheckedTraining) -> TrainingSamples | SyntheticSamples:
    from incasem_like.samples import SyntheticSamples, TrainingSamples

    seed, data = checked.config.seed, checked.training_data
    assert seed is not None
    return SyntheticSamples(checked.settings, seed) if data is None else TrainingSamples(data, checked.settings, seed)


def load_batches(
    config: TrainingConfig, samples: TrainingSamples | SyntheticSamples, start: int, stop: int, rank: int = 0
) -> Iterable[Batch]:
    """Return this process's share of the batches of iterations ``start`` to ``stop - 1``, in order."""
    from incasem_like.networks import torch_device
    from incasem_like.samples import make_loader

    training = config.training
    return make_loader(
        samples,
        batch_size=training.batch_size,
        num_workers=training.precache.num_workers,
        prefetch=training.precache.cache_size,
        start=start,
        stop=stop,
        rank=rank,
        world_size=world_size(),
        parts=training.accumulate,
        pin_memory=torch_device(config.torch).type == "cuda",
    )


def _validator(
    checked: CheckedTraining, optimization: Optimization, log: TrainingLog, folders: RunFolders
) -> Validator:
    from incasem_like.networks import autocast_dtype
    from incasem_like.prediction.computing.tiles import TiledPredictor
    from incasem_like.training.validation import Validator

    config = checked.config
    predictor = TiledPredictor(
        optimization.validated,
        geometry=optimization.geometry,
        input_size=config.validation.input_size_voxels,
        device=optimization.device,
        autocast=autocast_dtype(config.torch),
        channels_last=config.torch.channels_last,
        channels=config.model.outputs or (),
    )
    return Validator(
        config,
        checked.validation_regions,
        network=optimization.validated,
        predictor=predictor,
        log=log,
        snapshots=folders.snapshots / "validation",
    )


def follow(rank: int) -> None:
    """Compute this process's share of a training until the process that leads it ends it."""
    with following() as job:
        if job is not None:
            _follow(job, rank)


def _follow(job: Job, rank: int) -> None:
    import torch

    from incasem_like.training.optimization import Optimization, seeded_network

    config = job.config
    assert config.seed is not None
    if config.torch.num_threads is not None:
        torch.set_num_threads(config.torch.num_threads)
    optimization = Optimization(config, seeded_network(config.model, config.seed))
    start = share(None)
    if start is None:
        return
    optimization.load_state(start.state)
    first = start.iteration + 1
    batches = load_batches(config, job.samples, first, config.training.iterations + 1, rank)
    with optimization.numerics():
        for iteration, batch in enumerate(batches, start=first):
            # Dropout differs from process to process, and is the same again after a resumption.
            torch.manual_seed(hash((config.seed, rank, iteration)))
            if optimization.follow(batch) == NO_MORE:
                return
    announce(NO_MORE)
