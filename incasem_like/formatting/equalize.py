"""Equalising the histogram of a volume by 3-D CLAHE, without seams between blocks and in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.done_log import DoneLog
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.clahe import GreyScale, to_uint8
from incasem_like.formatting.clahe_tables import (
    Box,
    Equalization,
    Triple,
    levels_of,
    make_tables,
    result_range,
    value_range,
)
from incasem_like.formatting.outputs import DatasetWritten
from incasem_like.formatting.workers import Workers, useful_workers
from incasem_like.volumes import Volume, make_provenance, open_volume


def equalize_histogram(
    container: str,
    dataset: str,
    out_dataset: str,
    *,
    kernel: Triple,
    clip_limit: float = 0.02,
    bins: int = 256,
    chunk_shape: Triple = (128, 128, 128),
    num_workers: int = 1,
    overwrite: bool = False,
) -> DatasetWritten:
    """Equalise a volume as ``skimage.exposure.equalize_adapthist`` would do it with the whole in memory, to uint8.

    The volume is read four times at most: for its range of values, for the histograms of all tiles, where the extremes
    of the result may lie, and to write. A volume of one value becomes 0.

    Args:
        container: Container of both datasets.
        dataset: Grey values: uint8, uint16, or floats in [0, 1].
        out_dataset: Result, uint8.
        kernel: Tile size, voxels.
        clip_limit: Share of a tile's voxels that a bin may hold; more means more contrast.
        bins: Bins of histograms.
        chunk_shape: Chunks of the result, voxels.
        num_workers: Processes.
        overwrite: Replace what is there.

    Raises:
        DataError: No such dataset, or one that cannot be equalised.
        InputError: A wrong parameter, or an output made otherwise.
    """
    source = open_volume(container, dataset)
    _check(source, out_dataset == dataset, kernel, clip_limit, bins)
    parameters = {"kernel_size": list(kernel), "clip_limit": clip_limit, "bins": bins}
    output = create_or_resume_output(
        container,
        out_dataset,
        shape=source.shape,
        dtype=np.uint8,
        voxel_size=source.voxel_size,
        offset=source.offset,
        chunk_shape=chunk_shape,
        provenance=make_provenance("equalize_histogram", parameters, [source]),
        overwrite=overwrite,
    )
    task = BlockTask("equalize_histogram", output, (str(source.address),), equalize_block, parameters, chunk_shape)
    workers = useful_workers(num_workers, int(np.prod(source.shape)))
    if not output.complete:
        with DoneLog(output, task.fingerprint()):
            pass  # refuses an output begun with other parameters before the volume is measured
        _measure(source, output, parameters, workers)
    summary = run_blockwise(task, num_workers=workers, description="Equalising")
    for suffix in (".npy", ".json"):
        _tables_path(output).with_suffix(suffix).unlink(missing_ok=True)
    return DatasetWritten(str(output.address), summary.already_complete)


def _check(source: Volume, in_place: bool, kernel: Triple, clip_limit: float, bins: int) -> None:
    if source.axes != "zyx":
        raise DataError(f"{source.address} has axes {source.axes}, but only zyx can be equalised: choose one channel.")
    if source.dtype.kind != "f" and source.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{source.address} holds {source.dtype}, but uint8, uint16 or floats are needed: convert it first."
        )
    if in_place:
        raise InputError(f"The result would replace {source.address}: choose another --out_dataset.")
    if min(kernel) < 1 or not 0 <= clip_limit <= 1 or not 2 <= bins <= 2**14:
        raise InputError(
            f"Got kernel_size {list(kernel)}, clip_limit {clip_limit}, bins {bins}: "
            "the first must be 1 or more, the second 0 to 1, the third 2 to 16384."
        )


def _tables_path(output: Volume) -> Path:
    """Name the file of tables, hidden in the output's folder: it goes when the output is finished or replaced."""
    return Path(str(output.address)) / ".clahe_tables.npy"


def _measure(source: Volume, output: Volume, parameters: Mapping[str, Any], num_workers: int) -> None:
    """Make the tables and the ranges, unless an interrupted call has left them; the file of ranges is written last."""
    path = _tables_path(output)
    ranges = path.with_suffix(".json")
    if ranges.exists():
        return
    with Workers(num_workers) as workers:
        low, high = value_range(source, workers)
        scale = GreyScale(source.dtype.name, low, high, parameters["bins"])
        work = Equalization(str(source.address), tuple(parameters["kernel_size"]), parameters["clip_limit"], scale)
        edges = make_tables(work, workers, path)
        level_low, level_high = result_range(work, workers, path, edges)
    partial = ranges.with_suffix(".partial")
    partial.write_text(json.dumps({"values": [low, high], "levels": [level_low, level_high]}))
    partial.replace(ranges)


@lru_cache(maxsize=2)
def _prepared(path: Path, source: str, dtype: str, parameters: str) -> tuple[Equalization, list[float]]:
    ranges, read = json.loads(path.with_suffix(".json").read_text()), json.loads(parameters)
    scale = GreyScale(dtype, ranges["values"][0], ranges["values"][1], read["bins"])
    return Equalization(source, tuple(read["kernel_size"]), read["clip_limit"], scale), ranges["levels"]


def equalize_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write one block of the result."""
    source = block.inputs[0]
    path = _tables_path(block.output)
    work, (low, high) = _prepared(path, str(source.address), source.dtype.name, json.dumps(dict(parameters)))
    indices = block.write_roi - source.roi.begin
    (z, y, x), (end_z, end_y, end_x) = indices.begin, indices.end
    parts = Box((z, y, x), (end_z, end_y, end_x)).sections()
    equalised = [to_uint8(levels_of(work, str(path), part), low, high) for part in parts]
    block.output.write(np.concatenate(equalised), block.write_roi)
