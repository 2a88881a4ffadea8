"""Augmentations of what raw looks like, on arrays: each draws from a generator and returns raw from 0 to 1.

Sections are those along z. `AUGMENTATIONS` lists them in the order of the pipeline: intensities as the microscope and
its operator set them, then blur and noise as the detector adds them, then what happens to sections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from incasem_like.config.appearance_sections import (
    BlurConfig,
    ClaheConfig,
    DefectsConfig,
    GammaConfig,
    GaussianNoiseConfig,
    ImpulseNoiseConfig,
    OcclusionConfig,
    PoissonNoiseConfig,
    SectionIntensityConfig,
)
from incasem_like.formatting.clahe import GREY_LEVELS, GreyScale, interpolate, tables_round, tile_grid, tile_table

Raw = NDArray[np.float32]
STAINED = (0.02, 0.2)  # range of the share of a section that its stains cover


def vary_section_intensity(raw: Raw, config: SectionIntensityConfig, rng: np.random.Generator) -> Raw:
    """Multiply the contrast of each section about its mean, and shift its brightness."""
    scale = 1 + rng.uniform(-config.scale, config.scale, (len(raw), 1, 1)).astype(np.float32)
    shift = rng.uniform(-config.shift, config.shift, (len(raw), 1, 1)).astype(np.float32)
    mean = raw.mean(axis=(1, 2), keepdims=True)
    return _clipped(raw * scale + (mean - mean * scale + shift))


def correct_gamma(raw: Raw, config: GammaConfig, rng: np.random.Generator) -> Raw:
    """Raise raw to a random power."""
    count = len(raw) if config.per_section else 1
    return np.asarray(raw ** rng.uniform(*config.gamma, (count, 1, 1)).astype(np.float32))


def equalise(raw: Raw, config: ClaheConfig, rng: np.random.Generator) -> Raw:
    """Equalise histograms adaptively (CLAHE) with a random limit of contrast, as ``skimage.equalize_adapthist``."""
    scale = GreyScale("float32", 0.0, 1.0)
    binned = scale.bin_of(raw)
    kernel = tuple(min(length, size) for length, size in zip(config.kernel_size, raw.shape, strict=True))
    grid = tile_grid(raw.shape, kernel)
    beyond = [(0, count * length - size) for count, length, size in zip(grid, kernel, raw.shape, strict=True)]
    padded = np.pad(binned, beyond, mode="reflect")
    limit = float(rng.uniform(*config.clip_limit))
    tables = np.empty((*grid, scale.bins), dtype=np.uint16)
    for tile in np.ndindex(*grid):
        part = tuple(slice(at * length, (at + 1) * length) for at, length in zip(tile, kernel, strict=True))
        tables[tile] = tile_table(np.bincount(padded[part].reshape(-1), minlength=scale.bins), limit)
    needed = tables_round(tables, (0, 0, 0), raw.shape, kernel)
    return interpolate(binned, (0, 0, 0), needed, kernel) / np.float32(GREY_LEVELS - 1)


def blur(raw: Raw, config: BlurConfig, rng: np.random.Generator) -> Raw:
    """Blur each section by a Gaussian of random width; never across sections."""
    widths = rng.uniform(*config.sigma, len(raw))
    return np.stack([ndimage.gaussian_filter(section, width) for section, width in zip(raw, widths, strict=True)])


def add_poisson_noise(raw: Raw, config: PoissonNoiseConfig, rng: np.random.Generator) -> Raw:
    """Replace each voxel by a Poisson count of that mean, scaled back."""
    counts = rng.uniform(*config.counts)
    return _clipped((rng.poisson(raw * counts) / counts).astype(np.float32))


def add_gaussian_noise(raw: Raw, config: GaussianNoiseConfig, rng: np.random.Generator) -> Raw:
    """Add Gaussian noise."""
    width = np.float32(rng.uniform(*config.std))
    return _clipped(raw + rng.standard_normal(raw.shape, dtype=np.float32) * width)


def add_impulse_noise(raw: Raw, config: ImpulseNoiseConfig, rng: np.random.Generator) -> Raw:
    """Make a random share of the voxels black or white, half of them each."""
    share = rng.uniform(*config.share)
    drawn = rng.random(raw.shape, dtype=np.float32)
    return np.where(drawn < share, np.float32(drawn < share / 2), raw)


def add_defects(raw: Raw, config: DefectsConfig, rng: np.random.Generator) -> Raw:
    """Let sections be missing, pale or stained."""
    damaged = raw.copy()
    shares = (config.missing, config.low_contrast, config.artefact)
    kinds = np.searchsorted(np.cumsum(shares), rng.random(len(raw)), side="right")
    damaged[kinds == 0] = 0
    for z in np.flatnonzero(kinds == 1):
        mean = raw[z].mean()
        damaged[z] = mean + (raw[z] - mean) * np.float32(config.contrast)
    for z in np.flatnonzero(kinds == 2):
        stains = ndimage.gaussian_filter(rng.standard_normal(raw.shape[1:]), max(1.0, min(raw.shape[1:]) / 16))
        stained = stains > np.quantile(stains, 1 - rng.uniform(*STAINED))
        density = ndimage.gaussian_filter(stained.astype(np.float32), 1.0)
        damaged[z] += (np.float32(rng.integers(2)) - damaged[z]) * density * np.float32(rng.uniform(0.5, 1))
    return damaged


def occlude(raw: Raw, config: OcclusionConfig, rng: np.random.Generator) -> Raw:
    """Make a box black that lies wholly in the block, anywhere."""
    size = [min(length, extent) for length, extent in zip(config.size, raw.shape, strict=True)]
    begin = [int(rng.integers(extent - length, endpoint=True)) for length, extent in zip(size, raw.shape, strict=True)]
    hidden = raw.copy()
    hidden[tuple(slice(first, first + length) for first, length in zip(begin, size, strict=True))] = 0
    return hidden


def _clipped(raw: Raw) -> Raw:
    return np.clip(raw, 0, 1, out=raw)


AUGMENTATIONS: Mapping[str, Callable[[Raw, Any, np.random.Generator], Raw]] = {
    "section_intensity": vary_section_intensity,
    "gamma": correct_gamma,
    "clahe": equalise,
    "blur": blur,
    "poisson_noise": add_poisson_noise,
    "gaussian_noise": add_gaussian_noise,
    "impulse_noise": add_impulse_noise,
    "defects": add_defects,
    "occlusion": occlude,
}
