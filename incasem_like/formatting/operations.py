"""The operations that make one volume from another, block by block: copies, other grids, other values.

Each function checks the source and returns an ``Operation`` for ``derive``; ``OPERATIONS`` lists them by name.
Positions are absolute voxels: a crop, a padded copy and a scale level stay where they are in the world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil, prod
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.derive import MEANING, Derivation, OfLabels, Operation
from incasem_like.formatting.grey_values import invert, match_histogram, rescale
from incasem_like.formatting.label_masks import bounding_box, disks, labelled_mask, select
from incasem_like.volumes import Coordinate, NanometreRoi, Roi, Volume, describe_roi, nanometres, open_volume
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.geometry import exact

Array = npt.NDArray[Any]
Triple = Annotated[Sequence[int], 3]
Sizes = Annotated[Sequence[float], 3]
Method = Literal["auto", "mean", "mode"]

VOXELS_AT_ONCE = 1 << 23
MOST_ENLARGED = 4096  # voxels of one: beyond it, sizes are in another unit
ON_ANY_GRID = tuple(name for name in MEANING if name != "offsets")  # those are numbers of voxels
LABEL_NAMES = ("label", "mask", "segmentation", "object", "instance")


def copy_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return the voxels of the source at the block, extended beyond the source as the parameters say."""
    return block.inputs[0].read(
        block.write_roi, outside=parameters.get("mode", "error"), fill=parameters.get("value", 0)
    )


def convert(source: Volume, derivation: Derivation) -> Operation:
    """Copy a volume to other chunks, another format or container."""
    return Operation("convert", copy_block, channels=True, meaning=_meaning(source))


def crop(
    source: Volume,
    derivation: Derivation,
    *,
    offset: Triple | None = None,
    shape: Triple = (0, 0, 0),
    around: str | None = None,
    margin: Triple = (0, 0, 0),
) -> Operation:
    """Cut out a box; it keeps its position.

    Args:
        source, derivation: As for every operation.
        offset: First voxel, absolute; None for that of the source.
        shape: Voxels; 0 = up to the end.
        around: Address of labels: the box that holds all labelled voxels, instead of ``offset`` and ``shape``.
        margin: Voxels around that box (z, y, x), as far as the source reaches.

    Raises:
        DataError: The box reaches outside the source, or nothing is labelled.
    """
    further: tuple[Volume, ...] = ()
    if around is not None:
        labels = open_volume(around)
        further = (labels,)
        check_same_voxels(labels, source)
        box = bounding_box(labels, derivation, margin).intersect(source.roi)
        offset, shape = (box.begin, box.shape) if not box.empty else (labels.roi.begin, labels.roi.shape)
    roi = crop_roi(str(source.address), source.roi, offset, shape)
    return Operation("crop", copy_block, roi=roi, channels=True, further_inputs=further, meaning=_meaning(source))


def _meaning(source: Volume) -> tuple[str, ...]:
    """Return the attributes that hold for a copy of the source; of one channel, not those that list channels."""
    lists = ("channel_names", "offsets") if source.address.selection else ()
    return tuple(name for name in MEANING if name not in lists)


def crop_roi(name: str, whole: Roi, offset: Triple | None, shape: Triple) -> Roi:
    """Return the ROI of a crop of ``whole``, see ``crop``; ``name`` is for the error.

    Raises:
        DataError: The box reaches outside.
    """
    begin = whole.begin if offset is None else Coordinate(offset)
    sizes = [size or end - first for size, end, first in zip(shape, whole.end, begin, strict=True)]
    roi = Roi(begin, sizes) if min(sizes) > 0 else None
    if roi is None or not whole.contains(roi):
        raise DataError(
            f"{name} covers {describe_roi(whole)}, which does not contain offset {list(begin)} with shape "
            f"{list(shape)}: choose a part of it."
        )
    return roi


