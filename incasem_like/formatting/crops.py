"""Annotated crops: labels painted on a part of a volume, and crops that store many classes as ids (COSEM, CellMap)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.derive import DatasetWritten, Derivation, Operation, derive, derive_volume
from incasem_like.formatting.import_volume import import_volume
from incasem_like.formatting.label_masks import bounding_box, labelled_mask, metric_mask, select
from incasem_like.formatting.operations import crop, crop_roi
from incasem_like.volumes import Coordinate, Roi, describe_roi, list_datasets, open_volume, parse_address
from incasem_like.volumes.parts import aligned_parts
from incasem_like.volumes.values import check_labels

# Label ids of COSEM's crops, and the width of the zone around each class that is not scored.
COSEM = {"mito": ((3, 4), 4), "golgi": ((6, 7), 2), "er": ((16, 17), 2), "np": ((22, 23), 2)}


def import_painting(
    painting: str,
    raw: str,
    derivation: Derivation,
    *,
    offset: Sequence[int] | None = None,
    margin: Sequence[int] = (0, 0, 0),
) -> list[DatasetWritten]:
    """Import labels painted on a part of a volume: ``labels`` and ``mask`` of the painted box, and ``raw`` around it.

    The mask is 1 where a label was painted, so that all other voxels are left out of a training.

    Args:
        painting: Image file, folder of images, or volume with the labels, 0 = not painted.
        raw: Address of the volume that was painted on.
        derivation: ``out_container`` and ``out_dataset``, the group to write.
        offset: Position of the painting's first voxel in the volume, absolute voxels; None for the volume's first.
        margin: Voxels of raw around the painted box (z, y, x), as far as the volume reaches.

    Raises:
        InputError: A dataset is there with other parameters.
        DataError: Nothing is painted, or the painting lies outside the volume.
    """
    if min(margin) < 0:
        raise InputError(f"--margin is {list(margin)}: give 0 or more voxels along each axis.")
    volume = open_volume(raw)
    volume.require_zyx()
    container = derivation.out_container or derivation.container
    group = derivation.out_dataset
    whole = f"{group}/labels_painted"
    common = replace(derivation, container=container, out_container=container)
    size = volume.require_voxel_size()
    imported = import_volume(painting, replace(common, out_dataset=whole), voxel_size=size)
    painted = open_volume(container, whole)
    shift = (volume.roi.begin if offset is None else Coordinate(offset)) - painted.roi.begin
    if not volume.roi.contains(painted.roi + shift):
        raise DataError(
            f"{painting} would cover {describe_roi(painted.roi + shift)}, but {volume.address} has "
            f"{describe_roi(volume.roi)}: give another --offset."
        )
    labels = replace(common, dataset=whole, out_dataset=f"{group}/labels")
    box = bounding_box(painted, labels) + shift
    parameters = {"shift": list(shift)}
    corner, needs = volume.corner(box.begin), (volume,)
    place = Operation("place", placed_block, parameters, roi=box, offset=corner, labels=True, further_inputs=needs)
    written = [imported, derive(labels, lambda *_: place)]
    written.append(derive(replace(common, dataset=f"{group}/labels", out_dataset=f"{group}/mask"), labelled_mask))
    around = box.grow(Coordinate(margin), Coordinate(margin)).intersect(volume.roi)
    source = replace(common, container=volume.container, dataset=volume.dataset, out_dataset=f"{group}/raw")
    written.append(derive(source, crop, offset=around.begin, shape=around.shape))
    return written


def create_crop(
    raw: str, derivation: Derivation, *, offset: Sequence[int], shape: Sequence[int], margin: Sequence[int] = (0, 0, 0)
) -> list[DatasetWritten]:
    """Make a crop to paint: empty ``labels`` (uint32) and ``mask`` of a box, and ``raw`` of it and around it.

    Args:
        raw: Address of the volume to paint on.
        derivation: ``out_container`` and ``out_dataset``, the group to write.
        offset: First voxel of the box, absolute.
        shape: Its voxels.
        margin: Voxels of raw around it (z, y, x), as far as the volume reaches.

    Raises:
        InputError: A dataset is there with other parameters.
        DataError: The box reaches outside the volume.
    """
    volume = open_volume(raw)
    volume.require_voxel_size()
    box = crop_roi(str(volume.address), volume.roi, tuple(offset), tuple(shape))
    around = box.grow(Coordinate(margin), Coordinate(margin)).intersect(volume.roi)
    source = replace(derivation, container=volume.container, dataset=volume.dataset)
    group = derivation.out_dataset
    written = [derive(replace(source, out_dataset=f"{group}/raw"), crop, offset=around.begin, shape=around.shape)]
    for name, dtype in (("labels", np.uint32), ("mask", np.uint8)):
        empty = Operation("unpainted", empty_block, roi=box, dtype=dtype)
        written.append(derive(replace(source, out_dataset=f"{group}/{name}"), lambda *_, empty=empty: empty))
    return written


def empty_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return zeros."""
    return np.zeros(block.write_roi.shape, block.output.dtype)


