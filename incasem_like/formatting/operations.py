"""The operations that make one volume from another, block by block: copies, other grids, other values.

Each function checks the source and returns an ``Operation`` for ``derive``; ``OPERATIONS`` lists them by name.
Positions are absolute voxels: a crop, a padded copy and a scale level stay where they are in the world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil, floor, prod
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.blockwise.parts import aligned_parts
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.clahe_tables import range_block
from incasem_like.formatting.derive import Derivation, OfLabels, Operation
from incasem_like.formatting.sparse_labels import bounding_box, disks, labelled_mask
from incasem_like.volumes import Coordinate, Roi, Volume, describe_roi, nanometres, open_volume
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.geometry import exact
from incasem_like.volumes.values import inside

Array = npt.NDArray[Any]
Triple = Sequence[int]
Method = Literal["auto", "mean", "mode"]

VOXELS_AT_ONCE = 1 << 23
BINS = 1 << 16
HISTOGRAM_BLOCK = (1024,) * 3  # few results, since each has as many numbers as there are bins
LABEL_NAMES = ("label", "mask", "segmentation", "object", "instance")


def copy_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return the voxels of the source at the block, extended beyond the source as the parameters say."""
    return block.inputs[0].read(
        block.write_roi, outside=parameters.get("mode", "error"), fill=parameters.get("value", 0)
    )


def convert(source: Volume, derivation: Derivation) -> Operation:
    """Copy a volume: to other chunks, another format or container."""
    return Operation("convert", copy_block, channels=True)


def crop(
    source: Volume,
    derivation: Derivation,
    *,
    offset: Triple | None = None,
    shape: Triple = (0, 0, 0),
    around: str | None = None,
    margin: Triple = (0, 0, 0),
) -> Operation:
    """Cut out a box.

    Args:
        source, derivation: As for every operation.
        offset: First voxel, absolute; None for that of the source.
        shape: Voxels; 0 = up to the end.
        around: Address of labels: the box that holds all labelled voxels, instead of ``offset`` and ``shape``.
        margin: Voxels around that box (z, y, x).

    Raises:
        DataError: The box reaches outside the source, or nothing is labelled.
    """
    if around is not None:
        labels = open_volume(around)
        check_same_voxels(labels, source)
        box = bounding_box(labels, derivation, margin).intersect(source.roi)
        offset, shape = (box.begin, box.shape) if not box.empty else (labels.roi.begin, labels.roi.shape)
    return Operation("crop", copy_block, roi=crop_roi(str(source.address), source.roi, offset, shape), channels=True)


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
        before, after: Voxels to add before the first and after the last one of each axis.
        mode: With ``value`` (``"constant"``), the outermost voxel (``"edge"``), or mirrored at it (``"reflect"``).
        value: Value for ``"constant"``.

    Raises:
        InputError: A negative number of voxels, or a value that the data type cannot hold.
    """
    if min(*before, *after) < 0:
        raise InputError(f"Cannot pad by {list(before)} and {list(after)} voxels: give 0 or more, or crop instead.")
    if source.dtype.kind in "biu" and not (
        float(value).is_integer() and np.can_cast(np.min_scalar_type(int(value)), source.dtype, "safe")
    ):
        raise InputError(f"--value is {value:g}, which {source.dtype} of {source.address} cannot hold: choose another.")
    roi = source.roi.grow(Coordinate(before), Coordinate(after))
    filling = {"value": int(value) if source.dtype.kind in "biu" else float(value)} if mode == "constant" else {}
    return Operation("pad", copy_block, {"mode": mode, **filling}, roi=roi, channels=True)


def invert_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return the maximum of the data type minus the values."""
    values = block.inputs[0].read(block.write_roi)
    return np.asarray(values.dtype.type(np.iinfo(values.dtype).max) - values)


