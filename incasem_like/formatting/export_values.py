"""Conversion of stored values to those of an exported image, without losing any silently."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise.grid import grown_block
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, VoxelValueError
from incasem_like.formatting.clahe_tables import range_block
from incasem_like.formatting.workers import useful_workers
from incasem_like.volumes import Coordinate, Volume
from incasem_like.volumes.values import check_probabilities, first_where, stated_scale

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

Array = npt.NDArray[Any]
Conversion = Callable[[Array, Coordinate], Array]
logger = logging.getLogger(__name__)

EXPORT_DTYPES = ("uint8", "uint16", "uint32", "float32")
LARGEST_EXACT_FLOAT32 = 2**24
VOXELS_AT_ONCE = 2**22
READABLE = ("uint8", "uint16", "int16", "uint32", "int32")  # by ImageJ and Pillow, which do not open 64 bits


def readable_dtype(volume: Volume, num_workers: int = 1, workers: Workers | None = None) -> str | None:
    """Choose the data type in which ImageJ and Pillow open a volume's values unchanged.

    Integers of more than 16 bits are read once for their range; the first type of ``READABLE`` that holds it is chosen.

    Args:
        volume: Any volume.
        num_workers: Maximum number of processes.
        workers: Workers of a workers file, instead of local processes.

    Returns:
        The type, or None where the volume's own type is suitable (see ``conversion_to``).

    Raises:
        DataError: None of these types holds the range.
    """
    if volume.dtype == np.float64:
        logger.warning(
            "%s holds float64, which ImageJ opens and Pillow does not: --dtype float32 rounds it.", volume.address
        )
    if volume.dtype.kind not in "ui" or volume.dtype.itemsize <= 2:
        return None
    blocks = grown_block(volume, volume.roi, VOXELS_AT_ONCE)
    task = LedgerTask("find range of values", volume, (str(volume.address),), range_block, {}, blocks)
    here = useful_workers(num_workers, int(volume.roi.size))
    task.run(num_workers=here, workers=workers, description="Finding the range of values")
    ranges = np.array(list(task.results()))
    task.forget()
    low, high = int(ranges[:, 0].min()), int(ranges[:, 1].max())
    fitting = [name for name in READABLE if np.iinfo(name).min <= low and high <= np.iinfo(name).max]
    if not fitting:
        raise DataError(
            f"{volume.address} holds integers from {low} to {high}, but image viewers open TIFFs of 32 bits at most: "
            "renumber the objects from 1 (fastremap.renumber, skimage.segmentation.relabel_sequential) and export that."
        )
    if max(high, -low) > LARGEST_EXACT_FLOAT32:
        logger.warning(
            f"{volume.address} holds integers from {low} to {high}: ImageJ rounds those beyond {LARGEST_EXACT_FLOAT32} "
            "to floats, and Pillow takes those from 2147483648 for negative."
        )
    return fitting[0]


def conversion_to(dtype: str | None, volume: Volume) -> tuple[np.dtype[Any], Conversion]:
    """Return the conversion of values for a TIFF, which never loses values silently.

    Integers become other integers unchanged. Floats, which must be probabilities, become unsigned integers over the
    whole range (x255 for uint8), rounded. Integers become float32 divided by the volume's ``scale``, unchanged without.

    Args:
        dtype: One of ``EXPORT_DTYPES`` or ``READABLE``; None for the dtype of the data, or the next wider one where no
            image viewer reads it (bool, int8, float16).
        volume: The volume to export.

    Returns:
        The dtype of the result and the function from stored to exported values, which takes the values and the absolute
        voxel of the first one, and raises VoxelValueError on a value that does not fit.
    """
    source, scale, name = volume.dtype, stated_scale(volume) or 1.0, str(volume.address)
    kept = {"bool": "uint8", "int8": "int16", "float16": "float32"}.get(source.name, source.name)
    target: np.dtype[Any] = np.dtype(dtype or kept)

    def convert(values: Array, begin: Coordinate) -> Array:
        if source.kind == "f" and target.kind != "f":
            check_probabilities(values, scale, name, begin, remedy="export without --dtype, or rescale the values")
            return np.rint(np.clip(values / np.float64(scale), 0, 1) * np.iinfo(target).max).astype(target)
        if source.kind in "ui" and target != source:
            _check_fits(values, target, name, begin)
            values = values / scale if target.kind == "f" and scale != 1 else values
        return values.astype(target, copy=False)

    return target, convert


def _check_fits(values: Array, target: np.dtype[Any], name: str, begin: Coordinate) -> None:
    least, greatest = -LARGEST_EXACT_FLOAT32, LARGEST_EXACT_FLOAT32
    remedy = "hold exactly: give --dtype uint32"
    if target.kind != "f":
        least, greatest = int(np.iinfo(target).min), int(np.iinfo(target).max)
        remedy = "hold: choose a wider --dtype or none"
    invalid = (values < least) | (values > greatest)
    if invalid.any():
        value, position = first_where(values, invalid, begin)
        raise VoxelValueError(f"{name} holds {value} at {position}, which {target} cannot {remedy}.")
