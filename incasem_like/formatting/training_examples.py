"""Training examples from annotated regions: tiles of a grid, most of them with foreground, split by whole regions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import WorkItem
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.disk import check_output_file
from incasem_like.errors import DataError, InputError
from incasem_like.formatting.intensity_scale import measure_scaling, tile_boxes
from incasem_like.volumes import Coordinate, Roi, Volume, check_outputs, make_provenance, open_volume
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.values import check_label_dtype, foreground


@dataclass(frozen=True)
class AnnotatedRegion:
    """A region with labels.

    Attributes:
        name: Name, unique among the regions.
        raw: Address of the intensities, in any format that can be read.
        labels: Address of the labels; not 0 is foreground.
    """

    name: str
    raw: str
    labels: str


@dataclass(frozen=True)
class Choice:
    """How examples are chosen.

    Attributes:
        tile_shape: What a network labels of an example, (z, y, x) in voxels; the step of the grid.
        context: Voxels around it on each side.
        threshold: A tile is a foreground tile if its share of foreground is above this.
        ratio: Share of foreground tiles among the examples of a region.
        per_region: Number of examples of a region, as many as there are.
        seed: Seed of the choice.
    """

    tile_shape: tuple[int, int, int] = (132, 132, 132)
    context: tuple[int, int, int] = (44, 44, 44)
    threshold: float = 0.001
    ratio: float = 0.9
    per_region: int = 50
    seed: int = 0

    def check(self) -> None:
        """Check the numbers.

        Raises:
            InputError: One is not valid.
        """
        if min(self.tile_shape) < 1 or min(self.context) < 0 or self.per_region < 1 or self.seed < 0:
            raise InputError("Tiles have 1 or more voxels, contexts 0 or more; --samples_per_region is 1 or more.")
        if not 0 <= self.ratio <= 1 or not 0 <= self.threshold < 1:
            raise InputError(f"--above_threshold_ratio is {self.ratio:g}, --threshold {self.threshold:g}: give 0 to 1.")


@dataclass(frozen=True)
class Example:
    """An example.

    Attributes:
        region: The region that it comes from.
        tile: Number of its tile in the grid of the region.
        roi: What the network labels, in absolute voxels.
        share: Share of foreground in it.
    """

    region: AnnotatedRegion
    tile: int
    roi: Roi
    share: float


def split_regions(
    regions: Sequence[AnnotatedRegion], validation: float | Sequence[str], seed: int = 0
) -> tuple[list[AnnotatedRegion], list[AnnotatedRegion]]:
    """Return regions to train and to validate on; a region is never in both, so that no voxel is.

    Args:
        regions: All regions.
        validation: Names of regions, or the share of regions, at least one if it is above 0.
        seed: Seed of the choice by share.

    Raises:
        InputError: A name is not known, given twice or cannot name examples, nothing is left to train on, or two
            regions overlap.
    """
    names = [region.name for region in regions]
    for name in names:
        if not name or "/" in name:
            raise InputError(f"A region is named {name!r}, but its examples are named after it: leave out slashes.")
        for longer in names:
            if longer.startswith(name) and longer[len(name) :].isdecimal():
                raise InputError(f"The examples of {name} and {longer} could get the same names: give other --names.")
    if len(set(names)) < len(names):
        raise InputError(f"Several regions are named {max(names, key=names.count)}: give different --names.")
    if isinstance(validation, float | int):
        if not 0 <= validation < 1:
            raise InputError(f"--validation is {validation:g}: give a share from 0 to below 1.")
        count = max(1, round(validation * len(names))) if validation else 0
        chosen = {names[index] for index in np.random.default_rng(seed).permutation(len(names))[:count]}
    else:
        chosen = set(validation)
        if unknown := chosen - set(names):
            raise InputError(f"There is no region {', '.join(sorted(unknown))}: name some of {', '.join(names)}.")
    if len(chosen) == len(names):
        raise InputError(f"All {len(names)} regions are for validation: give more regions, or leave one to train on.")
    train = [region for region in regions if region.name not in chosen]
    held_out = [region for region in regions if region.name in chosen]
    for one in train:
        for other in held_out:
            overlap = open_volume(one.raw).roi.intersect(open_volume(other.raw).roi)
            if one.raw == other.raw and not overlap.empty:
                raise InputError(f"The regions {one.name} and {other.name} share voxels of {one.raw}: cut them apart.")
    return train, held_out


def choose_examples(region: AnnotatedRegion, choice: Choice, number: int = 0, **run: Any) -> tuple[list[Example], str]:
    """Choose the examples of a region.

    The foreground share of every tile is counted. ``ratio`` of the examples are foreground tiles, exactly if there are
    enough of either kind; else tiles of the other kind take their place.

    Args:
        region: The region.
        choice: How they are chosen.
        number: Number of the region, so that regions draw differently.
        **run: ``num_workers`` and ``workers`` of ``run_blockwise``.

    Returns:
        The examples in the order of their tiles, and a sentence about them.

    Raises:
        DataError: Raw or labels cannot be read, or lie on different voxels.
        InputError: A number is not valid.
    """
    choice.check()
    labels = open_volume(region.labels)
    labels.require_zyx()
    check_label_dtype(labels)
    raw = open_volume(region.raw)
    raw.require_zyx()
    check_same_voxels(labels, raw)
    whole = labels.roi.intersect(raw.roi)
    if whole.empty:
        raise DataError(f"{raw.address} and {labels.address} do not overlap: check their offsets.")
    tiles = tile_boxes(whole, choice.tile_shape)
    boxes = [[list(tile.begin), list(tile.shape)] for tile in tiles]
    names = tuple(f"{region.name} tile {index}" for index in range(len(tiles)))
    task = LedgerTask("count tiles", names, (str(labels.address),), count_tile, {"boxes": boxes}, unit="tiles")
    task.run(**run, description=f"Counting labels of {region.name}")
    size = np.prod(choice.tile_shape)
    shares = np.array([result[0] for result in task.results()]) / size
    task.forget()
    rng = np.random.default_rng([choice.seed, number])
    above = shares > choice.threshold
    high, low = (rng.permutation(np.flatnonzero(part)) for part in (above, ~above))
    count = min(choice.per_region, len(tiles))
    many = min(max(round(choice.ratio * count), count - len(low)), len(high))
    chosen = sorted([*high[:many].tolist(), *low[: count - many].tolist()])
    examples = [
        Example(region, index, Roi(tiles[index].begin, choice.tile_shape), float(shares[index])) for index in chosen
    ]
    told = (
        f"{region.name}: {count} examples of {len(tiles)} tiles, {many} of {len(high)} above a foreground share of "
        f"{choice.threshold:g}"
    )
    return examples, told


def count_tile(item: WorkItem, parameters: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Return the number of foreground voxels of a tile."""
    begin, shape = parameters["boxes"][item.number]
    labels = item.inputs[0].read(Roi(begin, shape))
    return np.array([np.count_nonzero(foreground(labels, str(item.inputs[0].address), begin))])


