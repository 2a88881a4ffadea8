"""Data configurations: written from datasets on disk, and checked entry by entry against what the volumes hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from incasem_like.config import load_data_config
from incasem_like.config.data_config import parse_data_config
from incasem_like.config.locations import default_data_directory
from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.disk import check_output_file, write_whole
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.components import find_parts
from incasem_like.samples.opening import open_regions
from incasem_like.samples.regions import Region
from incasem_like.viewing.figures import PLANES, new_figure, png
from incasem_like.viewing.planes import busiest_point, plane_aspects, read_planes
from incasem_like.volumes import Coordinate, Roi, Volume, describe_roi, open_volume
from incasem_like.volumes.agreement import spaced
from incasem_like.volumes.parts import aligned_parts
from incasem_like.volumes.values import check_label_dtype, foreground

VOXELS_AT_ONCE = 1 << 22
BLOCK = (256, 256, 256)
AXES = "zyx"


@dataclass(frozen=True)
class Entry:
    """An entry to write: its name, its fields apart from the region, and its region."""

    name: str
    fields: Mapping[str, Any]
    roi: Roi

    def document(self) -> dict[str, Any]:
        """Return the fields of the JSON."""
        return {
            "file": self.fields["file"],
            "offset": list(self.roi.begin),
            "shape": list(self.roi.shape),
            **self.fields,
        }


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """Names of the datasets of an entry, the same in all containers.

    Attributes:
        raw: Intensities.
        labels: Labels of the classes 1, 2 and so on.
        mask: Mask, or None.
        metric_masks: Masks for scores.
    """

    raw: str
    labels: Sequence[str] = ()
    mask: str | None = None
    metric_masks: Sequence[str] = ()

    def fields(self) -> dict[str, Any]:
        """Return the fields of the JSON that name datasets.

        Raises:
            InputError: Two classes have the same labels.
        """
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"--labels names {max(self.labels, key=self.labels.count)} twice: name each once.")
        named: dict[str, Any] = {"raw": self.raw}
        if self.labels:
            named["labels"] = {dataset: number for number, dataset in enumerate(self.labels, 1)}
        if self.mask:
            named["mask"] = self.mask
        if self.metric_masks:
            named["metric_masks"] = list(self.metric_masks)
        return named


def suggest_entry(container: Path, datasets: Datasets, context: int) -> Entry:
    """Suggest the largest region in which all datasets lie, with raw around it where there is enough.

    Args:
        container: Container of the datasets.
        datasets: Their names.
        context: Voxels of raw wanted on each side; along an axis on which raw ends earlier, the region is not reduced,
            since raw is padded there.

    Raises:
        DataError: A dataset is missing, they do not overlap, their voxel sizes differ or are unknown.
    """
    raw = open_volume(container, datasets.raw)
    raw.require_zyx()
    size = raw.require_voxel_size()
    names = [*datasets.labels, *filter(None, [datasets.mask]), *datasets.metric_masks]
    others = [open_volume(container, name) for name in names]
    roi = raw.roi
    for volume in others:
        volume.require_zyx()
        check_label_dtype(volume)
        if volume.voxel_size and not same_voxel_size(volume.voxel_size, size):
            raise DataError(
                f"{volume.address} has voxels of {spaced(volume.voxel_size)} nm, but {raw.address} of {spaced(size)}: "
                "resample one of them."
            )
        roi = roi.intersect(volume.roi)
    if roi.empty:
        found = ", ".join(f"{volume.dataset}: {describe_roi(volume.roi)}" for volume in (raw, *others))
        raise DataError(f"The datasets of {container} do not overlap ({found}): set their offsets.")
    inner = raw.roi.grow(Coordinate((-context,) * 3), Coordinate((-context,) * 3))
    begin, end = [], []
    for axis in range(3):
        low, high = max(roi.begin[axis], inner.begin[axis]), min(roi.end[axis], inner.end[axis])
        fits = datasets.labels and high - low >= (roi.end[axis] - roi.begin[axis]) / 2
        begin.append(low if fits else roi.begin[axis])
        end.append(high if fits else roi.end[axis])
    file, folder = container.absolute(), default_data_directory()
    fields = {
        "file": str(file.relative_to(folder) if file.is_relative_to(folder) else file),
        "voxel_size": [int(nm) if float(nm).is_integer() else nm for nm in size],
        **datasets.fields(),
    }
    return Entry(container.stem, fields, Roi(begin, [high - low for low, high in zip(begin, end, strict=True)]))


def split_entry(entry: Entry, labels: Sequence[Volume], share: float, gap: int) -> tuple[Entry, Entry]:
    """Split an entry into training and validation along its longest axis, with a gap between.

    The validation part is the end of the axis whose share of labelled voxels is nearer that of the whole.

    Args:
        entry: The entry.
        labels: Its labels.
        share: Share of the region that is for validation.
        gap: Voxels between the two, so that no voxel is context of both.

    Raises:
        InputError: The region is too small, or the share is not between 0 and 1.
    """
    roi = entry.roi
    axis = int(np.argmax(roi.shape))
    length = int(roi.shape[axis])
    held_out = round(length * share)
    if not 0 < share < 1 or held_out < 1 or length - held_out - gap < 1:
        raise InputError(
            f"{entry.name} has {length} voxels along {AXES[axis]}, which cannot be split into {1 - share:g} and "
            f"{share:g} with {gap} voxels between: reduce --gap or --validation, or validate on another container."
        )

    def part(first: int, size: int) -> Roi:
        begin, shape = list(roi.begin), list(roi.shape)
        begin[axis], shape[axis] = roi.begin[axis] + first, size
        return Roi(begin, shape)

    ends = [part(0, held_out), part(length - held_out, held_out)]
    whole = _labelled_share(labels, roi)
    differences = [abs(_labelled_share(labels, end) - whole) for end in ends]
    first = differences[0] < differences[1]
    rest = part(held_out + gap if first else 0, length - held_out - gap)
    return (
        Entry(f"{entry.name}_train", entry.fields, rest),
        Entry(f"{entry.name}_validation", entry.fields, ends[0] if first else ends[1]),
    )


def _labelled_share(labels: Sequence[Volume], roi: Roi) -> float:
    found = 0
    for volume in labels:
        for part in aligned_parts(volume, roi, VOXELS_AT_ONCE):
            found += int(np.count_nonzero(foreground(volume.read(part), str(volume.address), part.begin)))
    return float(found / roi.size)


def write_data_configs(files: Sequence[tuple[Path, Sequence[Entry]]], overwrite: bool) -> None:
    """Check data configurations as a training does, then write them.

    Args:
        files: Path and entries of each.
        overwrite: Replace existing files.

    Raises:
        InputError: A file exists, without ``overwrite``, or is named twice, or two entries have the same name.
        ConfigError: The entries contradict each other.
    """
    texts: dict[Path, str] = {}
    for path, entries in files:
        check_output_file(path, overwrite=overwrite)
        names = [entry.name for entry in entries]
        if len(set(names)) < len(names):
            raise InputError(f"Several containers are named {max(names, key=names.count)}: use different names.")
        if path.resolve() in texts:
            raise InputError(f"{path} would hold both training and validation: name another --validation_output.")
        text = json.dumps({entry.name: entry.document() for entry in entries}, indent=4) + "\n"
        texts[parse_data_config(text, path.absolute()).path.resolve()] = text
    for path, text in texts.items():
        write_whole(path, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]


@dataclass(frozen=True)
class EntryReport:
    """What one entry holds.

    Attributes:
        region: The opened entry.
        context: Voxels of raw before and after the region along each axis.
        voxels: Voxels inside the mask.
        classes: Class id to voxels of it inside the mask; 0 is the background.
        objects: Class id to its connected parts of equal label within the region.
    """

    region: Region
    context: tuple[tuple[int, int], ...]
    voxels: int
    classes: Mapping[int, int]
    objects: Mapping[int, int]

    def lines(self) -> Iterator[str]:
        """Yield the report as text."""
        roi, raw = self.region.roi, self.region.raw
        yield f"{self.region.name}: {describe_roi(roi)}, {' x '.join(map(str, roi.shape))} voxels of {raw.address}"
        sides = ", ".join(f"{axis} {low} and {high}" for axis, (low, high) in zip(AXES, self.context, strict=True))
        yield f"    raw beyond the region, voxels before and after: {sides}"
        if self.region.mask is not None:
            yield f"    inside the mask: {self.voxels / roi.size:.2%}"
        for class_id, count in self.classes.items():
            if class_id == 0:
                yield f"    background: {count / max(1, self.voxels):.2%}"
                continue
            name = next(name for name, number in self.region.entry.labels.items() if number == class_id)
            share = f"{count / max(1, self.voxels):.2%}, {self.objects[class_id]} connected objects"
            yield f"    class {class_id} ({name}): {share}" + ("" if count else ": nothing to learn from")


def check_entries(paths: Sequence[Path], *, num_workers: int = 1) -> list[EntryReport]:
    """Open and count all entries of data configurations.

    Raises:
        ConfigError, DataError: What a training would report.
    """
    reports = []
    for path in paths:
        config = load_data_config(path)
        classes = max((number for entry in config.entries for number in entry.labels.values()), default=0)
        regions = open_regions(config, num_classes=classes + 1, voxel_size=config.voxel_size, need_labels=classes > 0)
        reports += [_counted(region, classes, num_workers) for region in regions]
    return reports


def _counted(region: Region, classes: int, num_workers: int) -> EntryReport:
    roi, raw = region.roi, region.raw_roi
    context = tuple((int(roi.begin[axis] - raw.begin[axis]), int(raw.end[axis] - roi.end[axis])) for axis in range(3))
    counts, inside = np.zeros(classes + 1, np.int64), 0
    for part in aligned_parts(region.raw, roi, VOXELS_AT_ONCE):
        mask = region.read_mask(part) > 0
        inside += int(np.count_nonzero(mask))
        counts += np.bincount(region.read_labels(part)[mask], minlength=classes + 1)
    objects = {}
    for class_id, volume in region.labels.items():
        parts = find_parts(volume, volume, BLOCK, roi=roi, num_workers=num_workers)
        objects[class_id] = int(np.count_nonzero(parts.component_values))
    present = {0: int(counts[0]), **{class_id: int(counts[class_id]) for class_id in region.labels}}
    return EntryReport(region, context, inside, present if region.labels else {}, objects)


def shared_voxels(reports: Sequence[EntryReport]) -> Iterator[str]:
    """Yield a sentence for each two entries of the same raw volume that share voxels."""
    for one, other in combinations(reports, 2):
        if one.region.raw.address == other.region.raw.address:
            both = one.region.roi.intersect(other.region.roi)
            if not both.empty:
                yield f"{one.region.name} and {other.region.name} share {both.size} voxels: {describe_roi(both)}"


def write_contact_sheet(reports: Sequence[EntryReport], path: Path) -> None:
    """Write a picture with three planes of each entry: raw, and the classes in colour.

    Args:
        reports: The entries.
        path: PNG to write.
    """
    figure = new_figure(9, 3.2 * len(reports))
    axes = figure.subplots(len(reports), 3, squeeze=False)
    for row, report in zip(axes, reports, strict=True):
        region = report.region
        labels = list(region.labels.values())
        centre = busiest_point(labels[0], region.roi) if labels else tuple(region.roi.center)
        shown = read_planes(region.raw, region.roi, centre)
        aspects = plane_aspects(region.voxel_size)
        for axis, plane in zip(row, PLANES, strict=True):
            axis.imshow(shown[plane], cmap="gray", aspect=aspects[plane], interpolation="nearest")
            axis.set_title(f"{region.name} {plane}", fontsize=8)
            axis.set_axis_off()
        for number, volume in enumerate(labels):
            found = read_planes(volume, region.roi, centre)
            for axis, plane in zip(row, PLANES, strict=True):
                drawn = np.ma.masked_equal((found[plane] != 0) * (number + 1), 0)
                axis.imshow(
                    drawn, cmap="tab10", vmin=0, vmax=10, alpha=0.45, aspect=aspects[plane], interpolation="nearest"
                )
    write_whole(path, lambda file: file.write(png(figure)))
