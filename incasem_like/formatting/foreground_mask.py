"""Objects judged by their size in a whole volume, block by block: the foreground mask, and labels by connected part."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.components import Parts, find_parts, joined, looked_up, save_table
from incasem_like.formatting.derive import DatasetWritten, Derivation, Operation, derive
from incasem_like.volumes import Address, Volume, open_volume, parse_address
from incasem_like.volumes.chunk_files import digest
from incasem_like.volumes.values import check_label_dtype, check_labels

OPENING, CLOSING = 3, 2  # radii in voxels, as in incasem
CONTEXT = 2 * (OPENING + CLOSING)
SMOOTH = "smooth.zarr"


def create_mask(
    derivation: Derivation,
    *,
    minimum: float = 2,
    maximum: float = 180,
    hole_size: int = 100_000,
    object_size: int = 100_000,
) -> DatasetWritten:
    """Write the foreground mask of a volume: 1 in the specimen, 0 in empty resin.

    Foreground are the grey values between two limits, opened by a ball of 3 voxels and closed by one of 2. Then holes
    (connected background) and after them objects smaller than a number of voxels are removed. Both are counted in the
    whole volume, so that the result does not depend on the blocks.

    Args:
        derivation: Grey values and output.
        minimum, maximum: Foreground is brighter than the first and darker than the second.
        hole_size, object_size: Smallest hole and smallest object that remain, voxels.

    Raises:
        InputError: The limits are not in order, or the output exists with other parameters.
        DataError: The source is missing.
    """
    if not minimum < maximum:
        raise InputError(f"The grey values {minimum:g} to {maximum:g} are an empty range: give --min_gray_value less.")
    limits = {"minimum": minimum, "maximum": maximum}

    report: list[str] = []

    def decide(parts: Parts) -> npt.NDArray[Any]:
        kept = without_small(parts, hole_size, object_size)
        changed = {value: int(parts.sizes[(parts.values == value) & (kept != value)].sum()) for value in (0, 1)}
        report.append(
            f"Filled {changed[0]} voxels of holes below {hole_size}, removed {changed[1]} voxels of objects below "
            f"{object_size}"
        )
        return kept.astype(np.uint8)

    def smooth(source: Volume, _: Derivation) -> Operation:
        return Operation("smooth_foreground", smooth_block, limits, dtype=np.uint8, context=(CONTEXT,) * 3)

    sizes = {"hole_size": hole_size, "object_size": object_size}
    final = Operation("create_mask", mask_block, {**limits, **sizes}, dtype=np.uint8)
    return replace(_by_parts(derivation, smooth, decide, final), note="".join(report))


def smooth_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
    """Return the foreground of a block before objects and holes are judged by their size."""
    from scipy.ndimage import binary_dilation, binary_erosion
    from skimage.morphology import ball

    source = block.inputs[0]
    seen = block.read_roi.intersect(source.roi)
    values = source.read(seen)
    found = (values > parameters["minimum"]) & (values < parameters["maximum"])
    if found.all() or not found.any():  # the steps below change nothing
        return np.full(block.write_roi.shape, found.flat[0], np.uint8)
    # What lies beyond the volume counts as foreground for an erosion and as background for a dilation. The same is
    # wrong at the other sides of what is read here, but the error ends within the context.
    for shrink, radius in ((True, OPENING), (False, OPENING), (False, CLOSING), (True, CLOSING)):
        shape = ball(radius, bool)
        found = binary_erosion(found, shape, border_value=1) if shrink else binary_dilation(found, shape)
    return np.asarray(found[(block.write_roi - seen.begin).to_slices()], np.uint8)


def without_small(parts: Parts, hole_size: int, object_size: int) -> npt.NDArray[np.bool_]:
    """Return which parts of a mask are foreground after small holes, then small objects are removed.

    Args:
        parts: The parts of a mask of 0 and 1.
        hole_size, object_size: Holes and objects with fewer voxels are removed.
    """
    filled = (parts.component_values == 0) & (parts.component_sizes < hole_size)
    solid = ((parts.component_values != 0) | filled)[parts.component]
    # A filled hole joins the objects around it.
    pairs = parts.touching[solid[parts.touching].all(axis=1)]
    links = np.concatenate([parts.component[pairs], np.zeros((0, 2), np.int64)])
    merged = joined(links, len(parts.component_sizes))[parts.component]
    sizes = np.bincount(merged, parts.sizes)
    return np.asarray(solid & (sizes[merged] >= object_size))


def label_components(derivation: Derivation, *, object_size: int = 0) -> DatasetWritten:
    """Write labels in which every connected part has an id of its own, from 1 in the order of their first block.

    Voxels of one id that are connected through their faces stay one object, across blocks too; parts of one id that
    are apart become several. Of a mask this gives its connected components.

    Args:
        derivation: Labels or a mask, and output, uint32.
        object_size: Objects with fewer voxels become background.

    Raises:
        DataError: The source is missing or does not hold labels.
    """
    report: list[str] = []

    def decide(parts: Parts) -> npt.NDArray[Any]:
        objects = parts.component_values != 0
        large = objects & (parts.component_sizes >= object_size)
        report.append(
            f"{large.sum()} connected parts; removed {(objects & ~large).sum()} of less than {object_size} voxels"
        )
        ids = np.where(large, np.cumsum(large), 0)
        if ids.max() >= 2**32:
            raise DataError(f"There are {ids.max()} connected parts, more than uint32 holds: give --object_size.")
        return np.asarray(ids[parts.component].astype(np.uint32))

    final = Operation("components", components_block, {"object_size": object_size}, dtype=np.uint32, labels=True)
    written = _by_parts(derivation, None, decide, final)
    return replace(written, note="".join(report))


def mask_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the finished mask of a block."""
    smooth = open_volume(str(_scratch(block.output.address) / SMOOTH))
    return looked_up(smooth.read(block.write_roi), block.number, _table(block.output.address, parameters))


