"""gunpowder nodes of the sample pipeline: source, choice of a random position, and augmentations.

World units are whole picometres. gunpowder seeds Python's and numpy's global generators at every request from a seed
that changes from node to node; the nodes here draw from `SampleRandomness` instead.
"""

from __future__ import annotations

import random

import gunpowder as gp
import numpy as np

from incasem_like.config.section import Section
from incasem_like.config.training_sections import DisksConfig, ElasticConfig, IntensityConfig, SimpleConfig
from incasem_like.formatting.label_masks import inside_disks
from incasem_like.samples.appearance import AUGMENTATIONS
from incasem_like.samples.blocks import INSIDE, MASK, BlockReader
from incasem_like.samples.deformation import Box, Deformation, random_deformation
from incasem_like.samples.places import PlaceChooser
from incasem_like.samples.randomness import SampleRandomness
from incasem_like.samples.resampling import resample_linearly, resample_nearest
from incasem_like.samples.settings import SampleSettings

RAW = gp.ArrayKey("RAW")


def label_key(name: str) -> gp.ArrayKey:
    """Return the key of an array of labels, named as `BlockReader` names it."""
    return gp.ArrayKey(f"LABELS_{name}")


class RegionSource(gp.BatchProvider):  # type: ignore[misc]
    """Raw, labels and mask of one region, anywhere in space."""

    def __init__(self, reader: BlockReader, voxel_size: gp.Coordinate) -> None:
        self.reader, self.voxel_size = reader, voxel_size

    def setup(self) -> None:
        """Declare the arrays; unbounded, since `BlockReader` can read everywhere."""
        everywhere = gp.Roi((None,) * 3, (None,) * 3)
        labels = {label_key(name): dtype for name, dtype in {**self.reader.dtypes, INSIDE: np.uint8}.items()}
        for key, dtype in {RAW: np.float32, **labels}.items():
            spec = gp.ArraySpec(roi=everywhere, voxel_size=self.voxel_size, dtype=dtype, interpolatable=key == RAW)
            self.provides(key, spec)

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        """Read the requested blocks."""
        batch = gp.Batch()
        labels = self.reader.read_labels(request[label_key(MASK)].roi / self.voxel_size)  # all have one ROI
        arrays = {label_key(name): array for name, array in labels.items()}
        arrays[RAW] = self.reader.read_raw(request[RAW].roi / self.voxel_size)
        for key, wanted in request.array_specs.items():
            spec = self.spec[key].copy()
            spec.roi = wanted.roi
            batch[key] = gp.Array(arrays[key], spec)
        return batch


class RandomPlace(gp.BatchProvider):  # type: ignore[misc]
    """Moves a request to a random position in one of the upstream regions.

    Like gunpowder's RandomProvider, RandomLocation and Reject together, but checks labels and mask before reading any
    raw, and limits the number of attempts.
    """

    def __init__(
        self, chooser: PlaceChooser, voxel_size: gp.Coordinate, context: gp.Coordinate, randomness: SampleRandomness
    ) -> None:
        self.chooser, self.voxel_size, self.context, self.randomness = chooser, voxel_size, context, randomness

    def setup(self) -> None:
        """Declare the arrays that all regions provide."""
        for key, spec in self.get_upstream_providers()[0].spec.items():
            self.provides(key, spec)

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        """Choose a position, request the blocks there and return them at the requested coordinates."""
        rng = self.randomness.generator("place")
        block = (request[label_key(MASK)].roi / self.voxel_size).grow(-self.context, -self.context)
        place = self.chooser.choose(block, rng)
        self.chooser.latest_raw = request[RAW].roi / self.voxel_size + place.shift
        there = gp.BatchRequest()
        for key, wanted in request.array_specs.items():
            there[key] = gp.ArraySpec(roi=wanted.roi + place.shift * self.voxel_size)
        batch = self.get_upstream_providers()[place.region].request_batch(there)
        for key, wanted in request.array_specs.items():
            batch[key].spec.roi = wanted.roi
        return batch


class Simple(gp.SimpleAugment):  # type: ignore[misc]
    """gunpowder's mirroring and transposing, seeded by the sample."""

    def __init__(self, config: SimpleConfig, step: str, randomness: SampleRandomness) -> None:
        super().__init__(mirror_only=list(config.mirror_only), transpose_only=list(config.transpose_only))
        self.step, self.randomness = step, randomness

    def set_seeds(self, request: gp.BatchRequest) -> None:
        """Seed Python's global generator, from which the node draws."""
        random.seed(int(self.randomness.generator(self.step).integers(2**63)))