def pad(
    source: Volume,
    derivation: Derivation,
    *,
    before: Triple = (0, 0, 0),
    after: Triple = (0, 0, 0),
    mode: Literal["constant", "edge", "reflect"] = "constant",
    value: float = 0,
) -> Operation:
    """Extend a volume on its sides.

    Args:
        source, derivation: As for every operation.
        before: Voxels to add before the first of each axis.
        after: Voxels to add after the last of each axis.
        mode: Fill with ``value``, the outermost voxel, or the mirror image.
        value: Value for ``constant``.

    Raises:
        InputError: A negative number of voxels, or a value that the data type cannot hold.
    """
    if min(*before, *after) < 0:
        raise InputError(f"Cannot pad by {list(before)} and {list(after)} voxels: give 0 or more, or crop instead.")
    low, high = (0, 1) if source.dtype.kind not in "iu" else (np.iinfo(source.dtype).min, np.iinfo(source.dtype).max)
    if source.dtype.kind in "biu" and not (float(value).is_integer() and low <= value <= high):
        raise InputError(f"--value is {value:g}, which {source.dtype} of {source.address} cannot hold: choose another.")
    roi = source.roi.grow(Coordinate(before), Coordinate(after))
    filling = {"value": int(value) if source.dtype.kind in "biu" else float(value)} if mode == "constant" else {}
    parameters = {"mode": mode, **filling}
    return Operation("pad", copy_block, parameters, roi=roi, channels=True, meaning=_meaning(source))


