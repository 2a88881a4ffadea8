"""Masks and crops for sparse annotations, compared with numpy on the array at once."""

import numpy as np
import pytest

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.derive import Derivation, derive
from incasem_like.formatting.operations import OPERATIONS
from incasem_like.volumes import open_volume


def run(place, operation, out="out", chunk_shape=(8, 8, 8), **options):
    return open_volume(derive(Derivation(*place, out, chunk_shape), OPERATIONS[operation], **options).address)


@pytest.fixture
def painted():
    labels = np.zeros((20, 40, 30), np.uint32)
    labels[7:9, 11:30, 5] = 4
    labels[12, 20, 3:25] = 9
    return labels


def test_labelled_voxels_are_1(volume_of, painted):
    mask = run(volume_of(painted), "labelled_mask")
    np.testing.assert_array_equal(mask.read(), painted > 0)
    assert mask.dtype == np.uint8


def test_a_class_is_selected_by_its_ids(volume_of):
    labels = np.random.default_rng(0).integers(0, 9, (9, 10, 11)).astype(np.uint64)
    labels[0, 0, 0] = 2**63 + 5
    place = volume_of(labels)
    chosen = run(place, "select", ids=[4, 3, 2**63 + 5])
    np.testing.assert_array_equal(chosen.read(), (labels == 3) | (labels == 4) | (labels == 2**63 + 5))
    for ids in ([0, 3], [2**64]):
        with pytest.raises(InputError, match="labels are from 1 to"):
            run(place, "select", "no", ids=ids)


def test_labels_and_raw_are_cut_out_around_the_annotation(volume_of, painted):
    raw = np.random.default_rng(0).integers(0, 256, (30, 50, 40)).astype(np.uint8)
    place = volume_of(painted, "cell.zarr/labels", begin=(5, 5, 5))
    around = "/".join(place)
    labels = run(place, "crop", "crop/labels", around=around)
    assert (tuple(labels.roi.begin), tuple(labels.shape)) == ((12, 16, 8), (6, 19, 22))
    np.testing.assert_array_equal(labels.read(), painted[7:13, 11:30, 3:25])
    cut = run(volume_of(raw, "cell.zarr/raw"), "crop", "crop/raw", around=around, margin=(2, 0, 1))
    np.testing.assert_array_equal(cut.read(), raw[10:20, 16:35, 7:31])
    empty = volume_of(np.zeros_like(painted), "cell.zarr/empty")
    with pytest.raises(DataError, match="0 everywhere"):
        run(empty, "crop", "no", around="/".join(empty))


def test_disks_have_their_number_and_radius_whatever_the_blocks(volume_of, painted):
    place = volume_of(painted, begin=(3, 100, 7))
    one = run(place, "disks", count=1, radius=4.5, seed=2).read()
    whole = run(place, "disks", "whole", chunk_shape=(20, 40, 30), count=1, radius=4.5, seed=2).read()
    np.testing.assert_array_equal(one, whole)
    for section in one:  # each is the part of one circle that lies inside
        inside = np.argwhere(section)
        far = np.hypot(*(inside[:, None] - inside[None]).transpose(2, 0, 1)).max()
        assert far <= 9
    assert len({section.tobytes() for section in one}) == 20
    areas = one.sum((1, 2))
    assert areas.max() <= np.pi * 5**2
    assert np.median(areas) > np.pi * 3.5**2 / 2
    assert (run(place, "disks", "other", count=1, radius=4.5, seed=3).read() != one).any()
    more = run(place, "disks", "more", count=4, radius=4.5, seed=2).read()
    assert more.sum() > 2 * one.sum()
    with pytest.raises(InputError, match="--count 0"):
        run(place, "disks", "no", count=0, radius=3)
