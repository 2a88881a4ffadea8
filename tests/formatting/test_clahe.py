"""CLAHE numerics against scikit-image, whole and block by block."""

import numpy as np
import pytest
from skimage.exposure import equalize_adapthist
from skimage.exposure._adapthist import clip_histogram as skimage_clip_histogram
from skimage.util import img_as_ubyte

from incasem_like.formatting.clahe import (
    GreyScale,
    clip_histogram,
    interpolate,
    tables_round,
    tile_grid,
    tile_table,
    to_uint8,
)


def texture(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    grey = np.clip(rng.normal(120, 30, shape) + np.linspace(-60, 60, shape[2]), 0, 255)
    if dtype == np.uint16:
        return (grey * 200 + 1000).astype(dtype)
    return (grey / 255 if dtype == np.float32 else grey).astype(dtype)


def tables_of(binned, kernel, clip_limit=0.02):
    grid = tile_grid(binned.shape, kernel)
    tables = np.empty((*grid, 256), dtype=np.uint16)
    pads = [(0, count * length - size) for count, length, size in zip(grid, kernel, binned.shape, strict=True)]
    whole = np.pad(binned, pads, mode="reflect")
    for tile in np.ndindex(grid):
        window = tuple(slice(i * length, (i + 1) * length) for i, length in zip(tile, kernel, strict=True))
        tables[tile] = tile_table(np.bincount(whole[window].ravel(), minlength=256), clip_limit)
    return tables


def binned_of(image):
    return GreyScale(str(image.dtype), float(image.min()), float(image.max())).bin_of(image)


@pytest.mark.parametrize(
    ("shape", "kernel", "dtype"),
    [
        ((37, 53, 41), (16, 16, 16), np.uint8),
        ((20, 30, 25), (7, 9, 64), np.uint8),
        ((33, 47, 29), (11, 20, 13), np.uint16),
        ((30, 40, 50), (16, 16, 16), np.float32),
        ((5, 6, 7), (24, 24, 24), np.uint8),
        ((1, 30, 40), (16, 16, 16), np.uint8),
    ],
)
def test_equals_skimage_within_one_grey_level(shape, kernel, dtype):
    image = texture(shape, dtype)
    binned = binned_of(image)
    tables = tables_round(tables_of(binned, kernel), (0, 0, 0), shape, kernel)
    levels = interpolate(binned, (0, 0, 0), tables, kernel)
    ours = to_uint8(levels, levels.min(), levels.max()).astype(int)
    theirs = img_as_ubyte(equalize_adapthist(image, kernel_size=kernel, clip_limit=0.02)).astype(int)
    difference = np.abs(ours - theirs)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_a_block_is_the_crop_of_the_whole():
    kernel = (9, 8, 7)
    binned = binned_of(texture((40, 30, 35), np.uint8))
    tables = tables_of(binned, kernel)
    whole = interpolate(binned, (0, 0, 0), tables_round(tables, (0, 0, 0), binned.shape, kernel), kernel)
    for begin, end in [((0, 0, 0), (13, 11, 35)), ((4, 5, 3), (5, 29, 17)), ((21, 17, 19), (40, 30, 35))]:
        window = tuple(slice(low, high) for low, high in zip(begin, end, strict=True))
        shape = tuple(high - low for low, high in zip(begin, end, strict=True))
        block = interpolate(binned[window], begin, tables_round(tables, begin, shape, kernel), kernel)
        np.testing.assert_array_equal(block, whole[window])


def test_clipping_is_skimages_count_by_count():
    rng = np.random.default_rng(1)
    for _ in range(200):
        voxels = int(rng.integers(1, 100_000))
        histogram = rng.multinomial(voxels, rng.dirichlet(np.full(256, rng.choice([0.01, 0.1, 1.0]))))
        limit = max(1, int(voxels * rng.choice([0.001, 0.004, 0.01, 0.02, 0.1])))
        expected = skimage_clip_histogram(histogram.copy(), limit)
        np.testing.assert_array_equal(clip_histogram(histogram.copy(), limit), expected)


def test_a_flat_volume_becomes_black():
    image = np.full((8, 8, 8), 77, dtype=np.uint8)
    binned, kernel = binned_of(image), (8, 8, 8)
    tables = tables_round(tables_of(binned, kernel), (0, 0, 0), image.shape, kernel)
    levels = interpolate(binned, (0, 0, 0), tables, kernel)
    assert to_uint8(levels, levels.min(), levels.max()).max() == 0
