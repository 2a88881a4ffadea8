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
from incasem_like.prediction.blocks import block_shape
from incasem_like.prediction.memory import BYTES_OF_A_PROCESS
from incasem_like.prediction.outputs import OutputPlace, chunk_shape_for
from incasem_like.prediction.plan import PredictionPlan
from incasem_like.prediction.region_task import read_begun
from incasem_like.samples import Region
from incasem_like.terminal import duration, shown_path

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.prediction.tile_size import TileSpeed

GIB = 2**30
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
    speed = plan.speed(most_voxels=MEASURED_VOXELS)
    seconds, tile_bytes = 0.0, 0
    needed: dict[Path, int] = {}
    for region, place in zip(plan.regions, places, strict=True):
        with found.noting():
            whole, left, one, size = _examine_region(found, plan, region, place, speed, workers, resume)
            seconds, tile_bytes = seconds + whole * (times - 1 + left), max(tile_bytes, one)
            folder = _nearest_folder(place.container)
            needed[folder] = needed.get(folder, 0) + size * (kept - 1 if resume else kept)
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
    found: Preflight,
    plan: PredictionPlan,
    region: Region,
    place: OutputPlace,
    speed: TileSpeed,
    workers: Workers | None,
    resume: bool,
) -> tuple[float, float, int, int]:
    """Say how a region is cut up and where it goes; give seconds, what part is left, bytes of a tile and of the output.

    The seconds are those of the whole region.
    """
    begun = read_begun(place) if resume else None
    if begun is not None:
        choice = plan.describe_tiles(region, begun.input_size)
    else:
        place.check_free(half_made=resume)
        choice = plan.choose_tiles(region, workers)
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
    return choice.seconds(speed, region.roi.size), left, choice.bytes, int(size)


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
