"""The dry run of a prediction: its time, memory and disk space, and the problems that would stop it."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from incasem_like.blockwise.workers_file import Workers, load_workers, worker_problems
from incasem_like.errors import IncasemError, InputError
from incasem_like.prediction.blocks import region_block_shape
from incasem_like.prediction.outputs import OutputLocation, chunk_shape_for, nearest_folder, read_begun
from incasem_like.prediction.planning.memory import BYTES_OF_A_PROCESS, worker_count
from incasem_like.prediction.planning.plan import PredictionPlan
from incasem_like.prediction.planning.tile_size import MEASURED_VOXELS, TileSpeed
from incasem_like.samples import Region
from incasem_like.terminal import counted, duration, shown_path
from incasem_like.tracking import RunStore

GIB = 2**30


@dataclass
class Preflight:
    """The findings about a prediction before it starts.

    Attributes:
        collects: Whether problems are collected, as for a dry run; otherwise the first one is raised.
        lines: Report for the user, problems included.
        errors: All errors that would stop the prediction.
        runs: The run store; None if predictions are not tracked, or it cannot be opened.
        next_id: The id that a new run would get.
        workers: The workers that would predict; None for this process.
        knows_workers: Whether they are known: False if the workers file is wrong.
    """

    collects: bool = True
    lines: list[str] = field(default_factory=list)
    errors: list[IncasemError] = field(default_factory=list)
    runs: RunStore | None = None
    next_id: int = 1
    workers: Workers | None = None
    knows_workers: bool = True

    @property
    def problems(self) -> list[str]:
        """All problems that would stop the prediction, a sentence each."""
        return [str(error) for error in self.errors]

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the error that ends the block inside, and continue after it."""
        try:
            yield
        except IncasemError as error:
            if not self.collects:
                raise
            if str(error) not in self.problems:
                self.errors.append(error)
                self.lines.append(f"Problem: {error}")

    def stop(self) -> NoReturn:
        """Raise the first of the collected problems: without the missing parts nothing else can be checked."""
        raise self.errors[0]


def look_around(store: Callable[[], RunStore | None], workers_file: Path | None) -> Preflight:
    """Open the run store and read the workers file, and return what was found."""
    found = Preflight()
    with found.collecting():
        runs = found.runs = store()
        found.next_id += max(runs.ids() if runs is not None else (), default=0)
    if workers_file is None:
        return found
    found.knows_workers = False
    with found.collecting():
        found.workers = load_workers(workers_file)
        found.knows_workers = True
        for problem in worker_problems(found.workers):
            with found.collecting():
                raise problem
    return found


def report_networks(found: Preflight, plan: PredictionPlan) -> None:
    """Report checkpoint and precision of each network."""
    for network in plan.networks:
        source, checkpoint = network.source, network.source.checkpoint
        iteration = "" if checkpoint.iteration is None else f", iteration {checkpoint.iteration}"
        found.lines.append(f"Network: training run {source.training_run_id}{iteration}: {shown_path(checkpoint.path)}")
        if network.precision is not None:
            found.lines.append(f"Precision: {network.precision}")
        elif not plan.knows_precision:
            asked = f"torch.precision={source.torch.precision}"
            found.lines.append(f"Precision: a worker that is started first compares {asked} with fp32.")


def examine_regions(
    found: Preflight,
    plan: PredictionPlan,
    locations: Sequence[OutputLocation],
    *,
    resume: bool,
    times: int = 1,
    kept: int = 1,
) -> None:
    """Report the tiles and outputs of the regions, and the time and disk space they take.

    Args:
        found: Receives lines and problems.
        plan: The plan of the prediction.
        locations: The output of each region.
        resume: Whether the prediction was begun before.
        times: Number of such predictions, one after the other.
        kept: Number of them on disk at once.
    """
    with found.collecting():
        plan.check_not_read(locations)
    speed = plan.speed(most_voxels=MEASURED_VOXELS)
    costs: list[_Cost] = []
    needed: dict[Path, int] = {}
    for region, location in zip(plan.regions, locations, strict=True):
        with found.collecting():
            costs.append(_examine_region(found, plan, region, location, speed, resume))
            location.check_writable()
            folder = nearest_folder(location.container)
            needed[folder] = needed.get(folder, 0) + costs[-1].disk_left(kept)
    for folder, size in needed.items():
        free = shutil.disk_usage(folder).free
        found.lines.append(f"Disk of {shown_path(folder)}: {_size(free)} free, at most {_size(size)} needed.")
        with found.collecting():
            if free < size:
                raise InputError(
                    f"The output may take {_size(size)}, but the disk of {folder} has {_size(free)} left: free some, "
                    "set prediction.output_dtype=uint8, or prediction.directories.prefix to another disk."
                )
    if costs and all(cost.is_known for cost in costs):
        with found.collecting():
            _examine_memory(found, plan, costs)
        found.lines.append(_time_sentence(plan, speed, costs, times))


