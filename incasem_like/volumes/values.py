"""Meaning of voxel values: labels, masks and probabilities, checked where they are read."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import DataError, VoxelValueError
from incasem_like.volumes.faults import warn_once
from incasem_like.volumes.volume import Volume

Array = npt.NDArray[Any]

LABEL_KINDS = "bui"
RESERVED_IDS = 2**64 - 3  # and above: -3, -2 and -1 as uint64, which Paintera and CREMI store for unlabelled voxels
MAP_REMEDY = 'rescale the map, set the attribute "scale" to the value that means probability 1, or mask such voxels out'
FLOAT_ROUNDING = 1e-5  # how far a float probability may lie outside [0, 1]; float16 is coarser


def check_label_dtype(volume: Volume, name: str | None = None) -> None:
    """Check that a label dataset or a mask has an integer data type.

    Args:
        volume: The dataset.
        name: What errors call it; by default its address.

    Raises:
        DataError: The data type is not an integer type.
    """
    if volume.dtype.kind not in LABEL_KINDS:
        raise DataError(
            f"{name or volume.address} holds {volume.dtype}, but labels and masks are integers: choose another "
            "dataset, or store it as integers."
        )


def check_labels(labels: Array, name: str = "The array", begin: Sequence[int] = (), step: int = 1) -> None:
    """Check that every label is 0 or a positive whole number.

    Args:
        labels: Labels as stored.
        name: The dataset, for the error.
        begin: Absolute voxel of the first label; 0 by default.
        step: Distance in voxels of the dataset from one label to the next.

    Raises:
        VoxelValueError: Any other value; the message gives its position.
    """
    kind = labels.dtype.kind
    if kind == "b" or not labels.size or (kind == "u" and labels.dtype.itemsize < 8):
        return
    if kind == "u":
        invalid = labels >= np.uint64(RESERVED_IDS)
    else:
        invalid = labels < 0
        if kind == "f":
            invalid |= ~np.isfinite(labels) | (labels != np.rint(labels))
    if invalid.any():
        value, position = first_where(labels, invalid, begin, step)
        shown = f"{value} (-{2**64 - int(value)} in signed integers)" if kind == "u" else str(value)
        raise VoxelValueError(
            f"{name} holds the label {shown} at {position}, but labels are 0 (background) or positive whole numbers: "
            "set such voxels to 0, and leave unlabelled ones out by a mask."
        )


def foreground(
    labels: Array, name: str = "The array", begin: Sequence[int] = (), step: int = 1
) -> npt.NDArray[np.bool_]:
    """Return where labels are not background: the one definition for training, evaluation and formatting.

    Args:
        labels, name, begin, step: As for ``check_labels``.

    Raises:
        VoxelValueError: As ``check_labels``.
    """
    check_labels(labels, name, begin, step)
    return labels if labels.dtype.kind == "b" else labels != 0


def inside(mask: Array, name: str = "The array", begin: Sequence[int] = (), step: int = 1) -> npt.NDArray[np.bool_]:
    """Return where a mask is not 0; a mask with values other than 0, 1 and 255 causes one warning.

    Args:
        mask, name, begin, step: As for ``check_labels``.

    Raises:
        VoxelValueError: As ``check_labels``.
    """
    found = foreground(mask, name, begin, step)
    warns = multiprocessing.parent_process() is None  # a worker does not, so it need not look
    if warns and mask.dtype.kind != "b" and ((mask > 1) & (mask != 255)).any():
        warn_once(f"{name} is used as a mask and holds more than 0 and 1 (or 255): every value but 0 is inside.")
    return found


def stated_scale(volume: Volume) -> float | None:
    """Return the attribute ``scale``, the stored value of probability 1; None if it is missing.

    Lists are ignored: other programs use the key for voxel sizes.

    Raises:
        DataError: The scale is not above 0.
    """
    scale = volume.attributes.get("scale")
    if not isinstance(scale, int | float) or isinstance(scale, bool):
        return None
    if not (scale > 0 and math.isfinite(scale)):
        raise DataError(f"{volume.address} has the attribute scale {scale}: correct it, 255 is usual for uint8.")
    return float(scale)


def probability_scale(volume: Volume) -> float:
    """Return the stored value of probability 1: ``stated_scale``, else 255 for uint8 and 1 for floats and bool.

    Raises:
        DataError: The values cannot be probabilities: another type without a scale, or a scale not above 0.
    """
    if (scale := stated_scale(volume)) is not None:
        return scale
    if volume.dtype == np.uint8:
        return 255.0
    if volume.dtype.kind in "fb":
        return 1.0
    raise DataError(
        f"{volume.address} holds {volume.dtype} without a scale attribute, which cannot be probabilities: name a float "
        'or uint8 probability map, or add the value that means probability 1 to its attributes, such as "scale": 65535.'
    )


def check_probabilities(
    values: Array, scale: float, name: str, begin: Sequence[int], counted: Array | None = None, remedy: str = ""
) -> None:
    """Check that stored values are probabilities.

    Args:
        values: Values as stored.
        scale: The stored value of probability 1.
        name, begin: As for ``check_labels``.
        counted: Mask of the values to check; None checks all.
        remedy: What to do, for the error; by default the advice for a probability map.

    Raises:
        VoxelValueError: A value is NaN, or outside 0 to ``scale`` by more than rounding.
    """
    if values.dtype.kind == "b" or not values.size:
        return
    slack = 0.0
    if values.dtype.kind == "f":
        slack = scale * max(FLOAT_ROUNDING, 2 * float(np.finfo(values.dtype).eps))
    if -slack <= values.min() and values.max() <= scale + slack:  # False for NaN
        return
    invalid = ~((values >= -slack) & (values <= scale + slack))
    if counted is not None:
        invalid &= counted
    if invalid.any():
        value, position = first_where(values, invalid, begin)
        raise VoxelValueError(
            f"{name} holds {value:g} at {position}, but probabilities are stored as 0 to {scale:g} here: "
            f"{remedy or MAP_REMEDY}."
        )


def first_where(values: Array, chosen: Array, begin: Sequence[int], step: int = 1) -> tuple[Any, str]:
    """Return the first value where ``chosen`` is true and its position in absolute voxels."""
    index = np.unravel_index(int(np.argmax(chosen)), values.shape)
    origin = tuple(begin) or (0,) * values.ndim
    names = "zyx"[-values.ndim :] if values.ndim <= 3 else "?" * values.ndim
    position = ", ".join(
        f"{axis} {first + int(offset) * step}" for axis, first, offset in zip(names, origin, index, strict=True)
    )
    return values[index], position
