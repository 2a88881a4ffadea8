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

    Raises:
        DataError: It has channels or another voxel size.
    """
    if volume.axes != "zyx":
        raise DataError(
            f"{volume.address} has shape {list(volume.shape)} ({volume.axes}), but one of zyx is needed: "
            "name one class's dataset, such as prob_maps/class_1."
        )
    if not same_voxel_size(volume.voxel_size, reference.voxel_size):
        raise DataError(
            f"{volume.address} has voxels of {spaced(volume.voxel_size)} nm, but {reference.address} has "
            f"{spaced(reference.voxel_size)} nm: resample one, or correct its resolution attribute."
        )
    warn_between_voxels(volume, reference)


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
