"""Painted pixels kept from training, tile by tile, against counts of the whole array."""

import numpy as np
import pytest
from bootstrapping_laboratory import write

from incasem_like.bootstrapping.held_out import hold_out
from incasem_like.errors import DataError
from incasem_like.volumes import Roi, open_volume


def painted(folder, seed=0, shape=(6, 200, 170), begin=(3, 5, 7)):
    mask = np.zeros(shape, np.uint8)
    for z, y, x in np.random.default_rng(seed).integers((0, 0, 0), (6, 140, 110), (12, 3)):
        mask[z, y : y + 60, x : x + 50] = 1
    mask[2] = 0
    return open_volume(write(folder, "painting/mask", mask, begin)), mask


def test_a_share_of_the_painted_pixels_is_kept_in_whole_tiles(tmp_path):
    volume, mask = painted(tmp_path)
    held = hold_out(volume, 0.2, 1, {}, num_workers=1)
    learnt, kept = held.learnt.read(), held.held_out.read()
    assert np.array_equal(learnt + kept, mask)
    assert held.voxels == kept.sum() == pytest.approx(0.2 * mask.sum(), abs=32 * 32)
    assert held.learnt.roi == volume.roi
    for z in range(6):
        for y in range(0, 200, 32):
            for x in range(0, 170, 32):
                tile = (z, slice(y, y + 32), slice(x, x + 32))
                assert not (learnt[tile].any() and kept[tile].any())
    covered = np.zeros_like(mask)
    for box in held.boxes:
        covered[(box - Roi((3, 5, 7), (1, 1, 1)).begin).to_slices()] = 1
    assert covered[kept > 0].all()
    assert {3 + z for z in range(6) if learnt[z].any()} == set(held.sections)


def test_the_choice_depends_on_the_seed_alone(tmp_path):
    found = []
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        volume, _ = painted(tmp_path / name)
        found.append(hold_out(volume, 0.2, seed, {}, num_workers=1).held_out.read())
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_little_painting_is_divided_into_smaller_tiles_and_too_little_refused(tmp_path):
    mask = np.zeros((1, 40, 40), np.uint8)
    mask[0, 2:14, 2:14] = 1
    held = hold_out(open_volume(write(tmp_path, "a/mask", mask)), 0.1, 1, {}, num_workers=1)
    assert 0 < held.voxels <= 2 * 16
    with pytest.raises(DataError, match=r"Only 4 pixels are painted.*set round\.validation_share=0"):
        hold_out(open_volume(write(tmp_path, "b/mask", mask * 0 + (np.indices(mask.shape)[1:] < 2).all(0))), 0.1, 1, {})