class Elastic(gp.BatchFilter):  # type: ignore[misc]
    """Equivalent of gunpowder's ElasticAugment, several times faster; see `Deformation`."""

    def __init__(self, config: ElasticConfig, voxel_size: gp.Coordinate, randomness: SampleRandomness) -> None:
        self.config, self.voxel_size, self.randomness = config, voxel_size, randomness
        self.deformation: Deformation
        self.boxes: dict[gp.ArrayKey, Box]

    def setup(self) -> None:
        """Declare the arrays that change."""
        for key in list(self.spec.array_specs):
            self.updates(key, self.spec[key])

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        """Draw the deformation and request the bounding boxes of its source coordinates."""
        total = request.get_total_roi() / self.voxel_size
        rng = self.randomness.generator("elastic")
        self.deformation = random_deformation(tuple(total.shape), rng, **self.config.model_dump())
        self.boxes = {}
        upstream = gp.BatchRequest()
        for key, wanted in request.array_specs.items():
            begin, end = (
                (wanted.roi / self.voxel_size).begin - total.begin,
                (wanted.roi / self.voxel_size).end - total.begin,
            )
            self.boxes[key] = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))  # type: ignore[assignment]
            lowest, highest = (gp.Coordinate(bound) for bound in self.deformation.bounds(self.boxes[key]))
            source = gp.Roi(total.begin + lowest, highest - lowest + gp.Coordinate(1, 1, 1))
            upstream[key] = gp.ArraySpec(roi=source * self.voxel_size)
        self.begin = total.begin
        return upstream

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        """Read each array at the deformed coordinates."""
        origins = {key: array.spec.roi.begin / self.voxel_size - self.begin for key, array in batch.arrays.items()}
        raw = batch[RAW]
        raw.data = resample_linearly(raw.data, origins[RAW], self.deformation, self.boxes[RAW])
        labels = [key for key in batch.arrays if key != RAW]  # of one ROI
        together = [batch[key].data for key in labels]
        deformed = resample_nearest(together, origins[labels[0]], self.deformation, self.boxes[labels[0]])
        for key, data in zip(labels, deformed, strict=True):
            batch[key].data = data
        for key, array in batch.arrays.items():
            array.spec.roi = request[key].roi


class Intensity(gp.IntensityAugment):  # type: ignore[misc]
    """gunpowder's brightness and contrast in three passes over raw instead of nine, seeded by the sample."""

    def __init__(self, config: IntensityConfig, randomness: SampleRandomness) -> None:
        limits = (1 - config.scale, 1 + config.scale, -config.shift, config.shift)
        super().__init__(RAW, *limits)
        self.randomness = randomness

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        """Compute mean + (raw - mean) * scale + shift, clipped to 0-1."""
        rng = self.randomness.generator("intensity")
        scale = np.float32(rng.uniform(self.scale_min, self.scale_max))
        shift = np.float32(rng.uniform(self.shift_min, self.shift_max))
        raw = batch[RAW].data
        mean = raw.mean()
        raw *= scale
        raw += mean - mean * scale + shift
        np.clip(raw, 0, 1, out=raw)


class Appearance(gp.BatchFilter):  # type: ignore[misc]
    """One of the augmentations of raw alone, in a share of the samples."""

    def __init__(self, name: str, config: Section, randomness: SampleRandomness) -> None:
        self.step, self.config, self.randomness = name, config, randomness

    def setup(self) -> None:
        """Declare the array that changes."""
        self.updates(RAW, self.spec[RAW])

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        """Change raw with the probability of the section; one without has probabilities of its own."""
        rng = self.randomness.generator(self.step)
        if rng.random() < getattr(self.config, "probability", 1.0):
            batch[RAW].data = AUGMENTATIONS[self.step](batch[RAW].data, self.config, rng)


class Disks(gp.BatchFilter):  # type: ignore[misc]
    """Leaves random disks of each z section in the mask, as if only they had been annotated."""

    def __init__(self, config: DisksConfig, context: gp.Coordinate, randomness: SampleRandomness) -> None:
        self.config, self.context, self.randomness = config, context, randomness

    def setup(self) -> None:
        """Declare the array that changes."""
        self.updates(label_key(MASK), self.spec[label_key(MASK)])

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        """Draw the centres, uniform in the block without the context of the labels, and clear the rest of the mask."""
        rng = self.randomness.generator("disks")
        mask = batch[label_key(MASK)]
        low = np.array(self.context[1:]) - 0.5
        high = np.array(mask.data.shape[1:]) - low - 1
        kept = [
            inside_disks(section.shape, rng.uniform(low, high, (self.config.count, 2)), self.config.radius)
            for section in mask.data
        ]
        mask.data = mask.data * np.array(kept, mask.data.dtype)


def sample_pipeline(
    readers: list[BlockReader], chooser: PlaceChooser, settings: SampleSettings, randomness: SampleRandomness
) -> gp.Pipeline:
    """Connect the nodes: regions, position, mirror and transpose, deform, mirror and transpose again, disks, looks."""
    voxel_size = gp.Coordinate(settings.voxel_size_picometres)
    augmentation = settings.augmentation
    pipeline = tuple(RegionSource(reader, voxel_size) for reader in readers) + RandomPlace(
        chooser, voxel_size, gp.Coordinate(settings.label_context), randomness
    )
    if augmentation.simple is not None:
        pipeline += Simple(augmentation.simple, "simple_0", randomness)
    if augmentation.elastic is not None:
        pipeline += Elastic(augmentation.elastic, voxel_size, randomness)
        if augmentation.simple is not None:
            pipeline += Simple(augmentation.simple, "simple_1", randomness)
    if augmentation.disks is not None:
        pipeline += Disks(augmentation.disks, gp.Coordinate(settings.label_context), randomness)
    if augmentation.intensity is not None:
        pipeline += Intensity(augmentation.intensity, randomness)
    for name in AUGMENTATIONS:
        config = getattr(augmentation, name)
        if config is not None:
            pipeline += Appearance(name, config, randomness)
    return pipeline
