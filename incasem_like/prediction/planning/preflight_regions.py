"""What the regions of a prediction would take in time, memory and disk, and what stops them, found out beforehand."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from incasem_like.errors import IncasemError, InputError
from incasem_like.prediction.blocks import region_block_shape
from incasem_like.prediction.outputs import OutputPlace, chunk_shape_for, nearest_folder
from incasem_like.prediction.planning.memory import BYTES_OF_A_PROCESS, worker_count
from incasem_like.prediction.planning.plan import PredictionPlan
from incasem_like.prediction.planning.speed import MEASURED_VOXELS
from incasem_like.prediction.region_task import read_begun
from incasem_like.prediction.regions import check_not_read
from incasem_like.samples import Region
from incasem_like.terminal import counted, duration, shown_path

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.prediction.planning.tile_size import TileSpeed

GIB = 2**30


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


def examine_regions(
    found: Preflight,
    plan: PredictionPlan,
    places: Sequence[OutputPlace],
    workers: Workers | None,
    *,
    resume: bool,
    times: int = 1,
    kept: int = 1,
) -> None:
    """Say how the regions are cut up, where they go, and what time and space that takes.

    Args:
        found: Gets lines and problems.
        plan: What predicts what.
        places: Where each region's prediction goes.
        workers: Who predicts; None for this process.
        resume: Whether it was begun before.
        times: How many such predictions are made, one after the other.
        kept: How many of them are on disk at once.
    """
    with found.noting():
        check_not_read(plan, places)
    speed = plan.speed(most_voxels=MEASURED_VOXELS)
    costs: list[_Cost] = []
    needed: dict[Path, int] = {}
    for region, place in zip(plan.regions, places, strict=True):
        with found.noting():
            costs.append(_examine_region(found, plan, region, place, speed, workers, resume))
            place.check_writable()
            folder = nearest_folder(place.container)
            needed[folder] = needed.get(folder, 0) + costs[-1].disk_left(kept)
    for folder, size in needed.items():
        with found.noting():
            _examine_disk(found, folder, size)
    if not costs or not all(cost.is_known for cost in costs):
        return
    with found.noting():
        _examine_memory(found, plan, costs, workers)
    found.lines.append(_time_sentence(plan, speed, costs, times, workers))


@dataclass(frozen=True)
class _Cost:
    """What a region takes.

    Attributes:
        is_known: Whether its tiles are; else it counts as one block, and of the rest ``disk`` alone means something.
        seconds: For all of it, one block after the other.
        blocks: In all.
        left: Of them, those that are not done.
        tile_bytes: Memory that a tile takes where the network computes.
        host_bytes: Memory that it takes of the host besides.
        disk: Bytes on disk at most.
    """

    is_known: bool
    seconds: float
    blocks: int
    left: int
    tile_bytes: int
    host_bytes: int
    disk: int

    def disk_left(self, kept: int) -> int:
        """Say how many bytes are still to be written at most, of so many predictions that are on disk at once."""
        return self.disk * (kept - 1) + math.ceil(self.disk * self.left / self.blocks)

    def seconds_with(self, workers: int, times: int) -> float:
        """Say when the worker with most blocks is ready: with what is left, and with all but the first of ``times``."""
        of_busiest = [-(-blocks // workers) for blocks in (self.left, self.blocks)]
        return self.seconds / self.blocks * (of_busiest[0] + (times - 1) * of_busiest[1])


def _examine_region(
    found: Preflight,
    plan: PredictionPlan,
    region: Region,
    place: OutputPlace,
    speed: TileSpeed,
    workers: Workers | None,
    resume: bool,
) -> _Cost:
    """Say how a region is cut up and where it goes."""
    begun = read_begun(place) if resume else None
    if begun is None:
        place.check_free(half_made=resume)
    section, channels, shape = plan.config.prediction, plan.training.model.num_fmaps_out, region.roi.shape
    size = int(region.roi.size * (channels * np.dtype(section.output_dtype).itemsize + (not place.channels)))
    into = (
        f"  into {shown_path(place.folder)}: {_written(place, channels)} of {section.output_dtype}, at most "
        f"{_size(size)} on disk."
    )
    if begun is None and not plan.knows_tiles:
        found.lines += [
            f"{region.name}: {_times(shape)} voxels; a worker that is started first finds out what tiles are good, and "
            "so how much memory and time this takes.",
            into,
        ]
        return _Cost(is_known=False, seconds=0, blocks=1, left=1, tile_bytes=0, host_bytes=0, disk=size)
    choice = plan.choose_tiles(region, workers) if begun is None else plan.describe_tiles(region, begun.input_size)
    predictor = plan.predictor(choice.input_size)
    steps = predictor.steps(region.roi, region.raw_roi.begin)
    block = region_block_shape(predictor, region, chunk_shape_for(steps, shape))
    blocks = math.prod(-(-length // edge) for length, edge in zip(shape, block, strict=True))
    written = tuple(min(edge, length) for edge, length in zip(steps, shape, strict=True))
    done = "" if begun is None else f"; {counted(begun.done, 'block')} {'is' if begun.done == 1 else 'are'} done"
    found.lines += [
        f"{region.name}: {_times(shape)} voxels in {counted(choice.tiles, 'tile')}, {counted(blocks, 'block')}; a tile "
        f"reads {_times(choice.input_size)} and gives {'' if choice.tiles == 1 else 'up to '}{_times(written)} voxels"
        f"{done}.",
        into,
    ]
    left = blocks if begun is None else blocks - begun.done
    return _Cost(True, choice.seconds(speed, region.roi.size), blocks, left, choice.bytes, choice.host_bytes, size)


def _written(place: OutputPlace, channels: int) -> str:
    if not place.channels:
        return f"segmentation and {counted(channels, 'probability map')}"
    return " and ".join(f"{group.name} ({counted(group.channels, 'channel')})" for group in place.channels)


def _examine_memory(found: Preflight, plan: PredictionPlan, costs: Sequence[_Cost], workers: Workers | None) -> None:
    tile_bytes = max(cost.tile_bytes for cost in costs)
    host = BYTES_OF_A_PROCESS + (max(cost.host_bytes for cost in costs) if plan.on_gpu else tile_bytes)
    gpu = f", and {tile_bytes / GIB:.1f} GiB of its GPU" if plan.on_gpu else ""
    found.lines.append(f"Memory: about {host / GIB:.1f} GiB{' for each worker' if workers else ''}{gpu}.")
    asked = [group.memory for group in (workers.groups if workers else ()) if group.memory is not None]
    if asked and min(asked) < host:
        raise InputError(
            f"The workers file asks for {_size(min(asked))} of memory for a worker, but one needs about {_size(host)}: "
            "raise memory there, or lower prediction.input_size_voxels."
        )


def _examine_disk(found: Preflight, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    found.lines.append(f"Disk of {shown_path(folder)}: {_size(free)} free, at most {_size(size)} needed.")
    if free < size:
        raise InputError(
            f"The output may take {_size(size)}, but the disk of {folder} has {_size(free)} left: free some, "
            "set prediction.output_dtype=uint8, or prediction.directories.prefix to another disk."
        )


def _time_sentence(
    plan: PredictionPlan, speed: TileSpeed, costs: Sequence[_Cost], times: int, workers: Workers | None
) -> str:
    if plan.asks_worker and not speed.measured:
        return "Expected time: not known, since no worker has measured how fast its device is."
    if not speed.measured:
        return "Expected time: not known, since the tiles of this network do not fit into the memory here."
    masked = "; tiles that the mask clears take none" if any(region.mask is not None for region in plan.regions) else ""
    alone = sum(cost.seconds_with(1, times) for cost in costs)
    threads = torch.get_num_threads()
    if workers is None:
        return f"Expected time: {duration(alone)} on this machine with {counted(threads, 'thread')}{masked}."
    count = worker_count(workers)
    together = sum(cost.seconds_with(count, times) for cost in costs)
    if plan.survey is not None:
        return (
            f"Expected time: {duration(together)} on {counted(count, 'worker')}, if they are all as fast as the one "
            f"that was measured, on {plan.survey.device}{masked}."
        )
    if not plan.on_gpu:
        together *= threads * count / _cores(workers)
    return (
        f"Expected time: {duration(together)} on {counted(count, 'worker')}, if they are as fast as this machine"
        f"{masked}; {duration(alone)} here alone with {counted(threads, 'thread')}."
    )


def _cores(workers: Workers) -> int:
    """Count the cores that all workers compute on; those on this machine cannot have more than it has."""
    here = sum((group.count or 1) * group.cores for group in workers.groups if group.launcher == "local")
    elsewhere = sum((group.count or 1) * group.cores for group in workers.groups if group.launcher != "local")
    return min(here, len(os.sched_getaffinity(0))) + elsewhere


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB" if number < 1000 else f"{number / 1024:.3g} TiB"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(int(edge)) for edge in shape)