def placed_block(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Return the source's voxels at a block that lies ``shift`` voxels away from them."""
    source, roi = block.inputs[0], block.write_roi - Coordinate(parameters["shift"])
    labels = source.read(roi)
    check_labels(labels, str(source.address), roi.begin)
    return labels


@dataclass(frozen=True)
class ClassOfIds:
    """A class of a crop's labels.

    Attributes:
        name: Name of the class.
        ids: Label ids that belong to it.
        zone: Voxels inside and outside its boundary that are not scored.
    """

    name: str
    ids: tuple[int, ...]
    zone: int = 2


def parse_classes(texts: Sequence[str]) -> list[ClassOfIds]:
    """Parse ``mito=3,4:4``: name, ids and, after a colon, the width of the zone; a name alone is a class of COSEM.

    Raises:
        InputError: A text has another form, or a name is given twice.

    Example:
        >>> parse_classes(["er", "mito=3,4:1"])
        [ClassOfIds(name='er', ids=(16, 17), zone=2), ClassOfIds(name='mito', ids=(3, 4), zone=1)]
    """
    found = []
    for text in texts:
        if text in COSEM:
            ids, zone = COSEM[text]
            found.append(ClassOfIds(text, ids, zone))
        elif match := re.fullmatch(r"([\w-]+)=(\d+(?:,\d+)*)(?::(\d+))?", text):
            found.append(ClassOfIds(match[1], tuple(int(number) for number in match[2].split(",")), int(match[3] or 2)))
        else:
            raise InputError(
                f"--classes {text} does not name a class: write NAME=ID,ID:ZONE, or one of {', '.join(COSEM)}."
            )
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise InputError(f"--classes names {max(names, key=names.count)} twice: give each class another name.")
    return found


def import_crops(
    source: str, raw: str, derivation: Derivation, classes: Sequence[ClassOfIds], pattern: str = r".*crop\w*/labels/all"
) -> dict[str, dict[str, dict[str, Any]]]:
    """Make training data of crops that store many classes as ids: a class map and a metric mask per class and crop.

    They are written to ``volumes/labels/<class>/<crop>`` and ``volumes/metric_masks/<class>/<crop>`` of the output's
    container, which also holds raw.

    Args:
        source: Container with the crops.
        raw: Dataset of raw in the output's container, on the same voxels.
        derivation: ``out_container``: the container to write.
        classes: The classes.
        pattern: Regular expression of the crops' datasets, by their paths.

    Returns:
        A data configuration for each class: an entry per crop in which it occurs.

    Raises:
        DataError: There are no crops, or one lies outside raw.
        InputError: A dataset is there with other parameters.
    """
    container = derivation.out_container or derivation.container
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--pattern {pattern} is not a regular expression ({error}): correct it.") from None
    names = [name for name in list_datasets(parse_address(source)) if wanted.fullmatch(name)]
    if not names:
        raise DataError(f"{source} has no dataset that matches {pattern}: name another --pattern.")
    volume = open_volume(container, raw)
    rois = {name: open_volume(source, name).roi for name in names}
    for name, roi in rois.items():
        if not volume.roi.contains(roi):
            raise DataError(
                f"{source}/{name} covers {describe_roi(roi)}, but {volume.address} has {describe_roi(volume.roi)}: "
                "check its offset."
            )
    configs: dict[str, dict[str, dict[str, Any]]] = {one.name: {} for one in classes}
    for name, roi in rois.items():
        crop_name = next((part for part in PurePosixPath(name).parts if "crop" in part), PurePosixPath(name).stem)
        for one in classes:
            labels = f"volumes/labels/{one.name}/{crop_name}"
            mask = f"volumes/metric_masks/{one.name}/{crop_name}"
            step = replace(derivation, container=source, dataset=name, out_dataset=labels, out_container=container)
            derive(step, select, ids=one.ids)
            zone = {"outwards": one.zone, "inwards": one.zone}
            around = replace(step, container=container, dataset=labels, out_dataset=mask)
            derive_volume(around, metric_mask, zone, context=one.zone)
            if _any_labelled(container, labels):
                configs[one.name][f"{PurePosixPath(container).stem}_{crop_name}_{one.name}"] = _entry(
                    container, raw, labels, mask, roi, volume.voxel_size
                )
    return configs


def _any_labelled(container: str, dataset: str) -> bool:
    labels = open_volume(container, dataset)
    return any(labels.read(part).any() for part in aligned_parts(labels, labels.roi, 1 << 22))


def _entry(
    container: str, raw: str, labels: str, mask: str, roi: Roi, voxel_size: Sequence[float] | None
) -> dict[str, Any]:
    return {
        "file": container,
        "offset": list(roi.begin),
        "shape": list(roi.shape),
        **({"voxel_size": list(voxel_size)} if voxel_size else {}),
        "raw": raw,
        "labels": {labels: 1},
        "metric_masks": [mask],
    }
