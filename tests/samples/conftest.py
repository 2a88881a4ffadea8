"""A small container written with zarr-python, and configurations that point into it."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from incasem_like.config import DataConfig, DataEntry
from incasem_like.config.target_sections import parse_targets
from incasem_like.config.training_sections import AugmentationConfig, RejectConfig
from incasem_like.samples import SampleSettings

VOXEL_SIZE = (4.6, 5.0, 5.0)


class Container:
    """A Zarr container in which a test puts what it needs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = zarr.open_group(str(path), mode="w")

    def put(self, dataset, array, offset=(0, 0, 0), voxel_size=VOXEL_SIZE):
        """Write an array; ``offset`` is in voxels, ``voxel_size`` None leaves the attributes out."""
        chunks = tuple(min(16, size) for size in array.shape)
        written = self.root.create_dataset(dataset, data=array, chunks=chunks, overwrite=True)
        if voxel_size is not None:
            written.attrs["resolution"] = list(voxel_size)
            written.attrs["offset"] = [o * v for o, v in zip(offset, voxel_size, strict=True)]
        return array

    def entry(self, name="cell_1", **fields):
        """Make an entry of a data configuration."""
        stated = {"raw": "volumes/raw", "labels": {"volumes/labels/er": 1}, "voxel_size": VOXEL_SIZE, **fields}
        return DataEntry(name=name, file=self.path, **stated)

    def config(self, *entries):
        """Make a data configuration."""
        return DataConfig(path=self.path.parent / "data.json", entries=entries, text="{}")


@pytest.fixture
def container(tmp_path):
    return Container(tmp_path / "cell_1.zarr")


@pytest.fixture
def cell(container):
    """Raw of 40 x 44 x 48 voxels; labels begin 4 voxels later, in z, y and x, and are ids of instances."""
    rng = np.random.default_rng(7)
    container.put("volumes/raw", rng.integers(0, 256, (40, 44, 48), dtype=np.uint8))
    ids = rng.integers(1, 900, (32, 36, 40), dtype=np.uint64)
    container.put("volumes/labels/er", np.where(rng.random(ids.shape) < 0.3, ids, 0), offset=(4, 4, 4))
    container.put("volumes/mask", np.ones((40, 44, 48), np.uint8) * 255)
    return container


@pytest.fixture
def make_settings():
    def make(input_size=(24, 24, 24), output_size=(12, 12, 12), reject=None, **changes):
        off = {"simple": None, "elastic": None, "intensity": None}
        augmentation = changes.pop("augmentation", AugmentationConfig(**off))
        stated = {"voxel_size": VOXEL_SIZE, "num_classes": 2, **changes}
        targets = parse_targets(stated.pop("targets", ["classes"]))
        stated["targets"] = tuple(target.resolved(stated["num_classes"]) for target in targets)
        return SampleSettings(
            input_size=input_size,
            output_size=output_size,
            reject=RejectConfig(**{"min_masked": 0.0, **(reject or {})}),
            augmentation=augmentation,
            **stated,
        )

    return make


@pytest.fixture
def full_augmentation():
    """All augmentations at a size that suits blocks of 24 voxels; z is not exchanged, its voxels are smaller."""
    return AugmentationConfig(
        simple={"transpose_only": (1, 2)}, elastic={"control_point_spacing": (8, 8, 8), "jitter_sigma": (1, 1, 1)}
    )
