"""Derived volumes lie where their voxels came from: voxel centres computed from the metadata alone."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import zarr

from incasem_like.errors import DataError
from incasem_like.formatting.derive import Derivation, derive, derive_volume
from incasem_like.formatting.import_volume import import_volume
from incasem_like.formatting.label_masks import metric_mask
from incasem_like.formatting.operations import OPERATIONS
from incasem_like.formatting.pyramid import make_pyramid
from incasem_like.volumes import create_volume, open_volume
from incasem_like.volumes.multiscale import set_space

SIZE = (40.0, 4.6, 4.6)
OFFSETS = [(13.0, 1.5, 44.85), (-27.0, -2.3, 6.9), (19.9, 0.1, 32.2)]
FORMATS = ["zarr2", "zarr3", "n5"]


def coordinates(axis, size, offset, shape=(9, 14, 11)):
    """Return a volume whose values are the positions of the voxels' centres along an axis, in nm."""
    line = offset[axis] + (np.arange(shape[axis]) + 0.5) * size[axis]
    return np.broadcast_to(np.expand_dims(line, [other for other in range(3) if other != axis]), shape).copy()


@pytest.fixture
def placed(tmp_path):
    """Return a function that writes a volume of positions along each axis, as three channels."""

    def write(offset, format, size=SIZE, name="volumes/raw"):
        voxels = np.stack([coordinates(axis, size, offset) for axis in range(3)])
        container = tmp_path / f"cell.{'n5' if format == 'n5' else 'zarr'}"
        volume = create_volume(
            container, name, shape=voxels.shape, dtype="float64", voxel_size=size, offset=offset, axes="czyx",
            chunk_shape=(8, 8, 8), format=format,
        )  # fmt: skip
        volume.write(voxels)
        volume.mark_complete()
        return str(container), name

    return write


def stored_space(container, dataset, format):
    """Return voxel size and offset (z, y, x) from the array's file of attributes, read as JSON."""
    name = {"zarr2": ".zattrs", "zarr3": "zarr.json", "n5": "attributes.json"}[format]
    found = json.loads(Path(container, dataset, name).read_text())
    found = found["attributes"] if format == "zarr3" else found
    step = -1 if format == "n5" else 1
    return np.array(found["resolution"][::step][-3:], float), np.array(found["offset"][::step], float)


def check_centres(container, dataset, format, inner=(slice(None),) * 3):
    """Check that the values, positions averaged over the source's voxels, are the centres that the metadata give."""
    size, offset = stored_space(container, dataset, format)
    voxels = open_volume(container, dataset).read()
    for axis in range(3):
        stated = coordinates(axis, size, offset, voxels.shape[1:])
        np.testing.assert_allclose(voxels[axis][inner], stated[inner], rtol=0, atol=1e-6)


def run(place, operation, out="out", **options):
    derive(Derivation(*place, out, (8, 8, 8)), OPERATIONS[operation], **options)
    return place[0], out


INNER = (slice(1, -1),) * 3  # voxels at the sides may cover fewer voxels of the source


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_an_offset_between_voxels_is_not_lost(placed, offset, format):
    place = placed(offset, format)
    first = np.array(open_volume(*place).roi.begin)
    check_centres(*run(place, "convert", "a"), format)
    check_centres(*run(place, "crop", "b", offset=tuple(np.add(first, (1, 2, 3))), shape=(5, 6, 7)), format)
    check_centres(*run(place, "downsample", "c", factors=(2, 3, 2)), format, INNER)
    check_centres(*run(place, "resample", "e", voxel_size=(10, 2, 4.6)), format, (slice(3, -3),) * 3)
    padded = run(place, "pad", "f", before=(1, 2, 3), after=(3, 2, 1))
    check_centres(*padded, format, (slice(1, -3), slice(2, -2), slice(3, -1)))
    np.testing.assert_allclose(stored_space(*padded, format)[1], offset - np.array((1, 2, 3)) * SIZE, atol=1e-9)


@pytest.mark.parametrize("offset", OFFSETS)
def test_larger_voxels_average_over_their_own_volume(placed, offset):
    place = placed(offset, "zarr2")
    container, out = run(place, "resample", voxel_size=(60, 4.6, 11.5))
    size, begin = stored_space(container, out, "zarr2")
    voxels = open_volume(container, out).read()
    for axis in (0, 2):
        steps = (np.arange(1000) + 0.5) / 1000  # positions within a new voxel
        inside = begin[axis] + (np.arange(voxels.shape[axis + 1])[:, None] + steps) * size[axis]
        covering = np.floor((inside - offset[axis]) / SIZE[axis])  # the source's voxel at each of them
        mean = (offset[axis] + (covering + 0.5) * SIZE[axis]).mean(1)
        found = np.moveaxis(voxels[axis], axis, 0)[:, 2, 2]
        np.testing.assert_allclose(found[1:-1], mean[1:-1], rtol=0, atol=SIZE[axis] / 500)