def scaling_factors(regions: Sequence[AnnotatedRegion], scaling: float | None = None) -> dict[str, float]:
    """Return the scaling factor of each region by its name.

    Args:
        regions: The regions.
        scaling: Factor for all of them; None measures that of each.

    Raises:
        InputError: The given factor is not above 0.
        DataError: A region has no scaling factor.
    """
    if scaling is not None and not scaling > 0:
        raise InputError(f"--scaling is {scaling:g}: give a number above 0.")
    return {region.name: scaling or measure_scaling(open_volume(region.raw)).factor for region in regions}


def write_examples(
    path: Path, examples: Sequence[Example], choice: Choice, factors: Mapping[str, float], *, overwrite: bool = False
) -> None:
    """Write examples as an HDF5 file, with a group ``<region><tile>`` for each.

    A group holds ``image`` (float32, scaled) and ``mask`` (uint8, 0 and 1), both with the context, and the attributes
    ``region``, ``tile_index``, ``offset`` (absolute voxels of the image's first voxel) and ``scaling_factor``. Beyond
    its region an example is the region's mirror image. The file appears when it is complete.

    Args:
        path: The file.
        examples: The examples.
        choice: How they were chosen.
        factors: The scaling factor of each region, see ``scaling_factors``.
        overwrite: Replace an existing file.

    Raises:
        InputError: The file exists, without ``overwrite``, or is an input.
    """
    regions = {example.region.name: example.region for example in examples}
    volumes = {name: (open_volume(region.raw), open_volume(region.labels)) for name, region in regions.items()}
    check_outputs([path], [volume.address for pair in volumes.values() for volume in pair], "choose another --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    check_output_file(path, overwrite=overwrite)
    partial = path.with_name(f".{path.name}.partial")
    context = Coordinate(choice.context)
    inputs = [volume for pair in volumes.values() for volume in pair]
    try:
        with h5py.File(partial, "w") as file:
            for example in examples:
                name = example.region.name
                image, mask = _read_example(*volumes[name], example.roi.grow(context, context))
                group = file.create_group(f"{name}{example.tile}")
                options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
                group.create_dataset("image", data=image * np.float32(factors[name]), **options)
                group.create_dataset("mask", data=mask, **options)
                group.attrs.update({"region": name, "tile_index": example.tile, "scaling_factor": factors[name]})
                group.attrs["offset"] = example.roi.begin - context
            record = {"tile_shape": list(choice.tile_shape), "context": list(choice.context), "seed": choice.seed}
            file.attrs["provenance"] = json.dumps(make_provenance("training examples", record, inputs))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_example(raw: Volume, labels: Volume, roi: Roi) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    image = raw.read(roi, outside="reflect").astype(np.float32)
    found = labels.read(roi, outside="reflect")
    return image, foreground(found, str(labels.address), roi.begin).astype(np.uint8)
