"""Blocks: context from beyond the region, mirrored beyond the volume, nothing known beyond the region."""

import numpy as np
import pytest

from incasem_like.samples import open_regions
from incasem_like.samples.blocks import BlockReader
from incasem_like.volumes import Coordinate, Roi

BUDGETS = [0, 1 << 20]


@pytest.fixture
def region(cell):
    entry = cell.entry(offset=(6, 6, 6), shape=(20, 22, 24), mask="volumes/mask")
    return open_regions(cell.config(entry), num_classes=2, voxel_size=entry.voxel_size, need_labels=True)[0]


@pytest.mark.parametrize("budget", BUDGETS)
def test_raw_comes_from_beyond_the_region_and_is_mirrored_beyond_the_volume(region, cell, budget):
    raw = cell.root["volumes/raw"][:]
    reader = BlockReader(region, Coordinate(4, 4, 4), budget, budget)
    inside = Roi((1, 2, 3), (30, 30, 30))
    np.testing.assert_array_equal(reader.read_raw(inside), raw[1:31, 2:32, 3:33] * np.float32(1 / 255))
    beyond = Roi((-9, 30, 40), (60, 30, 20))
    padded = np.pad(raw, ((9, 11), (0, 16), (0, 12)), mode="reflect")[:, 30:60, 40:60]
    np.testing.assert_array_equal(reader.read_raw(beyond), padded * np.float32(1 / 255))


@pytest.mark.parametrize("budget", BUDGETS)
def test_labels_and_mask_end_with_the_region(region, cell, budget):
    reader = BlockReader(region, Coordinate(4, 4, 4), budget, budget)
    wanted = Roi((0, 0, 0), (40, 44, 48))
    read = reader.read_labels(wanted)
    labels, mask = read["classes"], read["mask"]
    expected = np.zeros((40, 44, 48), np.uint8)
    expected[6:26, 6:28, 6:30] = cell.root["volumes/labels/er"][2:22, 2:24, 2:26] > 0
    np.testing.assert_array_equal(labels, expected)
    inside = np.zeros_like(mask)
    inside[6:26, 6:28, 6:30] = 1
    np.testing.assert_array_equal(mask, inside)
    np.testing.assert_array_equal(read["inside"], inside)
    apart = reader.read_labels(Roi((100, 0, 0), (5, 5, 5)))
    assert not np.any(list(apart.values()))


@pytest.mark.parametrize("budget", BUDGETS)
def test_instance_ids_are_read_as_stored_and_end_with_the_region(region, cell, budget):
    stored = cell.root["volumes/labels/er"][:]
    reader = BlockReader(region, Coordinate(0, 0, 0), 0, budget * 64, instance_classes=(1, 2))
    ids = reader.read_labels(Roi((0, 0, 0), (40, 44, 48)))
    expected = np.zeros((40, 44, 48), np.uint64)
    expected[6:26, 6:28, 6:30] = stored[2:22, 2:24, 2:26]
    np.testing.assert_array_equal(ids["instances_1"], expected)
    assert ids["instances_1"].dtype == stored.dtype
    assert not ids["instances_2"].any(), "the entry has no such labels"


def test_what_is_held_in_memory_stays_within_its_budget(region):
    needs = 2 * region.roi.size
    assert BlockReader(region, Coordinate(0, 0, 0), 0, needs).label_bytes_held == needs
    assert BlockReader(region, Coordinate(0, 0, 0), 0, needs - 1).label_bytes_held == 0
    assert BlockReader(region, Coordinate(0, 0, 0), region.roi.size, 0).raw_bytes_held == region.roi.size
