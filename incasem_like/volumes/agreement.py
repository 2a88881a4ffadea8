"""Checks that two volumes share a voxel grid: the same voxel size, offsets a whole number of voxels apart."""

from __future__ import annotations

from collections.abc import Sequence

from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import DataError
from incasem_like.volumes.faults import warn_once
from incasem_like.volumes.geometry import on_grid
from incasem_like.volumes.volume import Volume


def check_same_voxels(volume: Volume, reference: Volume) -> None:
    """Check that a volume is 3-D with the reference's voxel size; warn if it is shifted by a fraction of a voxel.

    Raises:
        DataError: It has channels or another voxel size, or one of the two does not give its voxel size.
    """
    volume.require_zyx()
    size, wanted = volume.require_voxel_size(), reference.require_voxel_size()
    if not same_voxel_size(size, wanted):
        raise DataError(
            f"{volume.address} has voxels of {spaced(size)} nm, but {reference.address} has "
            f"{spaced(wanted)} nm: resample one, or correct its resolution attribute."
        )
    warn_between_voxels(volume, reference, wanted)


def warn_between_voxels(volume: Volume, reference: Volume, voxel_size: Sequence[float], of: str = "") -> None:
    """Warn, once, that a volume is shifted by a fraction of a voxel against another: it is read at the nearest voxel.

    Args:
        volume: The volume that is read on the grid of ``reference``.
        reference: Volume of the same voxel size.
        voxel_size: Voxel size of both volumes in nm, z, y, x.
        of: The data-config entry that both belong to, so that the warning can name them by dataset alone.
    """
    apart = [one - other for one, other in zip(volume.offset, reference.offset, strict=True)]
    if not on_grid(apart, voxel_size):
        names = (f"{volume.dataset} of {of}", reference.dataset) if of else (volume.address, reference.address)
        warn_once(
            f"{names[0]} lies a fraction of a voxel beside {names[1]} ([{', '.join(f'{nm:g}' for nm in apart)}] nm): "
            "it is read as if on the nearest voxel; resample it, or correct its offset attribute."
        )


def spaced(values: Sequence[float]) -> str:
    """Return numbers as written on a command line: ``4.6 4 4``."""
    return " ".join(f"{value:g}" for value in values)
