"""What a prediction would do, and all that would stop it, found out without starting it."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from incasem_like.blockwise.workers_file import Workers, load_workers
from incasem_like.config import PredictionConfig, load_data_config, required_file, resolve_training_config
from incasem_like.errors import IncasemError, InputError
from incasem_like.networks import check_device
from incasem_like.prediction.blocks import block_shape
from incasem_like.prediction.checkpoint_choice import checkpoint_for, choose_checkpoint
from incasem_like.prediction.experiment import check_resumable
from incasem_like.prediction.loading import load_network
from incasem_like.prediction.outputs import OutputPlace, chunk_shape_for
from incasem_like.prediction.plan import PredictionPlan, check_tiles
from incasem_like.prediction.region_task import read_begun
from incasem_like.samples import Region, open_regions
from incasem_like.terminal import duration, shown_path

if TYPE_CHECKING:
    from incasem_like.config import DataConfig, TrainingConfig
    from incasem_like.prediction.tile_size import TileSpeed
    from incasem_like.tracking import RunRecord, RunStore

GIB = 2**30
# What a process holds besides its tiles: the interpreter, torch, and the caches of the volumes.
BYTES_OF_A_PROCESS = GIB * 3 // 4
PROGRAMS = {"slurm": "sbatch", "lsf": "bsub"}
# A dry run may take some seconds to find out how fast this machine is.
MEASURED_VOXELS = 3e7


@dataclass
class Preflight:
    """What was found out.

    Attributes:
        lines: For a person, problems included.
        problems: All that would stop the prediction, a sentence each.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Note the error that ends what is inside as a problem, and go on behind it."""
        try:
            yield
        except IncasemError as error:
            if str(error) not in self.problems:
                self.problems.append(str(error))
                self.lines.append(f"Problem: {error}")


def examine_prediction(
    config: PredictionConfig,
    training: Callable[[], RunRecord],
    store: Callable[[], RunStore | None],
    *,
    resume: int | None = None,
    workers_file: Path | None = None,
) -> Preflight:
    """Find out what a prediction would do; nothing is written but the measured speed, into the user's cache.

    Args:
        config: The configuration of the prediction.
        training: Finds the training run.
        store: Opens the store of prediction runs.
        resume: Number of the prediction to go on with.
        workers_file: ``workers.yaml``, where workers are to predict.
    """
    found = Preflight()
    runs: RunStore | None = None
    workers: Workers | None = None
    with found.noting():
        runs = store()
    with found.noting():
        workers = None if workers_file is None else load_workers(workers_file)
    if workers is not None:
        _check_workers(found, workers)
    with found.noting():
        check_device(config.torch)
    plan = _plan(found, config, training)
    if plan is not None:
        prediction_id = resume or max(runs.ids() if runs is not None else (), default=0) + 1
        with found.noting():
            if resume is not None:
                check_resumable(plan, resume, runs)
        _examine_regions(found, plan, plan.places(prediction_id), workers, resume is not None)
    return found


def _check_workers(found: Preflight, workers: Workers) -> None:
    for launcher in sorted({group.launcher for group in workers.groups} & PROGRAMS.keys()):
        with found.noting():
            if shutil.which(PROGRAMS[launcher]) is None:
                raise InputError(
                    f"Workers are to be started by {launcher}, but there is no program {PROGRAMS[launcher]} here: "
                    "run this on a machine that can submit jobs."
                )
    where = (workers.scheduler.listen or "127.0.0.1", workers.scheduler.port)
    with found.noting():
        try:
            socket.create_server(where, family=socket.AF_INET6 if ":" in where[0] else socket.AF_INET).close()
        except OSError as error:
            raise InputError(
                f"The scheduler cannot listen on {where[0]} port {where[1]} ({error.strerror or error}): give "
                "scheduler.listen an address of this machine, and scheduler.port a free port or 0."
            ) from error


def _plan(found: Preflight, config: PredictionConfig, training: Callable[[], RunRecord]) -> PredictionPlan | None:
    """Do what ``plan_prediction`` does, going on behind each problem as far as what is left makes sense."""
    plan: PredictionPlan | None = None
    with found.noting():
        record = training()
        trained = resolve_training_config(record.config, directories=config.directories)
        data: DataConfig | None = None
        with found.noting():
            data = _load_data(config, trained)
        regions = [] if data is None else _open_regions(found, config, trained, data)
        checkpoint = network = None
        with found.noting():
            checkpoint = choose_checkpoint(record, checkpoint_for(config, 0))
            check_device(config.torch)
            network = load_network(trained.model, config.torch, checkpoint.path)
        if regions and data is not None and checkpoint is not None and network is not None:
            made = PredictionPlan(config, trained, record.id, checkpoint, data, tuple(regions), network)
            iteration = "" if checkpoint.iteration is None else f", iteration {checkpoint.iteration}"
            found.lines.append(f"Network: training run {record.id}{iteration}: {shown_path(checkpoint.path)}")
            check_tiles(made)
            plan = made
    return plan


def _load_data(config: PredictionConfig, trained: TrainingConfig) -> DataConfig:
    path = required_file(config.prediction.data, "prediction.data")
    classes = trained.data.num_classes if config.prediction.log_metrics else None
    return load_data_config(path, config.directories.data, num_classes=classes, voxel_size=trained.data.voxel_size)


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


def _examine_regions(
    found: Preflight, plan: PredictionPlan, places: list[OutputPlace], workers: Workers | None, resume: bool
) -> None:
    speed = plan.speed(most_voxels=MEASURED_VOXELS)
    seconds, tile_bytes = 0.0, 0
    needed: dict[Path, int] = {}
    for region, place in zip(plan.regions, places, strict=True):
        with found.noting():
            taken, one, size = _examine_region(found, plan, region, place, speed, resume)
            seconds, tile_bytes = seconds + taken, max(tile_bytes, one)
            folder = _nearest_folder(place.container)
            needed[folder] = needed.get(folder, 0) + (0 if resume else size)
    for folder, size in needed.items():
        with found.noting():
            _examine_disk(found, folder, size)
    if not needed:
        return
    host = BYTES_OF_A_PROCESS + (0 if plan.on_gpu else tile_bytes)
    gpu = f", and {tile_bytes / GIB:.1f} GiB of its GPU" if plan.on_gpu else ""
    found.lines.append(f"Memory: about {host / GIB:.1f} GiB for each worker{gpu}.")
    found.lines.append(_time_sentence(plan, speed, seconds, workers))


def _examine_region(
    found: Preflight, plan: PredictionPlan, region: Region, place: OutputPlace, speed: TileSpeed, resume: bool
) -> tuple[float, int, int]:
    """Say how a region is cut up and where it goes; give seconds, bytes of a tile, and bytes of the output."""
    begun = read_begun(place) if resume else None
    if begun is not None:
        choice = plan.describe_tiles(region, begun.input_size)
    else:
        place.check_free(half_made=resume)
        choice = plan.choose_tiles(region)
    steps = plan.predictor(choice.input_size).steps(region.roi, region.raw_roi.begin)
    block = block_shape(steps, chunk_shape_for(steps, region.roi.shape), region.roi.shape)
    blocks = math.prod(-(-length // edge) for length, edge in zip(region.roi.shape, block, strict=True))
    section = plan.config.prediction
    size = region.roi.size * (1 + plan.training.data.num_classes * np.dtype(section.output_dtype).itemsize)
    found.lines += [
        f"{region.name}: {_times(region.roi.shape)} voxels in {choice.tiles} tiles, {blocks} blocks; a tile reads "
        f"{_times(choice.input_size)} and gives up to {_times(steps)} voxels"
        f"{'' if begun is None else f'; {begun.done} blocks are done'}.",
        f"  into {shown_path(place.folder)}: segmentation and {plan.training.data.num_classes} probability maps of "
        f"{section.output_dtype}, at most {_size(size)} on disk.",
    ]
    left = 1.0 if begun is None else 1 - begun.done / blocks
    return choice.seconds(speed, region.roi.size) * left, choice.bytes, int(size)


def _examine_disk(found: Preflight, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    found.lines.append(f"Disk of {shown_path(folder)}: {_size(free)} free, at most {_size(size)} needed.")
    if not os.access(folder, os.W_OK):
        raise InputError(
            f"Nothing can be written into {folder}: change its permissions, or set prediction.directories.prefix."
        )
    if free < size:
        raise InputError(
            f"The output may take {_size(size)}, but the disk of {folder} has {_size(free)} left: free some, "
            "set prediction.output_dtype=uint8, or prediction.directories.prefix to another disk."
        )


def _time_sentence(plan: PredictionPlan, speed: TileSpeed, seconds: float, workers: Workers | None) -> str:
    threads = torch.get_num_threads()
    with_threads = f"with {threads} thread{'s' if threads > 1 else ''}"
    if not speed.measured:
        return "Expected time: not known, since the tiles of this network do not fit into the memory here."
    masked = "; tiles that the mask clears take none" if any(region.mask is not None for region in plan.regions) else ""
    if workers is None:
        return f"Expected time: {duration(seconds)} on this machine {with_threads}{masked}."
    cores = sum((group.count or 1) * group.cores for group in workers.groups)
    count = sum(group.count or 1 for group in workers.groups)
    share = count if plan.on_gpu else cores / threads
    return (
        f"Expected time: {duration(seconds / share)} on {count} workers, if they are as fast as this machine"
        f"{masked}; {duration(seconds)} on it alone."
    )


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in [path, *path.parents] if folder.is_dir())


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB" if number < 1000 else f"{number / 1024:.3g} TiB"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(int(edge)) for edge in shape)
