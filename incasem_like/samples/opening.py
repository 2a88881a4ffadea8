"""Opening a data configuration: all volumes are opened and checked for contradictions before work begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from incasem_like.config import DataConfig, DataEntry
from incasem_like.config.network_sections import InputSection
from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import ConfigError, DataError
from incasem_like.samples.regions import RAW_SCALES, Region, downsampled
from incasem_like.volumes import Coordinate, Roi, Volume, open_volume
from incasem_like.volumes.agreement import warn_between_voxels
from incasem_like.volumes.faults import warn_once
from incasem_like.volumes.values import check_label_dtype, probability_scale


def open_regions(
    data_config: DataConfig,
    *,
    num_classes: int,
    voxel_size: Sequence[float],
    need_labels: bool,
    downsample_factor: int = 1,
    inputs: Sequence[InputSection] = (),
    collecting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> list[Region]:
    """Open the volumes of all entries and check that they match each other and the configuration.

    Args:
        data_config: The entries.
        num_classes: Number of classes including background.
        voxel_size: ``data.voxel_size``, nm, z, y, x.
        need_labels: Whether the labels are used (training, validation, metrics). An entry without labels is then all
            background, as in incasem, but at least one entry must have labels.
        downsample_factor: Take every n-th voxel along each axis.
        inputs: The channels of raw where the network reads predictions.
        collecting: Context in which each entry is opened; it may collect errors, whose entries are left out.

    Raises:
        DataError: A container or dataset is missing, incomplete or of an unsupported dtype; a region is empty or
            outside a volume (a valid region is named); labels don't overlap raw; a voxel size contradicts the
            array's.
        ConfigError: Voxel size or class ids contradict the configuration.
    """
    if need_labels:
        with collecting():
            _check_classes(data_config, num_classes)
    regions = []
    for entry in data_config.entries:
        with collecting():
            _check_configured_voxel_size(entry, voxel_size)
            regions.append(_open_region(entry, need_labels, downsample_factor, inputs))
    return regions


def _open_region(entry: DataEntry, need_labels: bool, factor: int, inputs: Sequence[InputSection]) -> Region:
    raw, *further = (open_volume(entry.file, dataset) for dataset in (entry.raw, *entry.further_raw))
    if inputs:
        check_inputs(entry, [raw, *further], inputs)
    elif further:
        raise ConfigError(f'{entry.name} has "further_raw", but the network reads one volume of raw: leave it out.')
    for volume in (raw, *further):
        _check_raw(entry, volume, channels=bool(inputs))
    labels = {class_id: open_volume(entry.file, dataset) for dataset, class_id in entry.labels.items() if need_labels}
    mask = None if entry.mask is None else open_volume(entry.file, entry.mask)
    weights = open_volume(entry.file, entry.voxel_weights) if entry.voxel_weights and need_labels else None
    metric_masks = tuple(open_volume(entry.file, dataset) for dataset in entry.metric_masks if need_labels)
    region_roi = _configured_roi(entry, raw)
    roi = downsampled(region_roi, factor)
    opened = Region(entry, roi, raw, labels, mask, metric_masks, factor, tuple(further), weights)
    for volume in opened.volumes:
        _check_voxel_size(entry, volume)
        if volume not in (raw, *further):
            what = f"{volume.dataset} of {entry.name}"
            volume.require_zyx(what)
            if volume is weights:
                probability_scale(volume)
            else:
                check_label_dtype(volume, what)
            warn_between_voxels(volume, raw, entry.voxel_size, of=entry.name)
    _check_extents(entry, region_roi, opened.volumes)
    if opened.roi.empty:
        raise ConfigError(
            f"{entry.name} is {_ranges(region_roi)}, which holds no voxel at data.downsample_factor={factor}: "
            'enlarge "shape".'
        )
    return opened


def _check_classes(data_config: DataConfig, num_classes: int) -> None:
    used = {class_id: entry.name for entry in data_config.entries for class_id in entry.labels.values()}
    if not used:
        raise ConfigError(
            f'No entry of {data_config.path} names labels, but they are needed here: add "labels": '
            '{"volumes/labels/NAME": 1} to the entries.'
        )
    highest = max(used)
    if highest != num_classes - 1:
        raise ConfigError(
            f"{used[highest]} has labels of class {highest}, the highest there is, but data.num_classes is "
            f"{num_classes} with background: set data.num_classes={highest + 1} or change the labels' class ids."
        )


def _check_configured_voxel_size(entry: DataEntry, voxel_size: Sequence[float]) -> None:
    if not same_voxel_size(entry.voxel_size, voxel_size):
        raise ConfigError(
            f"{entry.name} has voxel size {_numbers(entry.voxel_size)} nm, but data.voxel_size is "
            f"{_numbers(voxel_size)}: set data.voxel_size={_numbers(entry.voxel_size)} or correct the entry."
        )


def _check_voxel_size(entry: DataEntry, volume: Volume) -> None:
    if volume.voxel_size is None:
        warn_once(
            f"{volume.dataset} of {entry.name} does not give its voxel size: the {_numbers(entry.voxel_size)} nm of "
            f"the data configuration are used; to have them verified, {volume.describe_resolution(entry.voxel_size)}."
        )
    elif not same_voxel_size(volume.voxel_size, entry.voxel_size):
        raise DataError(
            f"{volume.dataset} says its voxels are {_numbers(volume.voxel_size)} nm, but {entry.name} says "
            f'{_numbers(entry.voxel_size)}: correct "voxel_size" or the array\'s resolution attribute.'
        )


def check_inputs(entry: DataEntry, volumes: Sequence[Volume], inputs: Sequence[InputSection]) -> None:
    """Check that predictions are those that a network was trained to read, with lengths of the same voxels.

    Raises:
        DataError: There are others, in another order, or what one says of itself differs or is missing.
    """
    names = ", ".join(group.name for group in inputs)
    if len(volumes) != len(inputs):
        raise DataError(
            f"{entry.name} names {len(volumes)} datasets of raw, but the network reads {names}: name the datasets of a "
            'prediction as "raw" and "further_raw", in this order.'
        )
    for volume, group in zip(volumes, inputs, strict=True):
        wanted, found = dict(group.attributes), volume.attributes
        if "sigma_voxels" in wanted and found.get("sigma") is not None:
            sizes = [entry.voxel_size[axis] for axis in wanted.get("axes", (0, 1, 2))]
            if len(sizes) == len(found["sigma"]):
                ratios = [sigma / size for sigma, size in zip(found["sigma"], sizes, strict=True)]
                found = {**found, "sigma_voxels": ratios}
        wanted.pop("sigma", None)
        for key, value in wanted.items():
            if key not in found:
                asked = "sigma" if key == "sigma_voxels" else key
                raise DataError(
                    f"{volume.dataset} of {entry.name} does not say its {asked}, but the network reads {group.name} of "
                    f"{key} {value}: set the attribute, as a prediction by run id does."
                )
            same = np.allclose(found[key], value, rtol=0.02) if key == "sigma_voxels" else found[key] == value
            if not same:
                raise DataError(
                    f"{volume.dataset} of {entry.name} has {key} {found[key]}, but the network was trained to read "
                    f"{group.name} of {key} {value}: predict it with the options of that training, or train again."
                )


def _check_raw(entry: DataEntry, raw: Volume, channels: bool = False) -> None:
    if not channels:
        raw.require_zyx(f"{raw.dataset} of {entry.name}")
    raw.require_chunks(f"{raw.dataset} of {entry.name}")
    if raw.dtype.name not in RAW_SCALES:
        raise DataError(
            f"{raw.dataset} of {entry.name} is {raw.dtype.name}, but raw has to be uint8, uint16, "
            "or float from 0 to 1: convert it."
        )


def _configured_roi(entry: DataEntry, raw: Volume) -> Roi:
    begin = raw.roi.begin if entry.offset is None else Coordinate(entry.offset)
    shape = raw.roi.end - begin if entry.shape is None else Coordinate(entry.shape)
    roi = Roi(begin, Coordinate(max(0, size) for size in shape))
    if roi.empty:
        raise DataError(
            f'{entry.name} is empty: {raw.dataset} covers {_ranges(raw.roi)}, and "offset" {list(begin)} leaves '
            'nothing of it: give an "offset" inside.'
        )
    return roi


def _check_extents(entry: DataEntry, roi: Roi, volumes: list[Volume]) -> None:
    raw = volumes[0]
    for volume in volumes[1:]:
        if raw.roi.intersect(volume.roi).empty:
            raise DataError(
                f"{volume.dataset} covers {_ranges(volume.roi)}, {raw.dataset} {_ranges(raw.roi)}: they do not "
                "overlap, check their offset attributes (nm)."
            )
    fitting = roi
    for volume in volumes:
        fitting = fitting.intersect(volume.roi)
    for volume in volumes:
        if not volume.roi.contains(roi):
            raise DataError(_outside_sentence(entry, roi, volume, fitting))


def _outside_sentence(entry: DataEntry, roi: Roi, volume: Volume, fitting: Roi) -> str:
    axes = [
        axis for axis in range(3) if roi.begin[axis] < volume.roi.begin[axis] or roi.end[axis] > volume.roi.end[axis]
    ]
    found = f"{volume.dataset} covers {_ranges(volume.roi, axes)}, but {entry.name} asks for {_ranges(roi, axes)}"
    if fitting.empty:
        return f'{found}: no part of the region lies in all of its datasets, choose another "offset" and "shape".'
    shape = f'"shape" to {list(fitting.shape)}'
    if fitting.begin == roi.begin:
        return f"{found}: reduce {shape} or extend the dataset."
    return f'{found}: set "offset" to {list(fitting.begin)} and {shape}, or extend the dataset.'


def _ranges(roi: Roi, axes: Sequence[int] = (0, 1, 2)) -> str:
    return ", ".join(f"{'zyx'[axis]} {roi.begin[axis]}-{roi.end[axis] - 1}" for axis in axes)


def _numbers(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