def components_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the new labels of a block."""
    labels = block.inputs[0].read(block.write_roi)
    check_labels(labels, str(block.inputs[0].address), block.write_roi.begin)
    return looked_up(labels, block.number, _table(block.output.address, parameters))


def _scratch(output: Address) -> Path:
    """Return the hidden folder beside an output that holds what is needed until it is complete."""
    path = Path(output.location)
    return path.with_name(f".{path.name}.parts")


def _table(output: Address, parameters: Mapping[str, Any]) -> Path:
    return _scratch(output) / f"{digest(dict(parameters))[:10]}.npy"


def _by_parts(
    derivation: Derivation,
    prepare: Callable[[Volume, Derivation], Operation] | None,
    decide: Callable[[Parts], npt.NDArray[Any]],
    final: Operation,
) -> DatasetWritten:
    """Find the parts of a volume, or of one prepared from it, decide on each, and write the result.

    Args:
        derivation: The request.
        prepare: Operation that makes the volume whose parts are judged; None for the source itself.
        decide: Returns the value that the voxels of each part get.
        final: Operation that looks them up.
    """

    def plan(source: Volume, _: Derivation) -> Operation:
        source.require_zyx()
        if final.labels:
            check_label_dtype(source)
        output = derivation.open_output(source, final.name, final.parameters, dtype=final.dtype or np.uint8)
        if output.complete:
            return final
        scratch = _scratch(output.address)
        scratch.mkdir(exist_ok=True)
        volume = source
        if prepare is not None:
            smooth = replace(derivation, out_container=str(scratch / SMOOTH), out_dataset="", storage={})
            volume = open_volume(derive(smooth, prepare).address)
        parts = find_parts(volume, output, derivation.blocks(source), **derivation.run_options(volume))
        save_table(parts, decide(parts), _table(output.address, final.parameters))
        return final

    written = derive(derivation, plan)
    shutil.rmtree(_scratch(parse_address(written.address)), ignore_errors=True)
    return written
