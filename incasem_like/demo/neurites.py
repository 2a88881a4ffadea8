"""Synthetic neurites and simulated painting, for the demo of bootstrapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from incasem_like.synthetic.random_objects import random_objects
from incasem_like.targets import grow_boundary
from incasem_like.volumes import create_volume

VOXEL_SIZE = (40.0, 8.0, 8.0)
CHUNK = (8, 96, 96)
THICKNESS = 3.0  # of a section in pixels, which limits how far objects move from section to section


def make_neurites(shape: tuple[int, int, int], seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Return raw and labels of neurites: bright, with dark membranes that no label has, and the noise of a detector.

    >>> raw, labels = make_neurites((4, 48, 48), 0)
    >>> float(raw[labels > 0].mean()) > float(raw[labels == 0].mean()) + 30
    True
    """
    rng = np.random.default_rng(seed)
    objects, _ = random_objects("C", shape, rng, THICKNESS)
    labels = grow_boundary(objects, 1, None, (1, 2)).astype(np.uint32)
    grey = np.where(labels > 0, 170, 60) + 25 * ((labels % 5) / 5 - 0.5)
    blurred = ndimage.gaussian_filter(grey.astype(np.float32), (0, 0.7, 0.7))
    raw = np.clip(blurred + rng.normal(0, 12, shape), 0, 255).astype(np.uint8)
    return raw, labels


def paint(labels: NDArray[Any], sections: list[int], share: float, seed: int) -> NDArray[Any]:
    """Return labels of a share of the objects of some sections, as if somebody had painted these; 0 elsewhere."""
    rng, painted = np.random.default_rng(seed), np.zeros_like(labels)
    for section in sections:
        ids = np.unique(labels[section])
        ids = ids[ids > 0]
        chosen = rng.choice(ids, max(1, round(share * len(ids))), replace=False)
        painted[section] = np.where(np.isin(labels[section], chosen), labels[section], 0)
    return painted


def write(container: Path, dataset: str, array: NDArray[Any]) -> str:
    """Write an array as a dataset, and return its address."""
    volume = create_volume(
        container, dataset, shape=array.shape, dtype=array.dtype, voxel_size=VOXEL_SIZE,
        chunk_shape=tuple(min(one, size) for one, size in zip(CHUNK, array.shape, strict=True)), overwrite=True,
    )  # fmt: skip
    volume.write(array)
    volume.mark_complete()
    return str(volume.address)
