"""Arrays as levels of an OME-NGFF multi-scale image, and the position of arrays that exist already."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from incasem_like.errors import InputError
from incasem_like.volumes import consolidated, ome
from incasem_like.volumes.address import Address, join
from incasem_like.volumes.formats import ArrayFormat, Layout
from incasem_like.volumes.formats.base import numbers
from incasem_like.volumes.geometry import exact, nanometres
from incasem_like.volumes.opening import dataset_exists, open_volume
from incasem_like.volumes.provenance import command_line
from incasem_like.volumes.store import Document, Documents
from incasem_like.volumes.volume import Volume


def set_space(volume: Volume, voxel_size: Sequence[float] | None = None, offset: Sequence[int] | None = None) -> None:
    """Change voxel size and offset in the metadata of an array and of its group; the voxels stay as they are.

    Args:
        volume: The array, opened for writing.
        voxel_size: (z, y, x) in nm; None leaves it unchanged.
        offset: Position of the first voxel (z, y, x) in voxels; None leaves it unchanged, in voxels.

    Raises:
        InputError: A size is not positive, an offset without a voxel size, the array is a level of a pyramid, or its
            axes are not stored in the order c, z, y, x.
    """
    size = volume.voxel_size if voxel_size is None else tuple(map(float, voxel_size))
    if size is not None and not all(0 < nm < math.inf for nm in size):
        raise InputError(f"The voxel size {list(size)} is not valid: give numbers above 0, in nm.")
    if size is None and any(offset or ()):
        raise InputError(f"{volume.address} has no voxel size, which its offset needs: give --voxel_size too.")
    axes = volume._world().axes
    stored = "".join(axes[::-1] if volume.format.name == "n5" else axes)
    if stored != volume.axes:
        raise InputError(f"{volume.address} stores its axes as {stored}: convert it to another dataset first.")
    group, name = _group_of(volume.address)
    if any(name in ome.paths(image) and len(ome.paths(image)) > 1 for image in _images(group, volume.format)):
        raise InputError(f"{volume.address} is a level of a pyramid: change the original and make the pyramid again.")
    place = volume.offset if offset is None else nanometres(offset, size or (1.0,) * len(offset))
    if offset is None and volume.voxel_size is not None:
        sizes = zip(place, volume.voxel_size, size or (), strict=True)
        place = tuple(float(exact(nm) / exact(before) * exact(after)) for nm, before, after in sizes)
    layout = _layout(volume, size, place)
    changed = {} if (voxel_size, offset) == (None, None) else {"position_set_by": command_line()}
    volume.update_attributes({**volume.format.space_attributes(layout), **changed})
    if volume.address.dataset and volume.format.name in ome.VERSIONS:
        image = ome.image_of(layout, name)
        _change_group(group, volume.format, lambda found: ome.with_image(found, image, volume.format.name))


def _layout(volume: Volume, voxel_size: tuple[float, ...] | None, offset: tuple[float, ...]) -> Layout:
    shape, chunks = volume.shape, volume.chunk_shape
    return Layout(shape, volume.dtype, volume.axes, chunks, None, voxel_size, offset, None, 0)


def array_to_move(address: Address, name: str) -> Address:
    """Return where the array of ``move_into_group`` is: not moved yet, moved, or in between by an interrupted call."""
    moved = Address(address.container, join(address.dataset, name))
    for place in (moved, Address((_growing_group(address) / name).as_posix())):
        if address.is_local and dataset_exists(place):
            return place
    return address


def _growing_group(address: Address) -> Path:
    folder = Path(address.location)
    return folder.with_name(f".{folder.name}.pyramid")


def move_into_group(address: Address, name: str) -> None:
    """Make an array the member ``name`` of a new group in its place; the same call again finishes an interrupted one.

    Raises:
        DataError: The array is missing.
        InputError: The array is remote, a level of another pyramid, or cannot be moved.
    """
    if not address.is_local:
        raise InputError(f"{address} is remote and cannot be moved: name another dataset for the pyramid instead.")
    folder = Path(address.location)
    growing = _growing_group(address)
    group, path = _group_of(address)
    if folder.is_symlink():
        raise InputError(f"{address} is a symbolic link and cannot be moved: name another dataset for the pyramid.")
    if not dataset_exists(address.location, name) and not (growing / name).exists():
        volume = open_volume(address, writable=True)
        file = join(group.dataset, volume.format.attributes_file)
        listed = map(ome.paths, ome.images(volume.format.attributes_of(Documents(group).read(file) or {})))
        if any(path in names and len(names) > 1 for names in listed):
            raise InputError(f"{address} is a level of the pyramid {group}: name another dataset for a new pyramid.")
        if "complete" not in volume.attributes:  # another program's, so its group alone may know the voxel size
            set_space(volume)
        growing.mkdir(exist_ok=True)
        for file, document in volume.format.group_documents().items():
            Documents(Address(growing.as_posix())).write(file, document)
        os.rename(folder, growing / name)
    if growing.exists():
        os.rename(growing, folder)
    moved = Address(address.container, join(address.dataset, name))
    format_ = open_volume(moved).format
    if address.dataset and format_.name in ome.VERSIONS:
        _change_group(group, format_, lambda found: ome.without_image(found, path, format_.name))
    consolidated.refresh(address)
    consolidated.refresh(moved)


def write_multiscales(volumes: Sequence[Volume], factors: Sequence[Sequence[int]], method: str) -> None:
    """Describe arrays of one group as one multi-scale image, in OME-NGFF or, in an N5, as its viewers expect it.

    OME-NGFF places the centre of a voxel, so that ``translation`` of a level is shifted by half the difference to a
    voxel of the first level.

    Args:
        volumes: The levels, from the finest.
        factors: (z, y, x) of each level relative to the first.
        method: How a level was made from the one before, ``"mean"`` or ``"mode"``.
    """
    first, format_ = volumes[0], volumes[0].format
    group, _ = _group_of(first.address)
    size = first.voxel_size or (1.0,) * 3
    if format_.name == "n5":
        steps: Document = {"scales": [list(reversed(factor)) for factor in factors], "axes": ["x", "y", "z"]}
        if first.voxel_size:
            steps |= {"resolution": numbers(size[::-1]), "units": ["nm"] * 3}
        _change_group(group, format_, lambda found: {**found, **steps})
        return
    image = ome.image_of(
        _layout(first, first.voxel_size, first.offset), _group_of(group)[1] or Path(group.container).stem
    )
    channels = len(first.shape) - 3
    image["datasets"] = []
    for volume, factor in zip(volumes, factors, strict=True):
        scale = nanometres(factor, size)
        offset = volume.offset if first.voxel_size else (0.0,) * 3
        shift = [
            float(exact(begin) + (exact(step) - exact(nm)) / 2)
            for begin, step, nm in zip(offset, scale, size, strict=True)
        ]
        steps = {"scale": [1] * channels + numbers(scale), "translation": [0] * channels + numbers(shift)}
        listed = [{"type": kind, kind: values} for kind, values in steps.items()]
        image["datasets"].append({"path": _group_of(volume.address)[1], "coordinateTransformations": listed})
    image["type"] = method
    _change_group(group, format_, lambda found: ome.with_levels(found, image, format_.name))


def _group_of(address: Address) -> tuple[Address, str]:
    """Return the group that holds an array, and the array's name in it."""
    group, _, name = address.dataset.rpartition("/")
    return Address(address.container, group), name


def _images(group: Address, format_: ArrayFormat) -> list[Any]:
    document = Documents(group).read(join(group.dataset, format_.attributes_file)) or {}
    return ome.images(format_.attributes_of(document))


def _change_group(group: Address, format_: ArrayFormat, change: Any) -> None:
    key = join(group.dataset, format_.attributes_file)
    Documents(group).update(key, lambda found: format_.with_attributes(found, change(format_.attributes_of(found))))
    consolidated.refresh(Address(group.container, join(group.dataset, "s0")))
