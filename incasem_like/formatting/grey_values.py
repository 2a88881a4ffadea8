"""Operations on grey values: inversion, 16 to 8 bits, histograms matched; and the histogram of a whole volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.clahe_tables import range_block
from incasem_like.formatting.derive import Derivation, Operation
from incasem_like.volumes import Volume, describe_roi, open_volume
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.parts import aligned_parts
from incasem_like.volumes.values import inside

Array = npt.NDArray[Any]
Limits = Annotated[Sequence[float], 2]

VOXELS_AT_ONCE = 1 << 23
BINS = 1 << 16
HISTOGRAM_BLOCK = (1024,) * 3  # few results, since each has as many numbers as there are bins


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


def rescale(
    source: Volume,
    derivation: Derivation,
    *,
    value_range: Limits | None = None,
    percentiles: Limits | None = None,
) -> Operation:
    """Map intensities linearly to uint8: the lower limit to 0, the upper one to 255, values beyond them too.

    Args:
        source, derivation: As for every operation.
        value_range: Values that become 0 and 255.
        percentiles: The same as percentiles of all voxels; exact for 8 and 16 bits, else to 1/65536 of the range.

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
    masks = [open_volume(address) if address else None for address in (mask, reference_mask)]
    (values, counts), (target, wanted) = (
        histogram(volume, derivation, of) for volume, of in zip((source, other), masks, strict=True)
    )
    present, found = counts > 0, wanted > 0
    shares, goals = (np.cumsum(each) / each.sum() for each in (counts[present], wanted[found]))
    table = np.interp(values, values[present], np.interp(shares, goals, target[found]))
    return Operation(
        "match_histogram",
        look_up_block,
        {"table": np.rint(table).astype(int).tolist()},
        further_inputs=(other, *filter(None, masks)),
        recorded={"reference": reference, "mask": mask, "reference_mask": reference_mask},
        set_up=look_up_table,
    )


def look_up_table(parameters: Mapping[str, Any]) -> Array:
    """Return the table of new values."""
    return np.asarray(parameters["table"])


def look_up_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Return the new values of a block."""
    source = block.inputs[0]
    return np.asarray(block.prepared[source.read(block.write_roi)].astype(source.dtype))


def histogram(
    volume: Volume, derivation: Derivation, mask: Volume | None = None
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Count the values of a volume.

    Args:
        volume: The volume; all its channels are counted together.
        derivation: Workers that count.
        mask: A mask of the same grid; voxels where it is 0 are not counted.

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
    if mask is not None:
        check_same_voxels(mask, volume)
    addresses = tuple(str(each.address) for each in (volume, mask) if each is not None)
    parameters = {"low": low, "width": width, "bins": bins}
    task = LedgerTask("histogram", volume, addresses, count_values, parameters, HISTOGRAM_BLOCK)
    task.run(**workers, description=f"Counting the values of {name}")
    counts = sum(task.results(), np.zeros(bins, np.int64))
    if not counts.any():
        raise DataError(
            f"{mask and mask.address} is 0 everywhere, so that no voxel of {volume.address} counts: choose another."
        )
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
