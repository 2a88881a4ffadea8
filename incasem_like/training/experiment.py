"""A training as a tracked experiment: from a checked configuration to a run with checkpoints, logs and a result."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import InputError
from incasem_like.training.checkpoints import CheckpointFolder

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.tracking import Run, RunStore
    from incasem_like.training.log import TrainingLog
    from incasem_like.training.optimization import Optimization
    from incasem_like.training.preflight import CheckedTraining
    from incasem_like.training.tensorboard import TensorBoardLog
    from incasem_like.training.trainer import Batch, Trainer
    from incasem_like.training.validation import Validator


@dataclass(frozen=True)
class RunFolders:
    """Where a run keeps its files, in incasem's layout below ``directories.runs``."""

    runs: Path
    run_id: int

    @property
    def models(self) -> Path:
        """Checkpoints."""
        return self.runs / "models" / f"{self.run_id:04d}"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard logs."""
        return self.runs / "tensorboard" / f"{self.run_id:04d}"

    @property
    def snapshots(self) -> Path:
        """Blocks and predictions to look at."""
        return self.runs / "snapshots" / f"{self.run_id:04d}"


@dataclass(frozen=True)
class FinishedTraining:
    """What is left to say of a training that is done."""

    folders: RunFolders
    result: dict[str, Any]


def with_seed(config: TrainingConfig) -> TrainingConfig:
    """Draw the seed where the configuration leaves it open."""
    return config if config.seed is not None else config.model_copy(update={"seed": secrets.randbelow(2**32)})


def train(
    config: TrainingConfig,
    *,
    store: Callable[[], RunStore | None],
    started: Callable[[RunFolders], None] = lambda folders: None,
    resume: Path | None = None,
    **options: Any,
) -> FinishedTraining:
    """Check a configuration, then train by it as a tracked run.

    Args:
        config: The configuration; a seed of None is drawn and tracked.
        store: Opens the run store, once the configuration has passed the checks; None for an untracked run, of id 0.
        started: Called when the run has its id, before the first iteration.
        resume: A checkpoint to go on from, with its training state beside it.
        **options: run_name, comment, run_id, observers, sources, as ``tracking.run_experiment`` takes them.

    Raises:
        InputError: Anything the preflight finds (see ``preflight.check_training``).
        IncasemError: The loss is no longer finite, or the run store cannot be written.
    """
    from incasem_like.tracking import run_experiment
    from incasem_like.training.preflight import check_training

    config = with_seed(config)
    checked = check_training(config)
    artifacts = {"training_data.json": checked.training_data.text}
    if checked.validation_data is not None:
        artifacts["validation_data.json"] = checked.validation_data.text
    finished: list[FinishedTraining] = []

    def work(run: Run) -> dict[str, Any]:
        folders = RunFolders(config.directories.runs, run.id)
        started(folders)
        result = run_training(checked, run, folders, resume)
        finished.append(FinishedTraining(folders, result))
        return result

    run_experiment(
        name="train",
        config=config.model_dump(mode="json"),
        main=work,
        store=store(),
        runs_directory=config.directories.runs,
        artifacts=artifacts,
        **options,
    )
    return finished[0]


def run_training(checked: CheckedTraining, run: Run, folders: RunFolders, resume: Path | None) -> dict[str, Any]:
    """Put a training together inside its run, and do it.

    Raises:
        InputError: The folder of checkpoints belongs to a run of another store, or to one without a record.
    """
    from incasem_like.training.tensorboard import TensorBoardLog

    if resume is None and CheckpointFolder(folders.models).iterations():
        whose = f"a run {run.id} that is not in this run store" if run.id else "an earlier run without a record"
        raise InputError(
            f"{folders.models} already holds checkpoints, of {whose}: "
            "set directories.runs to another folder, or move them away."
        )
    first_step = 1
    if resume is not None:
        from incasem_like.training.checkpoints import iteration_of

        first_step = iteration_of(resume) + 1
    with TensorBoardLog(folders.tensorboard, first_step) as tensorboard:
        trainer = build_trainer(checked, run, folders, tensorboard)
        if resume is not None:
            trainer.restore(resume)
        run.inputs([_described(region) for region in (*checked.training_regions, *checked.validation_regions)])
        return trainer.fit()


def build_trainer(checked: CheckedTraining, run: Run, folders: RunFolders, tensorboard: TensorBoardLog) -> Trainer:
    """Put together network, samples, validation and logs of a run."""
    import torch

    from incasem_like.networks import count_parameters
    from incasem_like.training.log import TrainingLog
    from incasem_like.training.optimization import Optimization, seeded_network
    from incasem_like.training.showing import SampleShow
    from incasem_like.training.trainer import Trainer, TrainingParts

    config = checked.config
    assert config.seed is not None
    if config.torch.num_threads is not None:
        torch.set_num_threads(config.torch.num_threads)
    network = seeded_network(config.model, config.seed)
    run.log_scalar("num_params", count_parameters(network), 0)
    optimization = Optimization(config, network)
    log = TrainingLog(config, run, tensorboard)
    parts = TrainingParts(
        optimization=optimization,
        batches=_batches(checked),
        checkpoints=CheckpointFolder(folders.models),
        log=log,
        run=run,
        validation=_validator(checked, optimization, log, folders) if checked.validation_regions else None,
        show=SampleShow(config, tensorboard, folders.snapshots / "training"),
    )
    return Trainer(config, parts)


def _batches(checked: CheckedTraining) -> Callable[[int, int], Iterable[Batch]]:
    from incasem_like.networks import torch_device
    from incasem_like.samples import TrainingSamples, make_loader

    config = checked.config
    assert config.seed is not None
    samples = TrainingSamples(checked.training_data, checked.settings, config.seed)

    def batches(start: int, stop: int) -> Iterable[Batch]:
        precache = config.training.precache
        return make_loader(
            samples,
            batch_size=config.training.batch_size,
            num_workers=precache.num_workers,
            prefetch=precache.cache_size,
            start=start,
            stop=stop,
            pin_memory=torch_device(config.torch).type == "cuda",
        )

    return batches


def _validator(
    checked: CheckedTraining, optimization: Optimization, log: TrainingLog, folders: RunFolders
) -> Validator:
    from incasem_like.networks import autocast_dtype, network_geometry
    from incasem_like.prediction.tiles import TiledPredictor
    from incasem_like.training.validation import Validator

    config = checked.config
    predictor = TiledPredictor(
        optimization.network,
        geometry=network_geometry(config.model),
        input_size=config.validation.input_size_voxels,
        device=optimization.device,
        autocast=autocast_dtype(config.torch),
        channels_last=config.torch.channels_last,
    )
    return Validator(
        config,
        checked.validation_regions,
        network=optimization.network,
        predictor=predictor,
        log=log,
        snapshots=folders.snapshots / "validation",
    )


def _described(region: Any) -> Mapping[str, Any]:
    """Name a region and what its volumes hold, for the run's record."""
    return {"name": region.name, "file": str(region.entry.file), "content_hashes": region.content_hashes}
