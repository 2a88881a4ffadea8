"""A training inside its run: network, samples, validation and logs put together, by the leading process and others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from incasem_like.networks import AutoContext, autocast_dtype, count_parameters, torch_device
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.samples import SyntheticSamples, TrainingSamples, make_loader
from incasem_like.training.checkpoints import CheckpointFolder, RunFolders, check_unused
from incasem_like.training.continuing import put_in_order
from incasem_like.training.log import TrainingLog
from incasem_like.training.optimization import Optimization, seeded_network
from incasem_like.training.processes import NO_MORE, Job, Start, announce, following, share, world_size
from incasem_like.training.snapshots import SampleShow
from incasem_like.training.tensorboard import TensorBoardLog, hyperparameters
from incasem_like.training.trainer import Batch, Trainer, TrainingParts
from incasem_like.training.validation import Validator
from incasem_like.volumes import check_outputs

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.tracking import Run
    from incasem_like.training.preflight import CheckedTraining
    from incasem_like.training.start import Beginning


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
    config = checked.config
    assert config.seed is not None
    if config.torch.num_threads is not None:
        torch.set_num_threads(config.torch.num_threads)
    network = seeded_network(config.model, config.seed)
    torch.manual_seed(config.seed)  # dropout draws from the global generators, whose states checkpoints keep
    run.set_info("num_params", count_parameters(network))  # as a metric it would flatten all other curves
    run.set_info("targets", [target.describe() for target in config.resolved_targets])
    data = checked.training_data
    samples = (
        SyntheticSamples(checked.settings, config.seed)
        if data is None
        else TrainingSamples(data, checked.settings, config.seed)
    )
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


def load_batches(
    config: TrainingConfig, samples: TrainingSamples | SyntheticSamples, start: int, stop: int, rank: int = 0
) -> Iterable[Batch]:
    """Return this process's share of the batches of iterations ``start`` to ``stop - 1``, in order."""
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
