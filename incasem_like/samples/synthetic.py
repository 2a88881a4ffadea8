"""Training samples of random objects, for networks that read what another network predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from incasem_like.samples.appearance import AUGMENTATIONS
from incasem_like.samples.deformation import random_deformation
from incasem_like.samples.randomness import SampleRandomness
from incasem_like.samples.resampling import resample_nearest
from incasem_like.samples.settings import SampleSettings, Size
from incasem_like.synthetic.obfuscation import Faults, obfuscate
from incasem_like.synthetic.random_objects import random_objects
from incasem_like.targets import LabelBlock, class_fractions

Array = NDArray[Any]
MAX_LENGTH = 1 << 62
WHOLE_SECTIONS = ("defects",)  # what happens to a section, happens to all of its channels


class SyntheticSamples(Dataset[dict[str, Any]]):
    """Random objects: the network reads targets computed from objects with faults, and learns those without.

    Sample i depends on (seed, i) alone. Samples are those of `TrainingSamples`, but for ``raw``, which has the channels
    of what the network reads, from -1 to 1. Objects look alike mirrored and transposed, so these augmentations are not
    applied; those of intensity and appearance change each channel by itself.

    Args:
        settings: Parameters of the samples, with ``synthetic``.
        seed: The run's seed, at least 0.
    """

    def __init__(self, settings: SampleSettings, seed: int) -> None:
        assert settings.synthetic is not None
        self.settings, self.seed, self.synthetic = settings, seed, settings.synthetic
        contexts = [target.context(settings.voxel_size) for target in settings.input_targets]
        self._input_context = _widest(contexts)
        pairs = zip(self._input_context, settings.label_context, settings.raw_context, strict=True)
        z, y, x = (max(of_input, of_labels - raw) for of_input, of_labels, raw in pairs)
        self._margin: Size = (z, y, x)

    def __len__(self) -> int:
        """Return a practically infinite length, which torch requires of a map-style dataset."""
        return MAX_LENGTH

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Make a sample."""
        settings, synthetic, randomness = self.settings, self.synthetic, SampleRandomness()
        randomness.begin(self.seed, index)
        clean = self._objects(randomness)
        faults = Faults(synthetic.fault_tries, synthetic.split, synthetic.merge, synthetic.artefact)
        faulty, _ = obfuscate(clean, faults, randomness.generator("faults"))
        context = self._input_context
        around = [edge - reach for edge, reach in zip(self._margin, context, strict=True)]
        block = _block(_inset(faulty, around), settings.voxel_size, context)
        channels = np.concatenate([target.make(block)[0] for target in settings.input_targets]).astype(np.float32)
        read = self._augmented(channels, randomness)
        context = settings.label_context
        sizes = zip(self._margin, settings.raw_context, context, strict=True)
        block = _block(_inset(clean, [m + raw - reach for m, raw, reach in sizes]), settings.voxel_size, context)
        made = {target.name: target.make(block) for target in settings.targets}
        labels, mask = block.crop(block.classes), block.crop(block.mask)
        return {
            "raw": read * 2 - 1,
            "labels": labels,
            "mask": mask,
            "instances": block.crop(block.instances[1]).astype(np.int64),
            "targets": {name: {"target": target, "weight": weight} for name, (target, weight) in made.items()},
            "info": {
                "index": index,
                "region": 0,
                "offset": np.zeros(3),
                "shape": np.array(settings.input_size) * np.array(settings.voxel_size),
                "class_fractions": class_fractions(labels, mask, settings.num_classes).astype(np.float32),
            },
        }

    def _objects(self, randomness: SampleRandomness) -> NDArray[np.uint32]:
        """Return objects of the input block and a margin, deformed."""
        size = self.settings.input_size
        z, y, x = (length + 2 * edge for length, edge in zip(size, self._margin, strict=True))
        voxel_size, elastic = self.settings.voxel_size, self.settings.augmentation.elastic
        rng, thickness = randomness.generator("objects"), voxel_size[0] / voxel_size[1]
        if elastic is None:
            return random_objects(self.synthetic.objects, (z, y, x), rng, thickness)[0]
        deformation = random_deformation((z, y, x), randomness.generator("elastic"), **elastic.model_dump())
        box = (slice(0, z), slice(0, y), slice(0, x))
        lowest, highest = deformation.bounds(box)
        depth, height, width = (high - low + 1 for low, high in zip(lowest, highest, strict=True))
        labels, _ = random_objects(self.synthetic.objects, (depth, height, width), rng, thickness)
        deformed: NDArray[np.uint32] = resample_nearest([labels], lowest, deformation, box)[0]
        return deformed

    def _augmented(self, channels: NDArray[np.float32], randomness: SampleRandomness) -> NDArray[np.float32]:
        """Change the channels as predictions vary; values stay from 0 to 1."""
        augmentation = self.settings.augmentation
        if (intensity := augmentation.intensity) is not None:
            rng = randomness.generator("intensity")
            shape = (len(channels), 1, 1, 1)
            scale = 1 + rng.uniform(-intensity.scale, intensity.scale, shape).astype(np.float32)
            shift = rng.uniform(-intensity.shift, intensity.shift, shape).astype(np.float32)
            mean = channels.mean(axis=(1, 2, 3), keepdims=True)
            channels = np.clip((channels - mean) * scale + mean + shift, 0, 1)
        for name, augment in AUGMENTATIONS.items():
            config = getattr(augmentation, name)
            rng = randomness.generator(name)
            if config is None or rng.random() >= getattr(config, "probability", 1.0):
                continue
            seeds = rng.integers(2**63, size=1 if name in WHOLE_SECTIONS else len(channels))
            channels = np.stack([
                augment(channel, config, np.random.default_rng(seeds[number % len(seeds)]))
                for number, channel in enumerate(channels)
            ])  # fmt: skip
        return np.clip(channels, 0, 1)


def _widest(contexts: Sequence[Size]) -> Size:
    z, y, x = (max(sizes) for sizes in zip(*contexts, strict=True))
    return z, y, x


def _inset(labels: NDArray[np.uint32], edges: Sequence[int]) -> NDArray[np.uint32]:
    return labels[tuple(slice(edge, size - edge) for edge, size in zip(edges, labels.shape, strict=True))]


def _block(labels: NDArray[np.uint32], voxel_size: tuple[float, float, float], context: Size) -> LabelBlock:
    known = np.ones(labels.shape, np.uint8)
    return LabelBlock((labels > 0).astype(np.uint8), {1: labels}, known, known, voxel_size, context)
