"""A region's prediction as a blockwise task: each worker loads the checkpoint once and predicts blocks of tiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask
from incasem_like.errors import DivergedError
from incasem_like.prediction.computing.loading import PredictorSetUp
from incasem_like.prediction.computing.pipeline import prefetched
from incasem_like.prediction.computing.tiles import Predictor
from incasem_like.prediction.computing.tiling import Tile
from incasem_like.prediction.outputs import RegionOutput
from incasem_like.samples import Region
from incasem_like.volumes import Coordinate, Roi, Volume, nanometres

Floats = npt.NDArray[np.float32]
Part = tuple[Roi, Floats]


def read_block(block: Block, parameters: Mapping[str, Any]) -> list[tuple[Tile, Floats]]:
    """Read the first part of each tile's input; tiles that the mask excludes are left out and stay 0."""
    region, predictor = block.prepared

    def read(tile: Tile) -> tuple[Tile, Floats] | None:
        if region.mask is not None and not region.read_mask(tile.write_roi).any():
            return None
        return tile, region.read_raw(predictor.first_read(tile), outside="reflect")

    tiles = predictor.tiles(region.roi, region.raw_roi.begin, within=block.write_roi)
    # In several threads, so that a batch of small tiles is read as fast as one large tile.
    return [found for found in prefetched(read, tiles, predictor.num_threads) if found is not None]


def predict_block(block: Block, parameters: Mapping[str, Any]) -> list[Part]:
    """Predict the block's tiles; the returned parts are written while the next block is computed.

    For tiles predicted slab by slab, which take little memory, this is the last part; otherwise all tiles, since a GPU
    would wait for the disk.
    """
    region, predictor = block.prepared
    first = {_key(predictor.first_read(tile)): raw for tile, raw in block.data}
    tiles = [tile for tile, _ in block.data]

    def read(roi: Roi) -> Floats:
        known = first.pop(_key(roi), None)
        raw: Floats = region.read_raw(roi, outside="reflect") if known is None else known
        return raw

    waiting: list[Part] = []
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="write_behind") as writer:
        for _, roi, probabilities in predictor.predict_parts(read, tiles, block.output.write_chunk_shape[-3]):
            check_finite(probabilities)
            if waiting and predictor.in_slabs:
                if writing is not None:
                    writing.result()  # one at a time, which bounds memory
                writing = writer.submit(write_parts, block, [waiting.pop()])
                if predictor.num_threads == 0:
                    writing.result()
            waiting.append((roi, probabilities))
            block.advance(roi.size)
        if writing is not None:
            writing.result()
    return waiting


def _key(roi: Roi) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(roi.begin), tuple(roi.shape)


def write_parts(block: Block, parts: Sequence[Part]) -> None:
    """Write parts of tiles."""
    region, _ = block.prepared
    output = RegionOutput(block.outputs)
    for roi, probabilities in parts:
        output.write(roi, probabilities, region.read_mask(roi))


def check_finite(probabilities: Floats) -> None:
    """Check that a network's output holds neither NaN nor Inf.

    Raises:
        DivergedError: It does.
    """
    if not np.isfinite(probabilities).all():
        raise DivergedError(
            "The network outputs NaN or Inf: its training diverged, choose an earlier checkpoint; "
            "or the precision is too low, set torch.precision=fp32."
        )


def region_blocks(
    output: RegionOutput, set_up: PredictorSetUp, predictor: Predictor, description: Mapping[str, Any]
) -> BlockTask:
    """Return the blockwise task of one region: ``set_up`` makes it and a predictor like this one in each worker.

    The values depend on all of ``description``, which is JSON-serializable.
    """
    region = set_up.region
    return BlockTask(
        name="predict",
        output=output.main,
        further_outputs=output.further,
        inputs=tuple(str(volume.address) for volume in volumes_read(region)),
        read=read_block,
        function=predict_block,
        write=write_parts,
        threads=predictor.num_threads > 0,
        parameters=description,
        block_shape=region_block_shape(predictor, region, output.main.write_chunk_shape[-3:]),
        set_up=set_up,
        model_hash=set_up.model_hash,
    )


def volumes_read(region: Region) -> list[Volume]:
    """Return the volumes of a region that its prediction depends on."""
    return [region.raw] if region.mask is None else [region.raw, region.mask]


def region_offset(region: Region) -> tuple[float, ...]:
    """Return the position (z, y, x) in nm of a region's first voxel, which may lie between those of the voxel grid."""
    if region.raw.voxel_size is None:
        return nanometres(region.roi.begin, region.voxel_size)
    return region.raw.corner(region.roi.begin * Coordinate([region.downsample_factor] * 3))


def region_block_shape(predictor: Predictor, region: Region, chunk: tuple[int, ...]) -> tuple[int, ...]:
    """Return the smallest blocks of a region: of whole chunks and tiles, as many as are predicted together."""
    steps, shape = predictor.steps(region.roi, region.raw_roi.begin), region.roi.shape
    together, left = [1, 1, 1], predictor.batch_size
    for axis in (2, 1, 0):
        together[axis] = min(left, -(-shape[axis] // steps[axis]))
        left = -(-left // together[axis])
    return block_shape(steps * Coordinate(together), chunk, shape)


def block_shape(tile: Coordinate, chunk: tuple[int, ...], whole: Coordinate) -> tuple[int, ...]:
    """Return the smallest blocks of whole tiles and whole chunks."""
    shape = [math.lcm(edge, unit) for edge, unit in zip(tile, chunk, strict=True)]
    return tuple(min(edge, -(-length // unit) * unit) for edge, unit, length in zip(shape, chunk, whole, strict=True))
