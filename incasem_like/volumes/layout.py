"""The layout of an array to be created: shape, chunks and shards, checked and matched to its axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from incasem_like.errors import InputError
from incasem_like.volumes.formats.base import Layout

DEFAULT_CHUNK = 128
COMPRESSIONS = ("zstd", "lz4", "gzip", "none")


def checked_layout(
    shape: Sequence[int],
    dtype: npt.DTypeLike,
    axes: str,
    voxel_size: Sequence[float] | None,
    offset: Sequence[float],
    chunk_shape: Sequence[int] | None,
    shard_shape: Sequence[int] | None,
    compression: str | None,
    fill_value: float,
    where: str,
) -> Layout:
    """Check the properties of an array to be created, and match chunks and shards to its axes and size.

    The arguments are those of ``create_volume``; ``where`` names the array in errors.

    Raises:
        InputError: A value is wrong.
    """
    kind = np.dtype(dtype)
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise InputError(f"{where} cannot hold {kind}: choose an integer, float or bool type.")
    if axes not in ("zyx", "czyx", "yx", "cyx"):
        raise InputError(f"{where} cannot have the axes '{axes}': choose zyx, or czyx with channels.")
    size = tuple(int(length) for length in shape)
    if len(size) != len(axes) or min(size) < 1:
        raise InputError(f"{where} needs a shape of {len(axes)} positive numbers ({axes}), got {list(shape)}.")
    spatial = len(axes.lstrip("c"))
    voxel = None if voxel_size is None else tuple(float(nm) for nm in voxel_size)
    start = tuple(float(nm) for nm in offset)[-spatial:]
    if len(start) != spatial or (voxel is not None and (len(voxel) != spatial or min(voxel) <= 0)):
        raise InputError(
            f"{where} needs {spatial} numbers for voxel size (positive) and offset in nm, "
            f"got {list(voxel or ())} and {list(offset)}."
        )
    if compression not in (None, *COMPRESSIONS):
        raise InputError(f"The compression {compression} is not known: choose one of {', '.join(COMPRESSIONS)}.")
    chunk = _chunk(chunk_shape, size, axes, where)
    shard = None if shard_shape is None else _shard(shard_shape, chunk, size, axes, where)
    filling = int(fill_value) if kind.kind in "iu" else float(fill_value)
    return Layout(size, kind, axes, chunk, shard, voxel, start, compression, filling)


def _chunk(chunk_shape: Sequence[int] | None, size: tuple[int, ...], axes: str, where: str) -> tuple[int, ...]:
    wanted = tuple(int(length) for length in chunk_shape or (DEFAULT_CHUNK,) * len(axes.lstrip("c")))
    if axes.startswith("c") and len(wanted) == len(axes) - 1:
        wanted = (1, *wanted)
    if len(wanted) != len(axes) or min(wanted) < 1:
        raise InputError(
            f"{where} needs a chunk shape of {len(axes)} positive numbers ({axes}), got {list(chunk_shape or ())}."
        )
    return tuple(min(chunk, length) for chunk, length in zip(wanted, size, strict=True))


def _shard(
    shard_shape: Sequence[int], chunk: tuple[int, ...], size: tuple[int, ...], axes: str, where: str
) -> tuple[int, ...]:
    """Extend a shard shape to all axes, limited to the chunks that cover the array."""
    wanted = tuple(int(length) for length in shard_shape)
    if axes.startswith("c") and len(wanted) == len(axes) - 1:
        wanted = (chunk[0], *wanted)
    if len(wanted) != len(axes) or min(wanted) < 1:
        raise InputError(
            f"{where} needs a shard shape of {len(axes)} positive numbers ({axes}), got {list(shard_shape)}."
        )
    covering = (-(-length // part) * part for part, length in zip(chunk, size, strict=True))
    return tuple(min(shard, most) for shard, most in zip(wanted, covering, strict=True))
