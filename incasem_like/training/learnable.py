"""Checks that there is something to learn: masks, labels and raw are inspected before the first iteration."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from incasem_like.errors import ConfigError, DataError
from incasem_like.samples.regions import downsampled
from incasem_like.targets import Target, overlapping_classes, targets_of
from incasem_like.targets.learned import Classes, Descriptors
from incasem_like.targets.losses import ClassWeights
from incasem_like.targets.target import InstanceTarget
from incasem_like.volumes import Coordinate, Roi, Volume
from incasem_like.volumes.parts import shuffled_parts

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.samples import Region

log = logging.getLogger(__name__)

VOXELS_AT_ONCE = 1 << 22
MOST_VOXELS = 1 << 30  # of labels, and of raw, read per data configuration: about a minute at worst
REMEDY = 'check its datasets, "offset" and "shape"'


@dataclass(frozen=True)
class EntryContent:
    """The content found in an entry.

    Attributes:
        region: The entry.
        classes: Classes that occur among the voxels that count, background included.
        certain: Whether no further class can occur; False if only a part was read.
        constant: The value of its raw if all voxels are equal, else None.
    """

    region: Region
    classes: frozenset[int]
    certain: bool
    constant: float | None


def check_training_data(config: TrainingConfig, regions: Sequence[Region]) -> None:
    """Check that something can be learnt from the training data, and warn of entries with nothing to learn.

    Blocks are read until all classes were found and raw varies, usually a few.

    Raises:
        DataError: The mask is 0 everywhere, all voxels that count are background or, where classes are learnt, of one
            class, a class with a weight is nowhere, instances are learnt from a single one, or raw is constant.
        ConfigError: ``loss.weight`` leaves fewer than two classes.
        VoxelValueError: A label is negative.
    """
    targets = targets_of(config)
    found = look_into(regions, measured=False, overlapping=overlapping_classes(targets))
    names, seen = _names(found), frozenset[int]().union(*(entry.classes for entry in found))
    if all(entry.certain for entry in found):
        if not seen:
            raise DataError(
                f"The mask of training.data is 0 everywhere in {names}, so nothing can be learnt: {REMEDY}."
            )
        for target in targets:
            _check_seen(target, seen, names)
            if isinstance(target, Classes) and not config.training.start_from.named:  # a class may be known from there
                _check_classes(target, seen, names)
        _check_objects(targets, found, names)
    if all(entry.constant is not None for entry in found):
        raise DataError(
            f"The raw of training.data is {found[0].constant:g} everywhere in {names}, so nothing can be learnt: "
            f"{REMEDY}."
        )
    _check_depth(targets, regions)
    warn_of_content("training.data", found, config.data.num_classes)


def _check_seen(target: Target, seen: frozenset[int], names: str) -> None:
    """Check that a target can be learnt from voxels of these classes: of exclusive ones it takes two."""
    if seen == {0} or (target.kind == "classes" and len(seen) == 1):
        only = "background" if 0 in seen else _classes(seen)
        raise DataError(
            f"Every voxel of training.data that counts is {only} in {names}, so nothing can be learnt: {REMEDY}."
        )
    weights = target.loss.weight if isinstance(target.loss, ClassWeights) else None
    if weights is not None and sum(weights[one] > 0 for one in seen) < 2:
        raise ConfigError(
            f"loss.weight={list(weights)} leaves less than two of the classes {sorted(seen)} of training.data, so "
            "nothing can be learnt: give two of them a weight above 0."
        )


def _check_classes(target: Classes, seen: frozenset[int], names: str) -> None:
    """Check that each class that counts is somewhere."""
    weights = target.loss.weight if isinstance(target.loss, ClassWeights) else None
    first = 0 if target.exclusive else 1
    lacking = {one for one in range(1, first + target.channels) if one not in seen and (not weights or weights[one])}
    if lacking:
        weightless = (
            ", or set its loss.weight to 0 to train without it" if isinstance(target.loss, ClassWeights) else ""
        )
        raise DataError(
            f"No voxel of training.data that counts belongs to {_classes(lacking)} (looked at: {names}), so it cannot "
            f'be learnt: check "labels", masks, offset and shape{weightless}.'
        )


def _check_objects(targets: Sequence[Target], found: Sequence[EntryContent], names: str) -> None:
    """Check that instances can be learnt: not if a single object fills everything that counts.

    Raises:
        DataError: It does.
    """
    learnt = [target.name for target in targets if isinstance(target, InstanceTarget)]
    if not learnt or any(0 in entry.classes for entry in found):
        return
    if all(_is_one_object(entry.region) for entry in found):
        raise DataError(
            f"A single object fills all of training.data that counts ({names}), so that {' and '.join(learnt)} cannot "
            f"be learnt: {REMEDY}."
        )


def _is_one_object(region: Region) -> bool:
    for class_id, volume in region.labels.items():
        first = None
        for part in _parts(region, volume):
            ids = region.read_instances(class_id, part)[region.read_mask(part) > 0]
            first = ids[0] if first is None and ids.size else first
            if (ids != first).any():
                return False
    return len(region.labels) == 1


def _check_depth(targets: Sequence[Target], regions: Sequence[Region]) -> None:
    """Check that descriptors in 3-D have more than one section.

    Raises:
        ConfigError: They do not.
    """
    solid = [one for one in targets if isinstance(one, Descriptors) and not one.per_section]
    if solid and all(region.roi.shape[0] == 1 for region in regions):
        raise ConfigError(
            f"{solid[0].name} describes shapes in 3-D, but every entry of training.data is one section deep: set "
            "per_section=true for it, with one sigma or two."
        )


def warn_of_content(key: str, found: Sequence[EntryContent], num_classes: int) -> None:
    """Warn of classes that occur nowhere, and of entries without a class they name, with an empty mask or constant raw.

    Args:
        key: The configuration's key for the data, ``training.data``.
        found: The content of its entries.
        num_classes: Number of classes, background included.
    """
    nowhere = set(range(1, num_classes)).difference(*(entry.classes for entry in found))
    if nowhere:
        part = "" if all(entry.certain for entry in found) else "a part of "
        log.warning(
            "No voxel of %s that counts belongs to %s (looked at: %s%s), so it can be neither learnt nor measured: "
            'check "labels", masks, offset and shape.',
            key,
            _classes(nowhere),
            part,
            _names(found),
        )
    lacking = [
        f"{entry.region.name} (no {_classes(missing)})"
        for entry in found
        if entry.classes and (missing := entry.region.labels.keys() - entry.classes - nowhere)
    ]
    if lacking:
        log.warning("Classes that entries of %s name labels for are missing: %s.", key, ", ".join(lacking))
    for entry in found:
        if not entry.classes:
            where = "everywhere" if entry.certain else "in the part looked at"
            log.warning("The mask of %s is 0 %s: %s.", entry.region.name, where, REMEDY)
        if entry.constant is not None:
            log.warning("The raw of %s is %g everywhere: %s.", entry.region.name, entry.constant, REMEDY)


def look_into(regions: Sequence[Region], *, measured: bool, overlapping: Sequence[int] = ()) -> list[EntryContent]:
    """Read blocks of entries until their content is known, or ``MOST_VOXELS`` were read.

    Args:
        regions: Opened entries.
        measured: Count the voxels that validation measures instead of those that training learns from.
        overlapping: Classes to which voxels belong even where other label datasets claim them too.
    """
    most = MOST_VOXELS // len(regions)
    return [
        EntryContent(region, *_classes_of(region, measured, most, overlapping), _constant_raw(region, most))
        for region in regions
    ]


def _classes_of(region: Region, measured: bool, most: int, overlapping: Sequence[int]) -> tuple[frozenset[int], bool]:
    volumes = list(region.labels.values())
    wanted, seen, read = {0, *region.labels}, set[int](), 0
    signed = any(volume.dtype.kind == "i" for volume in volumes)  # negative labels are searched for everywhere
    for part in _parts(region, (volumes or [region.mask or region.raw])[0]):
        if read > most:
            return frozenset(seen), wanted <= seen
        counted = region.read_metric_mask(part) if measured else region.read_mask(part)
        classes = region.read_labels(part)[counted > 0]
        for one in set(overlapping) & region.labels.keys():
            of_class = region.read_instances(one, part)[counted > 0] > 0
            seen |= {one} if of_class.any() else set()
            classes = np.where(of_class, np.uint8(one), classes)
        seen |= set(np.flatnonzero(np.bincount(classes)).tolist())
        read += part.size
        if wanted <= seen and not signed:
            break
    return frozenset(seen), True


def _constant_raw(region: Region, most: int) -> float | None:
    first, read = None, 0
    for part in _parts(region, region.raw):
        raw = region.read_stored_raw(part)
        if raw.dtype.kind == "f":
            region.normalised(raw)  # rejects NaN and values outside [0, 1]
        first = raw.flat[0] if first is None else first
        if read > most or (raw != first).any():
            return None
        read += part.size
    return None if first is None else float(first)


def _parts(region: Region, volume: Volume) -> Iterator[Roi]:
    """Yield parts of the region that consist of whole chunks of a volume."""
    factor = region.downsample_factor
    stored = Roi(region.roi.begin * factor, (region.roi.shape - 1) * factor + Coordinate(1, 1, 1))
    for part in shuffled_parts(volume, stored, VOXELS_AT_ONCE):
        taken = downsampled(part, factor)
        if not taken.empty:
            yield taken


def _names(found: Sequence[EntryContent]) -> str:
    return ", ".join(entry.region.name for entry in found)


def _classes(numbers: set[int] | frozenset[int]) -> str:
    return f"class{'es' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)))}"