def _in_slabs(roi: Roi, read_voxels_per_section: int) -> Iterator[Roi]:
    """Split an ROI along z, so that what is read for a part stays below ``VOXELS_AT_ONCE``."""
    step = max(1, VOXELS_AT_ONCE // max(1, read_voxels_per_section))
    for first in range(0, roi.shape[0], step):
        depth = min(step, roi.shape[0] - first)
        yield Roi(roi.begin + Coordinate(first, 0, 0), (depth, *roi.shape[1:]))


def downsample_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return the mean or the most frequent value of the source's voxels in each voxel of the block."""
    import tensorstore

    source, factors = block.inputs[0], parameters["factors"]
    store = source.open().store
    channels = store.rank - 3
    placed = store[tensorstore.d[:].translate_to[(0,) * channels + tuple(source.roi.begin)]]
    smaller = tensorstore.downsample(placed, [1] * channels + list(factors), parameters["method"])
    per_section = prod(factors) * prod(block.write_roi.shape[1:]) * prod(source.shape[:channels])
    parts = [smaller[(..., *part.to_slices())].read().result() for part in _in_slabs(block.write_roi, per_section)]
    return np.concatenate(parts, axis=channels)


def downsample(source: Volume, derivation: Derivation, *, factors: Triple, method: Method = "auto") -> Operation:
    """Shrink a volume by whole factors, on the grid of the world.

    Voxel i of the result covers the voxels ``i * factor`` to ``(i + 1) * factor - 1`` in absolute positions, so that
    the levels of a crop are crops of the levels. Where a factor does not divide, the outermost voxels of the result
    cover fewer voxels of the source, and are computed from those.

    Args:
        source, derivation: As for every operation.
        factors: Whole numbers (z, y, x).
        method: ``"mean"``, rounded to the nearest, halves to even; ``"mode"``, the most frequent value, the smallest
            of several; ``"auto"``: mode for labels and masks, see ``is_labels``.

    Raises:
        InputError: A factor is below 1.
    """
    if len(factors) != 3 or min(factors) < 1:
        raise InputError(f"The factors are {list(factors)}: give three whole numbers of 1 or more, for z, y and x.")
    grid = Coordinate(factors)
    begin = source.roi.begin // grid
    end = Coordinate(-(-last // factor) for last, factor in zip(source.roi.end, grid, strict=True))
    size = None if source.voxel_size is None else nanometres(grid, source.voxel_size)
    parameters = {"factors": [int(factor) for factor in grid], "method": chosen_method(source, method)}
    roi = Roi(begin, end - begin)
    offset = source.corner(begin * grid)
    return Operation(
        "downsample",
        downsample_block,
        parameters,
        voxel_size=size,
        roi=roi,
        offset=offset,
        channels=True,
        meaning=ON_ANY_GRID,
    )


def is_labels(volume: Volume) -> bool:
    """Return whether a volume's values are names of objects rather than intensities, by its type and its name.

    Integers of 32 bits and more and bool are; smaller integers if the dataset's path contains ``label``, ``mask``,
    ``segmentation``, ``object`` or ``instance``.
    """
    if volume.dtype.kind == "f":
        return False
    named = any(word in volume.dataset.lower() for word in LABEL_NAMES)
    return named or volume.dtype.kind == "b" or volume.dtype.itemsize > 2


def chosen_method(source: Volume, method: Method) -> str:
    """Return ``mean`` or ``mode``, see ``downsample``.

    Raises:
        InputError: Floats have no most frequent value.
    """
    if method == "auto":
        return "mode" if is_labels(source) else "mean"
    if method == "mode" and source.dtype.kind == "f":
        raise InputError(f"{source.address} holds {source.dtype}, which has no most frequent value: use mean.")
    return method


def resample(source: Volume, derivation: Derivation, *, voxel_size: Sizes, method: Method = "auto") -> Operation:
    """Change the voxel size.

    Along axes on which voxels become larger, intensities are averaged over the volume of the new voxel; where they
    become smaller, they are interpolated linearly. Labels take the value at the centre of the new voxel. Voxel i of the
    result begins at ``i * voxel_size``, also where the source begins between its voxels. If all factors are whole, see
    ``downsample``.

    Args:
        source, derivation: As for every operation.
        voxel_size: (z, y, x) in nm.
        method: ``"mean"`` for intensities, ``"mode"`` for labels; ``"auto"`` as for ``downsample``.

    Raises:
        InputError: A size is not positive, or a voxel would become more than ``MOST_ENLARGED``.
        DataError: The voxel size of the source is unknown.
    """
    if min(voxel_size) <= 0:
        raise InputError(f"--voxel_size is {list(voxel_size)}: give three numbers above 0, in nm.")
    ratios = [exact(new) / exact(old) for new, old in zip(voxel_size, source.require_voxel_size(), strict=True)]
    if prod(map(float, ratios)) * MOST_ENLARGED < 1:
        raise InputError(
            f"--voxel_size {list(voxel_size)} nm would make more than {MOST_ENLARGED} voxels of each of "
            f"{source.address}, whose size is {list(source.require_voxel_size())} nm: give larger ones."
        )
    if all(ratio.denominator == 1 for ratio in ratios):
        return downsample(source, derivation, factors=[int(ratio) for ratio in ratios], method=method)
    extent = nanometres(source.spatial_shape, source.require_voxel_size())
    roi = NanometreRoi(source.offset, extent).to_voxels(voxel_size)
    size = tuple(float(nm) for nm in voxel_size)
    parameters = {"ratios": [float(ratio) for ratio in ratios], "method": chosen_method(source, method)}
    return Operation(
        "resample",
        resample_block,
        parameters,
        voxel_size=size,
        roi=roi,
        offset=nanometres(roi.begin, size),
        channels=True,
        meaning=ON_ANY_GRID,
    )


def resample_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return the source's values on the grid of the block."""
    source, ratios = block.inputs[0], parameters["ratios"]
    axes = range(-3, 0)
    parts = []
    per_section = prod(source.shape[:-3]) * prod(
        ceil(size * ratio) + 2 for size, ratio in zip(block.write_roi.shape[1:], ratios[1:], strict=True)
    )
    for part in _in_slabs(block.write_roi, ceil(per_section * (ratios[0] + 1))):
        first = source.roi.begin
        sizes = source.require_voxel_size()
        start = [float(exact(nm) / exact(size)) for nm, size in zip(source.offset, sizes, strict=True)]
        shifts = [place - voxel for place, voxel in zip(start, first, strict=True)]  # of the source's grid, in voxels
        limits = zip(part.begin, part.end, first, source.roi.end, ratios, shifts, strict=True)
        if parameters["method"] == "mode":
            indices = [_nearest(*each) for each in limits]
            box = Roi([index[0] for index in indices], [index[-1] - index[0] + 1 for index in indices])
            values = source.read(box)
            for axis, index in zip(axes, indices, strict=True):
                values = np.take(values, index - index[0], axis)
        else:
            weights = [_weights(*each) for each in limits]
            box = Roi([low for low, _ in weights], [matrix.shape[1] for _, matrix in weights])
            means = source.read(box).astype(np.float64)
            for axis, (_, matrix) in zip(axes, weights, strict=True):
                means = np.moveaxis(np.tensordot(matrix, means, (1, axis)), 0, axis)
            values = means if source.dtype.kind == "f" else np.rint(means)
        parts.append(values.astype(source.dtype))
    return np.concatenate(parts, axis=-3)


def _nearest(begin: int, end: int, first: int, last: int, ratio: float, shift: float) -> npt.NDArray[np.int64]:
    """Return the source voxel at the centre of each new voxel ``begin`` to ``end - 1``, within the source."""
    centres = (np.arange(begin, end) + 0.5) * ratio - shift
    return np.asarray(np.floor(centres).clip(first, last - 1), np.int64)


def _weights(
    begin: int, end: int, first: int, last: int, ratio: float, shift: float
) -> tuple[int, npt.NDArray[np.float64]]:
    """Return the weights of source voxels in the new voxels ``begin`` to ``end - 1``, and the first source voxel."""
    if ratio < 1:  # linear interpolation between the centres of source voxels
        centres = ((np.arange(begin, end) + 0.5) * ratio - 0.5 - shift).clip(first, last - 1)
        low = int(np.floor(centres[0]))
        columns = np.arange(low, min(int(np.floor(centres[-1])) + 2, last))
        return low, np.maximum(0, 1 - np.abs(columns - centres[:, None]))
    edges = (np.arange(begin, end + 1) * ratio - shift).clip(first, last)
    low = int(np.floor(edges[0]))
    columns = np.arange(low, min(int(np.ceil(edges[-1])), last))
    shared = np.minimum(edges[1:, None], columns + 1) - np.maximum(edges[:-1, None], columns)
    shared = np.maximum(0, shared)
    return low, shared / shared.sum(axis=1, keepdims=True)


def dilate_labels(labels: Array, steps: int, in_plane: bool = False) -> Array:
    """Grow every object into the background, one layer of face neighbours per step.

    A background voxel reached by several objects in the same step goes to the one with the largest id.

    Args:
        labels: Instance labels (z, y, x), 0 = background.
        steps: Layers.
        in_plane: Grow within sections only.

    Example:
        >>> dilate_labels(np.array([[[1, 0, 0, 0, 2]]]), 1)
        array([[[1, 1, 0, 2, 2]]])
        >>> dilate_labels(np.array([[[1, 0, 2]]]), 1)
        array([[[1, 2, 2]]])
    """
    for _ in range(steps):
        reached = np.zeros_like(labels)
        for axis in range(1 if in_plane else 0, labels.ndim):
            into, out_of = np.moveaxis(reached, axis, 0), np.moveaxis(labels, axis, 0)
            np.maximum(into[1:], out_of[:-1], out=into[1:])
            np.maximum(into[:-1], out_of[1:], out=into[:-1])
        labels = np.where(labels == 0, reached, labels)
    return labels


def dilate(source: Volume, derivation: Derivation, *, steps: int = 1, in_plane: bool = False) -> Operation:
    """Grow instance labels into the background; where two meet in one step, the larger id wins.

    Args:
        source, derivation: As for every operation.
        steps: Voxels to grow, through faces.
        in_plane: Grow within sections only.

    Raises:
        InputError: The number of steps is below 1.
    """
    if steps < 1:
        raise InputError(f"--steps is {steps}, which dilates nothing: give 1 or more.")
    parameters = {"steps": steps, "in_plane": in_plane}
    function = OfLabels(dilate_labels)
    return Operation("dilate", function, parameters, context=(0 if in_plane else steps, steps, steps), labels=True)


OPERATIONS: dict[str, Callable[..., Operation]] = {
    "convert": convert,
    "crop": crop,
    "dilate": dilate,
    "disks": disks,
    "downsample": downsample,
    "invert": invert,
    "labelled_mask": labelled_mask,
    "match_histogram": match_histogram,
    "pad": pad,
    "resample": resample,
    "rescale": rescale,
    "select": select,
}
