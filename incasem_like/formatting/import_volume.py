"""Import of volumes of other programs: HDF5, MRC, NIfTI, Zarr, N5, precomputed, whole or a box of one scale level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.conversions import IMPORT_DTYPES, Conversion
from incasem_like.formatting.derive import DatasetWritten, Derivation, Operation, derive
from incasem_like.formatting.grey_values import grey_limits, to_grey
from incasem_like.formatting.import_sections import SequenceImport, import_all
from incasem_like.formatting.operations import crop_roi
from incasem_like.formatting.sections import is_image_sequence
from incasem_like.volumes import Address, Roi, Volume, nanometres, open_volume
from incasem_like.volumes.agreement import spaced
from incasem_like.volumes.faults import warn_once
from incasem_like.volumes.levels import find_levels
from incasem_like.volumes.values import check_labels

Triple = Sequence[int]
Number = TypeVar("Number", int, float)


def import_volume(
    place: str,
    derivation: Derivation,
    *,
    level: int | None = None,
    voxel_size: Sequence[float] | None = None,
    **options: Any,
) -> DatasetWritten:
    """Import a volume of another program, or a sequence of images.

    Args:
        place: Address of the array, or of a group or precomputed volume with several scale levels.
        derivation: Output; its source is replaced by ``place``.
        level: Number of the scale level, 0 is the finest.
        voxel_size: (z, y, x) in nm; of several levels, the one with this voxel size. Else it is compared with what the
            file states, and replaces it with a warning.
        **options: See ``plan_import``.

    Raises:
        DataError: Nothing is there, or no level has the voxel size.
        InputError: A level must be chosen, or an option is not valid.
    """
    if is_image_sequence(Path(place)):
        return _import_images(Path(place), derivation, level=level, voxel_size=voxel_size, **options)
    address, note = choose_level(place, level, voxel_size)
    request = replace(derivation, container=address.container, dataset=_dataset(address))
    written = derive(request, plan_import, voxel_size=voxel_size, **options)
    return replace(written, note=note)


def _import_images(
    source: Path,
    derivation: Derivation,
    *,
    voxel_size: Sequence[float] | None,
    dtype: str | None = None,
    conversion: str | None = None,
    invert: bool = False,
    offset: Triple | None = None,
    shape: Triple = (0, 0, 0),
    **others: Any,
) -> DatasetWritten:
    """Import a folder of images, or one TIFF, as ``00_image_sequences_to_zarr.py`` does."""
    if given := [f"--{name}" for name, value in others.items() if value not in (None, "zyx")]:
        raise InputError(f"{' and '.join(given)} cannot be used with images: rescale afterwards (10_derive_volume.py).")
    if voxel_size is None:
        raise InputError("Images need a voxel size: give --voxel_size in nm, for z, y and x.")
    plan = SequenceImport(
        source,
        derivation.out_container or derivation.container,
        derivation.out_dataset,
        dtype or ("uint32" if "labels" in derivation.out_dataset else "uint8"),
        conversion,
        invert,
        offset=_three(offset or (0, 0, 0)),
        shape=_three(shape),
        voxel_size=_three(voxel_size),
        chunk_shape=derivation.chunk_shape or (128, 128, 128),
    )
    [(_, written)] = import_all(
        [plan], overwrite=derivation.overwrite, num_workers=derivation.num_workers, workers=derivation.cluster
    )
    return replace(written, next_command=plan.next_command)


def _three(values: Sequence[Number]) -> tuple[Number, Number, Number]:
    z, y, x = values
    return z, y, x


def _dataset(address: Address) -> str:
    return str(address).removeprefix(address.container).lstrip("/")


def choose_level(
    place: str, level: int | None = None, voxel_size: Sequence[float] | None = None
) -> tuple[Address, str]:
    """Return the address of the scale level to read, and a sentence that reports it.

    Args:
        place: Address of an array, or of a group of scale levels.
        level: Number of the level, 0 is the finest.
        voxel_size: Voxel size of the level, (z, y, x) in nm; used if ``level`` is None.

    Raises:
        DataError: The array or the level is missing.
        InputError: There are several levels, and none is chosen.
    """
    volumes = [open_volume(address) for address in find_levels(place)]
    shown = [f"{_dataset(volume.address)} ({spaced(volume.voxel_size or ())} nm)" for volume in volumes]
    if len(volumes) == 1 and not level:
        chosen = 0
    elif level is not None:
        if not 0 <= level < len(volumes):
            raise DataError(
                f"{place} has {len(volumes)} levels, {', '.join(shown)}, but --level is {level}: choose one."
            )
        chosen = level
    elif voxel_size is None:
        raise InputError(f"{place} has several levels: choose one by --level or --voxel_size from {', '.join(shown)}.")
    else:
        found = [
            index
            for index, volume in enumerate(volumes)
            if volume.voxel_size and same_voxel_size(volume.voxel_size, voxel_size)
        ]
        if not found:
            raise DataError(
                f"{place} has no level of {spaced(voxel_size)} nm, but {', '.join(shown)}: choose one by --level, and "
                "resample it afterwards."
            )
        chosen = found[0]
    one = volumes[chosen]
    size = f"{spaced(one.voxel_size)} nm" if one.voxel_size else "unknown"
    shape = " x ".join(map(str, one.shape))
    return (
        one.address,
        f"Read {one.format.name}: {one.address}, {shape} voxels ({one.axes}), {one.dtype}, voxel size {size}",
    )


def plan_import(
    source: Volume,
    derivation: Derivation,
    *,
    axes: str = "zyx",
    offset: Triple | None = None,
    shape: Triple = (0, 0, 0),
    voxel_size: Sequence[float] | None = None,
    dtype: str | None = None,
    value_range: Sequence[float] | None = None,
    percentiles: Sequence[float] | None = None,
    invert: bool = False,
    conversion: str | None = None,
) -> Operation:
    """Check a volume and plan its import.

    A dataset with ``labels`` in its name must hold whole numbers of 0 or more, and is stored as unsigned integers.

    Args:
        source, derivation: As for every operation.
        axes: What the axes of the source, in its order z, y, x, really are: ``"xyz"`` mirrors a wrong order.
        offset, shape: Box to import, in absolute voxels after the change of axes; see ``crop``.
        voxel_size: (z, y, x) in nm after the change of axes; None for that of the file.
        dtype: Data type to store; an error if a value does not fit. None for that of the file.
        value_range, percentiles: Limits of the grey values that become 0 and 255, see ``rescale``.
        invert: Replace every value by the maximum of the stored type minus the value.
        conversion: ``RelabelTo:VALUE`` or ``RelabelToUid``.

    Raises:
        InputError: An option is not valid, or options exclude each other.
        DataError: The box reaches outside the source.
    """
    if sorted(axes) != ["x", "y", "z"]:
        raise InputError(f"--axes {axes} does not name each of z, y and x once: write their order, such as xyz.")
    order = [axes.index(axis) for axis in "zyx"]
    source.require_zyx()
    rescales = value_range is not None or percentiles is not None
    labels = "labels" in derivation.out_dataset
    if rescales and (labels or dtype not in (None, "uint8") or conversion):
        raise InputError(
            "Grey values are mapped to uint8: leave out --dtype and --conversion, and keep labels as they are."
        )
    stored = dtype or (
        "uint8" if rescales else f"uint{max(8, 8 * source.dtype.itemsize)}" if labels else source.dtype.name
    )
    if stored == "bool":
        stored = "uint8"
    change = Conversion(stored, conversion, invert, str(source.address))
    change.check_type()
    if labels and stored not in IMPORT_DTYPES[:4]:
        raise InputError(
            f"{derivation.out_dataset} holds labels, which are unsigned integers, but --dtype is {stored}."
        )
    whole = Roi([source.roi.begin[axis] for axis in order], [source.spatial_shape[axis] for axis in order])
    stated = None if source.voxel_size is None else tuple(source.voxel_size[axis] for axis in order)
    if stated and voxel_size and not same_voxel_size(stated, voxel_size):
        warn_once(
            f"{source.address} states a voxel size of {spaced(stated)} nm, but --voxel_size is {spaced(voxel_size)}: "
            "the latter is used."
        )
    parameters = {
        "order": order,
        "conversion": [stored, conversion, invert],
        "limits": grey_limits(source, derivation, value_range, percentiles) if rescales else None,
        "labels": labels,
    }
    size = stated if voxel_size is None else tuple(map(float, voxel_size))
    roi = crop_roi(str(source.address), whole, offset, shape)
    if size is None or size == stated:
        position = source.corner([roi.begin[order.index(axis)] for axis in range(3)])
        corner = tuple(position[axis] for axis in order)
    else:
        corner = nanometres(roi.begin, size)
    return Operation("import_volume", import_block, parameters, dtype=stored, voxel_size=size, roi=roi, offset=corner)


def import_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the converted voxels of a block."""
    source, order, wanted = block.inputs[0], parameters["order"], block.write_roi
    back = [order.index(axis) for axis in range(3)]
    roi = Roi([wanted.begin[axis] for axis in back], [wanted.shape[axis] for axis in back])
    values = source.read(roi).transpose(order)
    if parameters["labels"]:
        check_labels(values, str(source.address), wanted.begin)
    if parameters["limits"] is not None:
        values = to_grey(values, parameters["limits"], f"{source.address}")
    dtype, name, invert = parameters["conversion"]
    converted = Conversion(dtype, name, invert, str(source.address)).apply(values, str(source.address))
    return np.asarray(converted)
