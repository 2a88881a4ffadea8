"""The foreground mask of a volume in blocks is that of scikit-image for the whole array."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import measure, morphology

from incasem_like.errors import InputError
from incasem_like.formatting.derive import Derivation
from incasem_like.formatting.foreground_mask import create_mask
from incasem_like.volumes import open_volume


def remove_small(mask, size):
    parts = measure.label(mask, connectivity=1)
    sizes = np.bincount(parts.ravel())
    return mask & (sizes >= size)[parts]


def whole(raw, minimum, maximum, hole_size, object_size):
    found = (raw > minimum) & (raw < maximum)
    found = morphology.opening(found, morphology.ball(3))
    found = morphology.closing(found, morphology.ball(2)).astype(bool)
    found = ~remove_small(~found, hole_size)
    return remove_small(found, object_size)


@pytest.fixture
def raw():
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(40, 45, 38)), 2)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


@pytest.mark.parametrize("limits", [(90, 150), (2, 120), (125, 256)])
@pytest.mark.parametrize("sizes", [(1, 1), (600, 700), (4000, 100), (10**6, 10)])
def test_no_seams_between_blocks(volume_of, raw, limits, sizes):
    place = volume_of(raw)
    derivation = Derivation(*place, "volumes/mask", (16, 12, 20))
    options = {"minimum": limits[0], "maximum": limits[1], "hole_size": sizes[0], "object_size": sizes[1]}
    written = create_mask(derivation, **options)
    found = open_volume(written.address)
    np.testing.assert_array_equal(found.read(), whole(raw, **options))
    before = whole(raw, *limits, 1, 1)
    assert f"removed {(before & ~found.read().astype(bool)).sum()} voxels" in written.note
    assert found.provenance["parameters"] == options
    assert create_mask(derivation, **options).already_complete


def test_the_examples_have_holes_and_objects_of_all_sizes(raw):
    masks = [whole(raw, 90, 150, *sizes) for sizes in [(1, 1), (600, 1), (600, 700)]]
    assert len({mask.sum() for mask in masks}) == 3


def test_a_filled_hole_joins_the_objects_around_it(volume_of):
    slab = np.zeros((60, 30, 30), np.uint8)  # the second half is empty: whole blocks of one value
    slab[5:25, 5:25, 5:25] = 100
    slab[5:25, 14, 5:25] = 0  # a sheet without resin between two halves, closed by the ball of 2 voxels
    options = {"minimum": 2, "maximum": 180, "hole_size": 5000, "object_size": 7000}
    written = create_mask(Derivation(*volume_of(slab), "mask", (8, 8, 8)), **options)
    np.testing.assert_array_equal(open_volume(written.address).read(), whole(slab, **options))


def test_nothing_is_left_beside_the_mask_and_wrong_limits_are_refused(volume_of, raw, tmp_path):
    place = volume_of(raw)
    with pytest.raises(InputError, match="empty range"):
        create_mask(Derivation(*place, "volumes/mask"), minimum=9, maximum=9)
    create_mask(Derivation(*place, "volumes/mask"), hole_size=5, object_size=5)
    names = {path.name for path in (tmp_path / "cell.zarr/volumes").iterdir()}
    assert names == {".zgroup", ".zattrs", "raw", "mask"}
