"""Making sample number i: the pipeline is built once per process and run once per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gunpowder as gp
import numpy as np

from incasem_like.samples.blocks import CLASSES, INSIDE, MASK, WEIGHTS, BlockReader, instances_of, label_block
from incasem_like.samples.nodes import RAW, label_key, sample_pipeline
from incasem_like.samples.places import PlaceChooser
from incasem_like.samples.randomness import SampleRandomness, global_randomness_kept
from incasem_like.samples.regions import Region
from incasem_like.samples.resampling import contiguous
from incasem_like.samples.settings import SampleSettings
from incasem_like.targets import class_fractions
from incasem_like.volumes import Coordinate


class SampleMaker:
    """Makes training samples from regions; belongs to one process."""

    def __init__(self, regions: Sequence[Region], settings: SampleSettings, memory_bytes: int) -> None:
        """Build the pipeline.

        Args:
            regions: Regions to sample from.
            settings: Parameters of the samples.
            memory_bytes: Memory in which this process may cache regions, half of it for labels and mask.
        """
        self.settings = settings
        self.randomness = SampleRandomness()
        extents = (INSIDE,) if settings.instance_classes else ()
        weighted = any(region.weights is not None for region in regions)
        weights = (WEIGHTS,) if weighted else ()
        self.label_names = (CLASSES, MASK, *extents, *weights, *map(instances_of, settings.instance_classes))
        readers = _readers(regions, settings, memory_bytes, weighted)
        self.chooser = PlaceChooser(readers, settings)
        self.pipeline = sample_pipeline(readers, self.chooser, settings, self.randomness)
        self.pipeline.setup()
        self.request = _request(settings, self.label_names)

    def make(self, seed: int, index: int) -> dict[str, Any]:
        """Make sample number ``index`` of the run with this seed.

        Returns:
            See `TrainingSamples`.
        """
        self.randomness.begin(seed, index)
        with global_randomness_kept():
            try:
                batch = self.pipeline.request_batch(self.request.copy())
            except gp.PipelineRequestError as error:
                raise _cause(error) from None
        raw = batch[RAW].data
        network_input = np.empty((1, *raw.shape), dtype=np.float32)
        np.multiply(raw, 2, out=network_input[0])
        network_input -= 1
        arrays = {name: contiguous(batch[label_key(name)].data) for name in self.label_names}
        settings = self.settings
        block = label_block(arrays, settings.instance_classes, settings.downsampled_voxel_size, settings.label_context)
        sample = {"raw": network_input, "labels": block.crop(block.classes), "mask": block.crop(block.mask)}
        if settings.instance_classes:
            sample["instances"] = block.crop(block.merged_instances()).astype(np.int64)
        made = {target.name: target.weighted(block) for target in settings.targets}
        targets = {name: {"target": target, "weight": weight} for name, (target, weight) in made.items()}
        info = self._info(index, class_fractions(sample["labels"], sample["mask"], settings.num_classes))
        return {**sample, "targets": targets, "info": info}

    def _info(self, index: int, fractions: np.ndarray[Any, Any]) -> dict[str, Any]:
        place, voxel_size = self.chooser.latest, self.settings.voxel_size_picometres
        roi = self.chooser.latest_raw * Coordinate(voxel_size)
        return {
            "index": index,
            "region": place.region,
            "offset": np.array(roi.begin) / 1000,
            "shape": np.array(roi.shape) / 1000,
            "class_fractions": fractions.astype(np.float32),
        }


def _request(settings: SampleSettings, label_names: Sequence[str]) -> gp.BatchRequest:
    voxel_size = Coordinate(settings.voxel_size_picometres)
    request = gp.BatchRequest()
    request[RAW] = gp.ArraySpec(roi=gp.Roi((0, 0, 0), Coordinate(settings.input_size) * voxel_size))
    block = gp.Roi(Coordinate(settings.raw_context) * voxel_size, Coordinate(settings.output_size) * voxel_size)
    context = Coordinate(settings.label_context) * voxel_size
    for name in label_names:
        request[label_key(name)] = gp.ArraySpec(roi=block.grow(context, context))
    return request


def _readers(
    regions: Sequence[Region], settings: SampleSettings, memory_bytes: int, weighted: bool
) -> list[BlockReader]:
    """Divide the memory, half for labels and mask, half for raw; small regions first, so that most are cached."""
    margin = Coordinate(
        max(0, -(-(wide - out) // 2)) for wide, out in zip(settings.largest_request, settings.output_size, strict=True)
    )
    raw_left = label_left = memory_bytes // 2
    readers: dict[int, BlockReader] = {}
    for number in sorted(range(len(regions)), key=lambda number: regions[number].roi.size):
        readers[number] = BlockReader(
            regions[number], margin, raw_left, label_left, settings.instance_classes, weighted
        )
        raw_left -= readers[number].raw_bytes_held
        label_left -= readers[number].label_bytes_held
    return [readers[number] for number in range(len(regions))]


def _cause(error: BaseException) -> BaseException:
    """Return the original error: gunpowder wraps an error once per node and keeps only its text."""
    while error.__context__ is not None:
        error = error.__context__
    return error