def invert(source: Volume, derivation: Derivation) -> Operation:
    """Replace every value v by max - v, with the maximum of the data type.

    Raises:
        DataError: The values are not unsigned integers.
    """
    if source.dtype.kind != "u":
        raise DataError(f"{source.address} holds {source.dtype}, but unsigned integers are inverted: rescale it first.")
    return Operation("invert", invert_block, channels=True)


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
    parameters = {"factors": [int(factor) for factor in grid], "method": _method(source, method)}
    return Operation(
        "downsample", downsample_block, parameters, voxel_size=size, roi=Roi(begin, end - begin), channels=True
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


def _method(source: Volume, method: Method) -> str:
    if method == "auto":
        return "mode" if is_labels(source) else "mean"
    if method == "mode" and source.dtype.kind == "f":
        raise InputError(f"{source.address} holds {source.dtype}, which has no most frequent value: use mean.")
    return method


def resample(
    source: Volume, derivation: Derivation, *, voxel_size: Sequence[float], method: Method = "auto"
) -> Operation:
    """Change the voxel size.

    Along axes on which voxels become larger, intensities are averaged over the volume of the new voxel; where they
    become smaller, they are interpolated linearly. Labels take the value at the centre of the new voxel; if all factors
    are whole, the most frequent value, see ``downsample``.

    Args:
        source, derivation: As for every operation.
        voxel_size: (z, y, x) in nm.
        method: ``"mean"`` for intensities, ``"mode"`` for labels; ``"auto"`` as for ``downsample``.

    Raises:
        InputError: A size is not positive.
        DataError: The voxel size of the source is unknown.
    """
    if min(voxel_size) <= 0:
        raise InputError(f"--voxel_size is {list(voxel_size)}: give three numbers above 0, in nm.")
    ratios = [exact(new) / exact(old) for new, old in zip(voxel_size, source.require_voxel_size(), strict=True)]
    if all(ratio.denominator == 1 for ratio in ratios):
        return downsample(source, derivation, factors=[int(ratio) for ratio in ratios], method=method)
    begin = [floor(first / ratio) for first, ratio in zip(source.roi.begin, ratios, strict=True)]
    end = [ceil(last / ratio) for last, ratio in zip(source.roi.end, ratios, strict=True)]
    roi = Roi(begin, [last - first for first, last in zip(begin, end, strict=True)])
    parameters = {"ratios": [float(ratio) for ratio in ratios], "method": _method(source, method)}
    size = tuple(float(nm) for nm in voxel_size)
    return Operation("resample", resample_block, parameters, voxel_size=size, roi=roi, channels=True)


def resample_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return the source's values on the grid of the block."""
    source, ratios = block.inputs[0], parameters["ratios"]
    axes = range(-3, 0)
    parts = []
    per_section = prod(source.shape[:-3]) * prod(
        ceil(size * ratio) + 2 for size, ratio in zip(block.write_roi.shape[1:], ratios[1:], strict=True)
    )
    for part in _in_slabs(block.write_roi, ceil(per_section * (ratios[0] + 1))):
        limits = zip(part.begin, part.end, source.roi.begin, source.roi.end, ratios, strict=True)
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


def _nearest(begin: int, end: int, first: int, last: int, ratio: float) -> npt.NDArray[np.int64]:
    """Return the source voxel at the centre of each new voxel ``begin`` to ``end - 1``, within the source."""
    centres = (np.arange(begin, end) + 0.5) * ratio
    return np.asarray(np.floor(centres).clip(first, last - 1), np.int64)


def _weights(begin: int, end: int, first: int, last: int, ratio: float) -> tuple[int, npt.NDArray[np.float64]]:
    """Return the weights of source voxels in the new voxels ``begin`` to ``end - 1``, and the first source voxel."""
    if ratio < 1:  # linear interpolation between the centres of source voxels
        centres = ((np.arange(begin, end) + 0.5) * ratio - 0.5).clip(first, last - 1)
        low = int(np.floor(centres[0]))
        columns = np.arange(low, min(int(np.floor(centres[-1])) + 2, last))
        return low, np.maximum(0, 1 - np.abs(columns - centres[:, None]))
    edges = (np.arange(begin, end + 1) * ratio).clip(first, last)
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
    """Grow instance labels into the background, see ``dilate_labels``.

    Raises:
        InputError: The number of steps is below 1.
    """
    if steps < 1:
        raise InputError(f"--steps is {steps}, which dilates nothing: give 1 or more.")
    parameters = {"steps": steps, "in_plane": in_plane}
    function = OfLabels(dilate_labels)
    return Operation("dilate", function, parameters, context=(0 if in_plane else steps, steps, steps), labels=True)


def rescale(
    source: Volume,
    derivation: Derivation,
    *,
    value_range: Sequence[float] | None = None,
    percentiles: Sequence[float] | None = None,
) -> Operation:
    """Map intensities linearly to uint8: the lower limit to 0, the upper one to 255, values beyond them too.

    Args:
        source, derivation: As for every operation.
        value_range: The two limits.
        percentiles: The two limits as percentiles of all voxels; exact for 8 and 16 bits, else to 1/65536 of the range.

    Raises:
        InputError: Neither or both are given, or the limits are not in order.
    """
    limits = grey_limits(source, derivation, value_range, percentiles)
    return Operation("rescale", rescale_block, {"limits": limits}, dtype=np.uint8, channels=True)


def grey_limits(
    source: Volume, derivation: Derivation, value_range: Sequence[float] | None, percentiles: Sequence[float] | None
) -> list[float]:
    """Return the values that become 0 and 255; arguments and errors as for ``rescale``."""
    if (value_range is None) == (percentiles is None):
        raise InputError(
            "The limits of the grey values are needed: give --value_range LOW HIGH or --percentiles LOW HIGH."
        )
    limits = [float(value) for value in value_range or ()]
    if percentiles is not None:
        if not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise InputError(f"--percentiles is {list(percentiles)}: give two numbers from 0 to 100, in order.")
        values, counts = histogram(source, derivation)
        shares = np.cumsum(counts) / counts.sum()
        limits = [float(values[np.searchsorted(shares, share / 100 - 1e-12)]) for share in percentiles]
    if not limits[0] < limits[1]:
        raise InputError(f"The limits of the grey values are {limits}, but the first must be below the second.")
    return limits


def to_grey(values: Array, limits: Sequence[float], where: str) -> npt.NDArray[np.uint8]:
    """Return grey values, uint8: the limits become 0 and 255.

    Raises:
        DataError: A value is NaN; the message names ``where``.
    """
    low, high = limits
    exact_values = values.astype(np.float64)
    if np.isnan(exact_values).any():
        raise DataError(f"{where} holds NaN: replace it first.")
    return np.asarray(np.rint((exact_values.clip(low, high) - low) * (255 / (high - low))), np.uint8)


def rescale_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return the grey values of a block, uint8."""
    source = block.inputs[0]
    return to_grey(
        source.read(block.write_roi), parameters["limits"], f"{source.address} in {describe_roi(block.write_roi)}"
    )


def match_histogram(
    source: Volume,
    derivation: Derivation,
    *,
    reference: str,
    mask: str | None = None,
    reference_mask: str | None = None,
) -> Operation:
    """Change grey values so that their histogram becomes that of a reference volume.

    A value is mapped to the reference's value of the same quantile, interpolated linearly, as in
    ``skimage.exposure.match_histograms``. The histograms are those of the whole volumes, within masks where given; all
    voxels are mapped.

    Args:
        source, derivation: As for every operation.
        reference: Address of the reference volume, of the same data type.
        mask, reference_mask: Addresses of masks of the same grid; 0 = not counted.

    Raises:
        DataError: The data types differ or are not uint8 or uint16, a mask has another grid, or nothing is inside it.
    """
    other = open_volume(reference)
    other.require_zyx()
    if source.dtype != other.dtype or source.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{source.address} holds {source.dtype} and {other.address} {other.dtype}, but both must be uint8 or both "
            "uint16: convert one of them first."
        )
    (values, counts), (target, wanted) = (
        histogram(volume, derivation, of) for volume, of in ((source, mask), (other, reference_mask))
    )
    present, found = counts > 0, wanted > 0
    shares, goals = (np.cumsum(each) / each.sum() for each in (counts[present], wanted[found]))
    table = np.interp(values, values[present], np.interp(shares, goals, target[found]))
    return Operation(
        "match_histogram", look_up_block, {"table": np.rint(table).astype(int).tolist()}, set_up=look_up_table
    )


def look_up_table(parameters: Mapping[str, Any]) -> Array:
    """Return the table of new values."""
    return np.asarray(parameters["table"])


def look_up_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return the new values of a block."""
    source = block.inputs[0]
    return np.asarray(block.prepared[source.read(block.write_roi)].astype(source.dtype))


def histogram(volume: Volume, derivation: Derivation, mask: str | None = None) -> tuple[Array, npt.NDArray[np.int64]]:
    """Count the values of a volume.

    Args:
        volume: The volume; all its channels are counted together.
        derivation: Workers that count.
        mask: Address of a mask of the same grid; voxels where it is 0 are not counted.

    Returns:
        All values of the type and their counts for 8 and 16 bits; else centres and counts of 65,536 bins.

    Raises:
        DataError: The mask has another grid or is 0 everywhere, or the volume holds NaN.
    """
    dtype, name = volume.dtype, volume.dataset or volume.container
    workers = derivation.run_options(volume)
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        low, width, bins = float(np.iinfo(dtype).min), 1.0, 2 ** (8 * dtype.itemsize)
        values = np.arange(bins) + int(low)
    else:
        task = LedgerTask("find range of values", volume, (str(volume.address),), range_block, {}, HISTOGRAM_BLOCK)
        task.run(**workers, description=f"Finding the range of {name}")
        ranges = np.array(list(task.results()), np.float64)  # NaN propagates
        low, high = float(ranges[:, 0].min()), float(ranges[:, 1].max())
        if not np.isfinite([low, high]).all():
            raise DataError(f"{volume.address} holds NaN or Inf: replace them first.")
        width, bins = max((high - low) / BINS, np.finfo(np.float64).tiny), BINS
        values = low + (np.arange(bins) + 0.5) * width
    inputs = [volume] + ([open_volume(mask)] if mask else [])
    if mask:
        check_same_voxels(inputs[1], volume)
    addresses = tuple(str(each.address) for each in inputs)
    parameters = {"low": low, "width": width, "bins": bins}
    task = LedgerTask("histogram", volume, addresses, count_values, parameters, HISTOGRAM_BLOCK)
    task.run(**workers, description=f"Counting the values of {name}")
    counts = sum(task.results(), np.zeros(bins, np.int64))
    if not counts.any():
        raise DataError(f"{mask} is 0 everywhere, so that no voxel of {volume.address} counts: choose another mask.")
    return values, counts


def count_values(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return the counts of the bins in a block."""
    volume, *masks = block.inputs
    low, width, bins = (parameters[key] for key in ("low", "width", "bins"))
    counts = np.zeros(bins, np.int64)
    for part in aligned_parts(volume, block.write_roi, VOXELS_AT_ONCE):
        values = volume.read(part)
        if masks:
            values = values[..., inside(masks[0].read(part), str(masks[0].address), part.begin)]
        index = values.astype(np.int64) - int(low) if width == 1 else ((values - low) / width).astype(np.int64)
        counts += np.bincount(index.ravel().clip(0, bins - 1), minlength=bins)
    return counts


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
}
