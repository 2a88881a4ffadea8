"""Equalising the histogram of a volume by 3-D CLAHE, without seams between blocks and in bounded memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from incasem_like.blockwise import Block, BlockTask
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
from incasem_like.formatting.derive import DatasetWritten, Derivation
from incasem_like.volumes import Volume


def equalize_histogram(
    derivation: Derivation, *, kernel: Triple, clip_limit: float = 0.02, bins: int = 256
) -> DatasetWritten:
    """Equalise a volume to uint8, as ``skimage.exposure.equalize_adapthist`` would with the whole volume in memory.

    The volume is read four times at most: for its range of values, for the histograms of all tiles, where the extremes
    of the result may lie, and to write. A volume of one value becomes 0.

    Args:
        derivation: Input grey values (uint8, uint16, or floats in [0, 1]) and output.
        kernel: Tile size, voxels.
        clip_limit: Largest share of a tile's voxels in one bin; larger means more contrast; 0 = no limit.
        bins: Number of histogram bins.

    Raises:
        DataError: The dataset is missing or cannot be equalised.
        InputError: A parameter is invalid, or the output exists with other parameters.
    """
    source = derivation.open_source()
    source.require_chunks()
    _check(source, kernel, clip_limit, bins)
    parameters = {"kernel_size": list(kernel), "clip_limit": clip_limit, "bins": bins}
    values: tuple[float, float] | None = None
    if derivation.overwrite:  # an existing output is not deleted for values that cannot be equalised
        values = value_range(source, None, **derivation.run_options(source))
    output = derivation.open_output(source, "equalize_histogram", parameters)
    inputs, blocks = (str(source.address),), derivation.blocks(source)
    task = BlockTask("equalize_histogram", output, inputs, equalize_block, parameters, blocks)
    if not output.complete:
        with DoneLog(task.folder, task.fingerprint(), complete=task.complete):
            pass  # refuses an output begun with other parameters before the volume is measured
        _measure(source, output, parameters, derivation, values)
    written = derivation.run(task, "Equalising")
    for left in Path(str(output.address)).glob(".clahe_*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return written


def _check(source: Volume, kernel: Triple, clip_limit: float, bins: int) -> None:
    if source.dtype.kind != "f" and source.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{source.address} holds {source.dtype}, but uint8, uint16 or floats are needed: convert it first."
        )
    if min(kernel) < 1 or not 0 <= clip_limit <= 1 or not 2 <= bins <= 2**14:
        raise InputError(
            f"Got kernel_size {list(kernel)}, clip_limit {clip_limit}, bins {bins}: "
            "the first must be 1 or more, the second 0 to 1, the third 2 to 16384."
        )


def _tables_path(output: Volume) -> Path:
    """Return the path of the tables, a hidden file in the output's folder, deleted with or after the output."""
    return Path(str(output.address)) / ".clahe_tables.npy"


def _measure(
    source: Volume,
    output: Volume,
    parameters: Mapping[str, Any],
    derivation: Derivation,
    values: tuple[float, float] | None,
) -> None:
    """Compute tables and ranges unless an interrupted call has left them; the file of ranges is written last."""
    path = _tables_path(output)
    ranges = path.with_suffix(".json")
    if ranges.exists():
        return
    workers = derivation.run_options(source)
    low, high = values or value_range(source, path.parent, **workers)
    scale = GreyScale(source.dtype.name, low, high, parameters["bins"])
    work = Equalization(str(source.address), tuple(parameters["kernel_size"]), parameters["clip_limit"], scale)
    edges = make_tables(work, path, **workers)
    level_low, level_high = result_range(work, path, edges, derivation.workers(source))
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
