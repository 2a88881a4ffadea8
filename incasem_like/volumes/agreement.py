"""Whether two volumes lie on one voxel grid: the same voxel size, and whole voxels apart."""

from __future__ import annotations

import functools
import logging
import multiprocessing
from collections.abc import Sequence

from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import DataError
from incasem_like.volumes.geometry import on_grid
from incasem_like.volumes.volume import Volume

logger = logging.getLogger(__name__)


def check_same_voxels(volume: Volume, reference: Volume) -> None:
    """Refuse a volume that is not 3-D with the reference's voxel size; tell of one a fraction of a voxel beside it.

    Where one of them does not say its voxel size, it is taken to be that of the other.

    Raises:
        DataError: It has channels, another voxel size, or a place that cannot be told in voxels.
    """
    if volume.axes != "zyx":
        raise DataError(
            f"{volume.address} has shape {list(volume.shape)} ({volume.axes}), but one of zyx is needed: "
            "name one class's dataset, such as prob_maps/class_1."
        )
    known = [
        check_place_known(one, str(one.address), other.voxel_size)
        for one, other in ((volume, reference), (reference, volume))
    ]
    if all(known) and not same_voxel_size(volume.voxel_size, reference.voxel_size):
        raise DataError(
            f"{volume.address} has voxels of {spaced(volume.voxel_size)} nm, but {reference.address} has "
            f"{spaced(reference.voxel_size)} nm: resample one, or correct its resolution attribute."
        )
    if known:
        warn_between_voxels(volume, reference)


def check_place_known(volume: Volume, name: str, voxel_size: Sequence[float]) -> bool:
    """Tell whether a volume says its voxel size; one that does not begins at voxel 0, whatever its voxels are.

    Args:
        volume: Any volume.
        name: What errors call it.
        voxel_size: What it most likely is, in nm, for errors.

    Raises:
        DataError: It has an offset in nm, which means nothing without a voxel size.
    """
    if not volume.voxel_size_known and any(volume.offset):
        raise DataError(
            f"{name} has an offset of [{', '.join(f'{nm:g}' for nm in volume.offset)}] nm but no voxel size, so its "
            "place in voxels is unknown: give the array the attribute resolution "
            f"[{', '.join(f'{nm:g}' for nm in voxel_size)}]."
        )
    return volume.voxel_size_known


def warn_between_voxels(
    volume: Volume, reference: Volume, voxel_size: Sequence[float] | None = None, of: str = ""
) -> None:
    """Tell, once, that a volume lies a fraction of a voxel beside another: it is read as if on the nearest voxel.

    Processes beside the first leave that to it.

    Args:
        volume: What is read on the grid of ``reference``.
        reference: Of the same voxel size.
        voxel_size: In nm, z, y, x, where it is not the reference that tells it.
        of: Whose they are, where both can be named by their dataset alone: the entry of a data configuration.
    """
    apart = [one - other for one, other in zip(volume.offset, reference.offset, strict=True)]
    if not on_grid(apart, voxel_size or reference.voxel_size) and multiprocessing.parent_process() is None:
        names = (f"{volume.dataset} of {of}", reference.dataset) if of else (volume.address, reference.address)
        _warn_once(
            f"{names[0]} lies a fraction of a voxel beside {names[1]} ([{', '.join(f'{nm:g}' for nm in apart)}] nm): "
            "it is read as if on the nearest voxel; resample it, or correct its offset attribute."
        )


@functools.cache
def _warn_once(sentence: str) -> None:
    logger.warning(sentence)


def spaced(values: Sequence[float]) -> str:
    """Write numbers as on a command line: ``4.6 4 4``."""
    return " ".join(f"{value:g}" for value in values)
