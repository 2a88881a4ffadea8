"""Places: uniform in the region, centred where it is too small, by foreground and mask, and never without end."""

from collections import Counter

import numpy as np
import pytest

from incasem_like.errors import DataError
from incasem_like.samples import open_regions
from incasem_like.samples.blocks import BlockReader
from incasem_like.samples.places import PlaceChooser
from incasem_like.volumes import Coordinate, Roi

REQUEST = Roi((6, 6, 6), (12, 12, 12))


def chooser(cell, settings, *entries):
    regions = open_regions(cell.config(*entries), num_classes=2, voxel_size=settings.voxel_size, need_labels=True)
    readers = [BlockReader(region, Coordinate(0, 0, 0), 1 << 20, 1 << 20) for region in regions]
    return PlaceChooser(readers, settings)


def test_the_block_takes_every_position_in_the_region_alike(cell, make_settings):
    entry = cell.entry(offset=(6, 6, 6), shape=(14, 13, 12))
    choose, rng = chooser(cell, make_settings(), entry), np.random.default_rng(0)
    begins = Counter(tuple((REQUEST + choose.choose(REQUEST, rng).shift).begin) for _ in range(1200))
    assert set(begins) == {(z, y, 6) for z in (6, 7, 8) for y in (6, 7)}
    assert min(begins.values()) > 150


def test_along_an_axis_where_the_region_is_shorter_the_block_is_centred(cell, make_settings):
    entry = cell.entry(offset=(6, 6, 6), shape=(8, 20, 5))
    choose, rng = chooser(cell, make_settings(), entry), np.random.default_rng(0)
    begins = {tuple((REQUEST + choose.choose(REQUEST, rng).shift).begin) for _ in range(50)}
    assert {z for z, _, _ in begins} == {4}
    assert {x for _, _, x in begins} == {2}
    assert {y for _, y, _ in begins} == set(range(6, 15))


def test_a_larger_request_is_placed_by_the_block_at_its_centre(cell, make_settings):
    entry = cell.entry(offset=(6, 6, 6), shape=(12, 12, 12))
    choose = chooser(cell, make_settings(), entry)
    larger = Roi((2, 1, 5), (20, 18, 14))
    assert choose.choose(larger, np.random.default_rng(0)).shift == Coordinate(0, 2, 0)


def test_regions_are_chosen_in_proportion_to_their_volume(cell, make_settings):
    entries = (
        cell.entry("a", offset=(4, 4, 4), shape=(24, 12, 12)),
        cell.entry("b", offset=(4, 4, 4), shape=(12, 12, 12)),
    )
    choose, rng = chooser(cell, make_settings(), *entries), np.random.default_rng(0)
    chosen = [choose.choose(REQUEST, rng).region for _ in range(1500)]
    assert np.mean(chosen) == pytest.approx(1 / 3, abs=0.05)


def test_regions_with_weights_are_chosen_in_proportion_to_them(cell, make_settings):
    entries = (
        cell.entry("a", offset=(4, 4, 4), shape=(24, 12, 12), weight=1),
        cell.entry("b", offset=(4, 4, 4), shape=(12, 12, 12), weight=3.0),
    )
    choose, rng = chooser(cell, make_settings(), *entries), np.random.default_rng(0)
    chosen = [choose.choose(REQUEST, rng).region for _ in range(1500)]
    assert np.mean(chosen) == pytest.approx(3 / 4, abs=0.05)


@pytest.mark.parametrize(("exclusive", "share"), [(False, 1.0), (True, 0.5)])
def test_where_classes_overlap_is_foreground_only_if_they_do_not_exclude_each_other(
    cell, make_settings, exclusive, share
):
    both = np.ones((32, 36, 40), np.uint8)
    half = both.copy()
    half[:, :, 20:] = 0
    cell.put("volumes/labels/er", both, offset=(4, 4, 4))
    cell.put("volumes/labels/golgi", half, offset=(4, 4, 4))
    settings = make_settings(num_classes=3, targets=[{"type": "classes", "exclusive": exclusive}])
    labels = {"volumes/labels/er": 1, "volumes/labels/golgi": 2}
    entry = cell.entry(offset=(4, 4, 4), shape=(12, 12, 40), labels=labels)
    regions = open_regions(cell.config(entry), num_classes=3, voxel_size=settings.voxel_size, need_labels=True)
    readers = [BlockReader(one, Coordinate(0, 0, 0), 1 << 20, 1 << 20, settings.instance_classes) for one in regions]
    foreground, mask = PlaceChooser(readers, settings)._shares(0, Roi((4, 4, 4), (12, 12, 40)))
    assert (foreground, mask) == (share, 1.0)


def test_places_with_little_foreground_are_rejected_with_the_given_probability(cell, make_settings):
    labels = np.zeros((32, 36, 40), np.uint8)
    labels[:, :, :20] = 1
    cell.put("volumes/labels/er", labels, offset=(4, 4, 4))
    entry = cell.entry(offset=(4, 4, 4), shape=(12, 12, 40))
    settings = make_settings(reject={"min_masked": 0.5, "reject_probability": 0.8})
    choose, rng = chooser(cell, settings, entry), np.random.default_rng(0)
    begins = np.array([(REQUEST + choose.choose(REQUEST, rng).shift).begin[2] for _ in range(1500)])
    # 15 of 29 positions have half their voxels in the labels; of the other 14, a fifth passes.
    expected = 14 * 0.2 / (15 + 14 * 0.2)
    assert np.mean(begins > 18) == pytest.approx(expected, abs=0.04)


def test_a_region_with_little_mask_yields_to_another(cell, make_settings):
    mask = np.zeros((40, 44, 48), np.uint8)
    mask[:, :, :24] = 1
    cell.put("volumes/mask", mask)
    fields = {"shape": (12, 12, 12), "mask": "volumes/mask"}
    entries = (cell.entry("masked", offset=(4, 4, 26), **fields), cell.entry("free", offset=(4, 4, 6), **fields))
    settings = make_settings(reject={"mask_reject_probability": 1.0})
    choose, rng = chooser(cell, settings, *entries), np.random.default_rng(0)
    assert {choose.choose(REQUEST, rng).region for _ in range(50)} == {1}


def test_a_region_smaller_than_the_block_is_not_rejected_for_what_lies_beyond_it(cell, make_settings):
    cell.put("volumes/labels/er", np.ones((32, 36, 40), np.uint8), offset=(4, 4, 4))
    entry = cell.entry(offset=(6, 6, 6), shape=(3, 3, 3))
    settings = make_settings(reject={"min_masked": 1.0, "reject_probability": 1.0, "mask_reject_probability": 1.0})
    assert chooser(cell, settings, entry).choose(REQUEST, np.random.default_rng(0)).region == 0


@pytest.mark.parametrize(
    ("reject", "part"),
    [
        ({"min_masked": 0.9, "reject_probability": 1.0}, r"min_masked=0\.9 \(best: 0\.3"),
        ({"mask_reject_probability": 1.0}, r"min_mask_fraction=0\.75"),
    ],
)
def test_no_acceptable_place_is_one_sentence_instead_of_an_endless_search(cell, make_settings, reject, part):
    cell.put("volumes/mask", np.zeros((40, 44, 48), np.uint8))
    entry = cell.entry(offset=(6, 6, 6), shape=(20, 20, 20), mask="volumes/mask")
    with pytest.raises(DataError, match=part):
        chooser(cell, make_settings(reject=reject), entry).choose(REQUEST, np.random.default_rng(0))
