"""The report of a dry run: a prediction's time, memory and disk space."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from incasem_like.blockwise.workers_file import Workers
from incasem_like.disk import nearest_folder
from incasem_like.errors import InputError
from incasem_like.prediction.outputs import OutputLocation
from incasem_like.prediction.planning.memory import BYTES_OF_A_PROCESS, worker_count
from incasem_like.prediction.planning.plan import PlannedRegion, PredictionPlan
from incasem_like.prediction.planning.planner import Findings
from incasem_like.prediction.planning.tile_size import MEASURED_VOXELS, TileSpeed
from incasem_like.terminal import counted, duration, shown_path

GIB = 2**30


def report_networks(found: Findings, plan: PredictionPlan) -> None:
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


def report_regions(
    found: Findings,
    plan: PredictionPlan,
    locations: Sequence[OutputLocation],
    *,
    resumes: bool,
    times: int = 1,
    kept: int = 1,
) -> None:
    """Report the tiles and outputs of the regions, and the time and disk space they take.

    ``times`` is the number of such predictions, one after the other, and ``kept`` that of them on disk at once.
    """
    with found.collecting():
        plan.check_outputs(locations)
    speed = plan.speed(most_voxels=MEASURED_VOXELS)
    regions: list[PlannedRegion] = []
    needed: Counter[Path] = Counter()
    for region, location in zip(plan.regions, locations, strict=True):
        with found.collecting():
            planned = PlannedRegion.find(plan, region, location, resumes=resumes)
            found.lines += _describe_region(planned)
            regions.append(planned)
            needed[nearest_folder(location.container)] += planned.bytes_left(kept)
    for folder, size in needed.items():
        free = shutil.disk_usage(folder).free
        found.lines.append(f"Disk of {shown_path(folder)}: {_size(free)} free, at most {_size(size)} needed.")
        with found.collecting():
            if free < size:
                raise InputError(
                    f"The output may take {_size(size)}, but the disk of {folder} has {_size(free)} left: free some, "
                    "set prediction.output_dtype=uint8, or prediction.directories.prefix to another disk."
                )
    if regions and all(planned.knows_tiles for planned in regions):
        with found.collecting():
            _report_memory(found, plan, regions)
        found.lines.append(_time_sentence(plan, speed, regions, times))


def _describe_region(planned: PlannedRegion) -> list[str]:
    """Describe the tiles of a region and its output, in two lines."""
    region, location, begun, shape = planned.region, planned.location, planned.begun, planned.region.roi.shape
    section, channels = planned.plan.config.prediction, planned.plan.training.model.num_fmaps_out
    written = [f"{group.name} ({counted(group.channels, 'channel')})" for group in location.channels]
    written = written or ["segmentation", counted(channels, "probability map")]
    into = (
        f"  into {shown_path(location.folder)}: {' and '.join(written)} of {section.output_dtype}, "
        f"at most {_size(planned.bytes)} on disk."
    )
    if not planned.knows_tiles:
        return [
            f"{region.name}: {_times(shape)} voxels; a worker that is started first finds out what tiles are good, and "
            "so how much memory and time this takes.",
            into,
        ]
    tiles = planned.tiles
    given = tuple(min(edge, length) for edge, length in zip(planned.steps, shape, strict=True))
    done = "" if begun is None else f"; {counted(begun.done, 'block')} {'is' if begun.done == 1 else 'are'} done"
    return [
        f"{region.name}: {_times(shape)} voxels in {counted(tiles.tiles, 'tile')}, {counted(planned.blocks, 'block')}; "
        f"a tile reads {_times(tiles.input_size)} and gives {'' if tiles.tiles == 1 else 'up to '}{_times(given)} "
        f"voxels{done}.",
        into,
    ]


def _report_memory(found: Findings, plan: PredictionPlan, regions: Sequence[PlannedRegion]) -> None:
    workers, tile_bytes = plan.workers, max(planned.tiles.bytes for planned in regions)
    beside = max(planned.tiles.host_bytes for planned in regions) if plan.on_gpu else tile_bytes
    host = BYTES_OF_A_PROCESS + beside
    gpu = f", and {tile_bytes / GIB:.1f} GiB of its GPU" if plan.on_gpu else ""
    found.lines.append(f"Memory: about {host / GIB:.1f} GiB{' for each worker' if workers else ''}{gpu}.")
    asked = [group.memory for group in (workers.groups if workers else ()) if group.memory is not None]
    if asked and min(asked) < host:
        raise InputError(
            f"The workers file asks for {_size(min(asked))} of memory for a worker, but one needs about {_size(host)}: "
            "raise memory there, or lower prediction.input_size_voxels."
        )


def _time_sentence(plan: PredictionPlan, speed: TileSpeed, regions: Sequence[PlannedRegion], times: int) -> str:
    if not speed.measured:
        why = (
            "no worker has measured how fast its device is"
            if plan.is_probed
            else "the tiles of this network do not fit into the memory here"
        )
        return f"Expected time: not known, since {why}."
    masked = "; tiles outside the mask take none" if any(region.mask is not None for region in plan.regions) else ""
    alone = sum(planned.seconds(speed, 1, times) for planned in regions)
    threads = torch.get_num_threads()
    if plan.workers is None:
        return f"Expected time: {duration(alone)} on this machine with {counted(threads, 'thread')}{masked}."
    count = worker_count(plan.workers)
    together = sum(planned.seconds(speed, count, times) for planned in regions)
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