@dataclass(frozen=True)
class _Cost:
    """The costs of a region; if its tiles are not known, only ``disk`` is valid."""

    is_known: bool = False
    seconds: float = 0  # one block after the other
    blocks: int = 1
    left: int = 1  # blocks that are not done
    tile_bytes: int = 0  # memory of a tile where the network computes
    host_bytes: int = 0  # additional memory on the host
    disk: int = 0  # bytes at most

    def disk_left(self, kept: int) -> int:
        """Return an upper bound of the bytes still to be written, with ``kept`` predictions on disk at once."""
        return self.disk * (kept - 1) + math.ceil(self.disk * self.left / self.blocks)

    def seconds_with(self, workers: int, times: int) -> float:
        """Return the time of the worker with most blocks: of what remains, and of all for all but the first of
        ``times``."""
        of_busiest = [-(-blocks // workers) for blocks in (self.left, self.blocks)]
        return self.seconds / self.blocks * (of_busiest[0] + (times - 1) * of_busiest[1])


def _examine_region(
    found: Preflight, plan: PredictionPlan, region: Region, location: OutputLocation, speed: TileSpeed, resume: bool
) -> _Cost:
    """Report the tiles of a region and its output."""
    begun = read_begun(location) if resume else None
    if begun is None:
        location.check_free(resuming=resume)
    section, channels, shape = plan.config.prediction, plan.training.model.num_fmaps_out, region.roi.shape
    size = int(region.roi.size * (channels * np.dtype(section.output_dtype).itemsize + (not location.channels)))
    written = [f"{group.name} ({counted(group.channels, 'channel')})" for group in location.channels]
    written = written or ["segmentation", counted(channels, "probability map")]
    into = (
        f"  into {shown_path(location.folder)}: {' and '.join(written)} of {section.output_dtype}, "
        f"at most {_size(size)} on disk."
    )
    if begun is None and not plan.knows_tiles:
        found.lines += [
            f"{region.name}: {_times(shape)} voxels; a worker that is started first finds out what tiles are good, and "
            "so how much memory and time this takes.",
            into,
        ]
        return _Cost(disk=size)
    choice = plan.choose_tiles(region, None if begun is None else begun.input_size)
    predictor = plan.predictor(choice.input_size)
    steps = predictor.steps(region.roi, region.raw_roi.begin)
    block = region_block_shape(predictor, region, chunk_shape_for(steps, shape))
    blocks = math.prod(-(-length // edge) for length, edge in zip(shape, block, strict=True))
    given = tuple(min(edge, length) for edge, length in zip(steps, shape, strict=True))
    done = "" if begun is None else f"; {counted(begun.done, 'block')} {'is' if begun.done == 1 else 'are'} done"
    found.lines += [
        f"{region.name}: {_times(shape)} voxels in {counted(choice.tiles, 'tile')}, {counted(blocks, 'block')}; a tile "
        f"reads {_times(choice.input_size)} and gives {'' if choice.tiles == 1 else 'up to '}{_times(given)} voxels"
        f"{done}.",
        into,
    ]
    left = blocks if begun is None else blocks - begun.done
    return _Cost(True, choice.seconds(speed, region.roi.size), blocks, left, choice.bytes, choice.host_bytes, size)


def _examine_memory(found: Preflight, plan: PredictionPlan, costs: Sequence[_Cost]) -> None:
    workers, tile_bytes = plan.workers, max(cost.tile_bytes for cost in costs)
    host = BYTES_OF_A_PROCESS + (max(cost.host_bytes for cost in costs) if plan.on_gpu else tile_bytes)
    gpu = f", and {tile_bytes / GIB:.1f} GiB of its GPU" if plan.on_gpu else ""
    found.lines.append(f"Memory: about {host / GIB:.1f} GiB{' for each worker' if workers else ''}{gpu}.")
    asked = [group.memory for group in (workers.groups if workers else ()) if group.memory is not None]
    if asked and min(asked) < host:
        raise InputError(
            f"The workers file asks for {_size(min(asked))} of memory for a worker, but one needs about {_size(host)}: "
            "raise memory there, or lower prediction.input_size_voxels."
        )


def _time_sentence(plan: PredictionPlan, speed: TileSpeed, costs: Sequence[_Cost], times: int) -> str:
    if not speed.measured:
        why = (
            "no worker has measured how fast its device is"
            if plan.is_probed
            else "the tiles of this network do not fit into the memory here"
        )
        return f"Expected time: not known, since {why}."
    masked = "; tiles outside the mask take none" if any(region.mask is not None for region in plan.regions) else ""
    alone = sum(cost.seconds_with(1, times) for cost in costs)
    threads = torch.get_num_threads()
    if plan.workers is None:
        return f"Expected time: {duration(alone)} on this machine with {counted(threads, 'thread')}{masked}."
    count = worker_count(plan.workers)
    together = sum(cost.seconds_with(count, times) for cost in costs)
    if plan.lead.profile is not None:
        return (
            f"Expected time: {duration(together)} on {counted(count, 'worker')}, if they are all as fast as the one "
            f"that was measured, on {plan.lead.profile.device}{masked}."
        )
    if not plan.on_gpu:
        together *= threads * count / _cores(plan.workers)
    return (
        f"Expected time: {duration(together)} on {counted(count, 'worker')}, if they are as fast as this machine"
        f"{masked}; {duration(alone)} here alone with {counted(threads, 'thread')}."
    )


def _cores(workers: Workers) -> int:
    """Count the cores that all workers compute on, one where that is not known; here no more than there are."""
    here = sum(group.number * group.cores for group in workers.groups if group.launcher == "local")
    elsewhere = sum(group.number * group.cores for group in workers.groups if group.launcher != "local")
    return max(1, min(here, len(os.sched_getaffinity(0))) + elsewhere)


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1024
    return f"{number:.3g} GiB" if number < 1000 else f"{number / 1024:.3g} TiB"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(int(edge)) for edge in shape)