def test_the_stored_offset_is_the_nearest_float_to_the_exact_one(placed):
    place = placed((13.0, 1.5, 44.85), "zarr2")
    run(place, "downsample", factors=(1, 2, 3))
    found = open_volume(place[0], "out").offset
    first = Fraction("44.85") - 10 * Fraction("4.6")  # voxel 10 begins here; voxel 9 is the first of a group of three
    assert found[2] == float(first + 9 * Fraction("4.6")) == 40.25


@pytest.mark.parametrize("format", FORMATS)
def test_levels_of_a_pyramid_lie_on_each_other(placed, format):
    place = placed((13.0, 1.5, 44.85), format)
    make_pyramid(Derivation(*place, "", None), factors=[(1, 2, 2), (2, 2, 2)])
    for level in range(3):
        check_centres(place[0], f"{place[1]}/s{level}", format, INNER if level else (slice(None),) * 3)
    if format == "n5":
        return
    document = json.loads(Path(*place, ".zattrs" if format == "zarr2" else "zarr.json").read_text())
    image = (document if format == "zarr2" else document["attributes"]["ome"])["multiscales"][0]
    for level, listed in enumerate(image["datasets"]):
        scale, translation = (np.array(step[step["type"]][1:]) for step in listed["coordinateTransformations"])
        # OME-NGFF: index 0 is a centre. All levels are shifted alike, by half a voxel of the first.
        size, offset = stored_space(place[0], f"{place[1]}/s{level}", format)
        np.testing.assert_allclose(scale, size)
        np.testing.assert_allclose(translation + np.array(SIZE) / 2, offset + size / 2, atol=1e-9)


def test_a_moved_volume_of_another_program_keeps_its_offset(tmp_path):
    group = zarr.open_group(str(tmp_path / "other.zarr"), mode="w")
    group.create_dataset("image", data=np.zeros((6, 6, 6), np.uint8), chunks=(4, 4, 4))
    group["image"].attrs.update({"resolution": [40, 4.6, 4.6], "offset": [13, 1.5, 44.85]})
    make_pyramid(Derivation(str(tmp_path / "other.zarr"), "image", "", None), factors=[(1, 2, 2)])
    assert open_volume(tmp_path / "other.zarr/image/s0").offset == (13, 1.5, 44.85)
    assert open_volume(tmp_path / "other.zarr/image/s1").offset == (13, 1.5, 44.85)


def test_another_voxel_size_keeps_the_offset_in_voxels_with_its_fraction(placed):
    volume = open_volume(*placed((13.0, 1.5, 44.85), "zarr2"), writable=True)
    set_space(volume, (80, 9.2, 2.3))
    assert volume.offset == (26, 3, 22.425)
    set_space(volume, offset=(1, 2, 3))
    assert volume.offset == (80, 18.4, 6.9)


def test_a_mask_has_the_offset_of_its_labels(placed, tmp_path):
    volume = create_volume(
        tmp_path / "c.zarr", "labels", shape=(6, 6, 6), dtype="uint8", voxel_size=SIZE, offset=OFFSETS[0]
    )
    volume.mark_complete()
    derive_volume(Derivation(volume.container, "labels", "m"), metric_mask, {"outwards": 1, "inwards": 1}, context=1)
    assert open_volume(volume.container, "m").offset == OFFSETS[0]


def test_an_import_that_turns_axes_turns_the_offset(tmp_path):
    offset = (13.0, 1.5, 44.85)
    volume = create_volume(
        tmp_path / "a.zarr", "raw", shape=(4, 5, 6), dtype="uint8", voxel_size=(40, 4.6, 9.2), offset=offset
    )
    volume.write(np.arange(120, dtype=np.uint8).reshape(4, 5, 6))
    volume.mark_complete()
    out = Derivation(str(tmp_path / "b.zarr"), "raw", "raw", (4, 4, 4), out_container=str(tmp_path / "b.zarr"))
    import_volume(f"{volume.container}/raw", out, axes="xyz", offset=(7, 1, 1))
    found = open_volume(out.container, "raw")
    # The file calls x what is z: its voxel 5 along that axis begins at 44.85 nm.
    np.testing.assert_allclose(found.offset, (44.85 + 2 * 9.2, 1.5 + 4.6, 13 + 40))
    np.testing.assert_array_equal(found.read(), np.arange(120).reshape(4, 5, 6).transpose(2, 1, 0)[2:, 1:, 1:])


def test_a_crop_of_an_unknown_voxel_size_is_refused_where_its_position_would_be_lost(volume_of):
    place = volume_of(np.zeros((6, 6, 6), np.uint8), voxel_size=None)
    with pytest.raises(DataError, match="no voxel size, which the position"):
        run(place, "crop", offset=(1, 0, 0))
    assert open_volume(*run(place, "crop", shape=(3, 3, 3))).shape == (3, 3, 3)
