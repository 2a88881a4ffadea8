"""A region's prediction as a blockwise task: each worker loads the checkpoint once and predicts blocks of tiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask
from incasem_like.errors import DivergedError
from incasem_like.prediction.computing.ahead import Behind, ahead
from incasem_like.prediction.computing.predictor import Predictor, Tile
from incasem_like.prediction.computing.weights import PredictorSetUp
from incasem_like.prediction.outputs import RegionOutput
from incasem_like.samples import Region
from incasem_like.volumes import Coordinate, Roi

Floats = npt.NDArray[np.float32]
Part = tuple[Roi, Floats]


def read_block(block: Block, parameters: Mapping[str, Any]) -> list[tuple[Tile, Floats]]:
    """Read what the network takes first of each tile; tiles that the mask clears are passed over and stay 0."""
    region, predictor = block.prepared
    tiles = predictor.tiles(region.roi, region.raw_roi.begin, within=block.write_roi)
    return [
        (tile, region.read_raw(predictor.first_read(tile), outside="reflect"))
        for tile, inside in inside_mask(region, tiles, 0)
        if inside
    ]


def predict_block(block: Block, parameters: Mapping[str, Any]) -> list[Part]:
    """Predict the block's tiles; what is not written yet at the end is written while the next block is computed.

    That is the last part of tiles that come slab by slab, which keeps little in memory, and else all of them: a GPU
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
    with Behind(threaded=predictor.read_ahead > 0) as writer:
        for _, roi, probabilities in predictor.predict_parts(read, tiles, block.output.write_chunk_shape[-3]):
            check_finite(probabilities)
            if waiting and predictor.in_slabs:
                writer.do(partial(write_parts, block, [waiting.pop()]))
            waiting.append((roi, probabilities))
            block.advance(roi.size)
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
    """Make sure that a network gave numbers.

    Raises:
        DivergedError: It did not.
    """
    if not np.isfinite(probabilities).all():
        raise DivergedError(
            "The network gives values that are not numbers: its training diverged, choose an earlier checkpoint; "
            "or the precision is too low, set torch.precision=fp32."
        )


def inside_mask(region: Region, tiles: Iterable[Tile], read_ahead: int) -> Iterator[tuple[Tile, bool]]:
    """Yield each tile and whether the mask is anything but 0 there; masks are read ahead in other threads."""
    if region.mask is None:
        yield from ((tile, True) for tile in tiles)
    else:
        yield from ahead(lambda tile: (tile, bool(region.read_mask(tile[1]).any())), tiles, read_ahead)


def region_blocks(
    output: RegionOutput, set_up: PredictorSetUp, predictor: Predictor, description: Mapping[str, Any]
) -> BlockTask:
    """Describe the blockwise work on one region.

    Args:
        output: Its datasets.
        set_up: What a worker needs.
        predictor: Of tiles of the same size.
        description: All that the values depend on, JSON-able.
    """
    region = set_up.region
    inputs = [region.raw] if region.mask is None else [region.raw, region.mask]
    return BlockTask(
        name="predict",
        output=output.main,
        further_outputs=output.further,
        inputs=tuple(str(volume.address) for volume in inputs),
        read=read_block,
        function=predict_block,
        write=write_parts,
        threads=predictor.read_ahead > 0,
        parameters=description,
        block_shape=region_block_shape(predictor, region, output.main.write_chunk_shape[-3:]),
        set_up=set_up,
        model_hash=set_up.model_hash,
    )


def region_block_shape(predictor: Predictor, region: Region, chunk: tuple[int, ...]) -> tuple[int, ...]:
    """Give the smallest blocks of a region: of whole chunks, and of whole tiles, as many as are predicted together."""
    steps, shape = predictor.steps(region.roi, region.raw_roi.begin), region.roi.shape
    together, left = [1, 1, 1], predictor.batch_size
    for axis in (2, 1, 0):
        together[axis] = min(left, -(-shape[axis] // steps[axis]))
        left = -(-left // together[axis])
    return block_shape(steps * Coordinate(together), chunk, shape)


def block_shape(tile: Coordinate, chunk: tuple[int, ...], whole: Coordinate) -> tuple[int, ...]:
    """Give the smallest blocks of whole tiles and whole chunks."""
    shape = [math.lcm(edge, unit) for edge, unit in zip(tile, chunk, strict=True)]
    return tuple(min(edge, -(-length // unit) * unit) for edge, unit, length in zip(shape, chunk, whole, strict=True))
