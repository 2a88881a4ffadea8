"""Labels, masks and probabilities: what is refused, with its place, and what the one definition says of the rest."""

import logging

import numpy as np
import pytest

from incasem_like.errors import DataError, VoxelValueError
from incasem_like.volumes import create_volume
from incasem_like.volumes.values import (
    check_labels,
    check_probabilities,
    foreground,
    inside,
    probability_scale,
)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int32", "uint32", "int64", "uint64", "float32"])
def test_foreground_is_what_is_not_zero(dtype):
    labels = np.random.default_rng(1).integers(0, 3, (4, 5, 6)).astype(dtype)
    expected = np.array([value != 0 for value in labels.ravel().tolist()]).reshape(labels.shape)
    np.testing.assert_array_equal(foreground(labels), expected)
    np.testing.assert_array_equal(inside(labels), expected)


@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [
        ("int8", -1, "-1"),
        ("int64", -7, "-7"),
        ("float32", 0.5, "0.5"),
        ("float64", np.nan, "nan"),
        ("float32", np.inf, "inf"),
        ("uint64", 2**64 - 3, r"18446744073709551613 \(-3 in signed integers\)"),
    ],
)
def test_what_is_no_label_is_refused_with_its_absolute_voxel(dtype, value, shown):
    labels = np.ones((3, 4, 5), dtype)
    labels[1, 2, 3] = value
    message = rf"volumes/mito holds the label {shown} at z 12, y 4, x 26, but labels are 0 \(background\) or positive"
    for check in (check_labels, foreground, inside):
        with pytest.raises(VoxelValueError, match=message):
            check(labels, "volumes/mito", (10, 0, 20), 2)


def test_the_largest_ids_are_labels():
    for dtype, largest in (("uint64", 2**64 - 4), ("uint32", 2**32 - 1), ("int64", 2**63 - 1)):
        assert foreground(np.array([[[0, largest]]], dtype)).tolist() == [[[False, True]]]


def test_a_mask_of_other_values_gives_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        inside(np.array([0, 1, 255], np.uint8), "usual")
        assert not caplog.records
        for _ in range(2):
            np.testing.assert_array_equal(inside(np.array([0, 7, 255], np.uint8), "unusual"), [False, True, True])
    assert [record.getMessage().split(" and ")[0] for record in caplog.records] == ["unusual is used as a mask"]


@pytest.mark.parametrize(
    ("dtype", "attributes", "scale"),
    [
        ("uint8", {}, 255),
        ("uint8", {"scale": 1}, 1),
        ("uint8", {"scale": [4, 4, 4]}, 255),
        ("uint16", {"scale": 65535}, 65535),
        ("float16", {}, 1),
        ("float32", {"scale": 255.0}, 255),
        ("bool", {}, 1),
        ("uint16", {}, r"uint16 without a scale attribute"),
        ("int64", {}, r"int64 without a scale attribute"),
        ("uint8", {"scale": 0}, r"has the attribute scale 0"),
        ("uint8", {"scale": -255}, r"has the attribute scale -255"),
    ],
)
def test_the_scale_of_stored_probabilities(dtype, attributes, scale, tmp_path):
    volume = create_volume(
        tmp_path / "c.zarr", "p", shape=(2, 2, 2), dtype=dtype, voxel_size=(1, 1, 1), attributes=attributes
    )
    if isinstance(scale, str):
        with pytest.raises(DataError, match=scale):
            probability_scale(volume)
    else:
        assert probability_scale(volume) == scale


@pytest.mark.parametrize(
    ("dtype", "scale", "value", "shown"),
    [
        ("float32", 1, 1.001, "1.001"),
        ("float32", 1, -0.001, "-0.001"),
        ("float64", 1, np.nan, "nan"),
        ("float16", 1, np.inf, "inf"),
        ("float32", 255, 255.1, "255.1"),
        ("uint8", 1, 2, "2"),
        ("uint16", 255, 256, "256"),
        ("int16", 100, -1, "-1"),
    ],
)
def test_what_is_no_probability_is_refused_with_its_place_unless_it_does_not_count(dtype, scale, value, shown):
    values = np.zeros((2, 3, 4), dtype)
    values[1, 1, 2] = value
    with pytest.raises(VoxelValueError, match=rf"map holds {shown} at z 6, y 1, x 4, but .* 0 to {scale} here"):
        check_probabilities(values, scale, "map", (5, 0, 2))
    counted = np.ones(values.shape, bool)
    counted[1, 1, 2] = False
    check_probabilities(values, scale, "map", (5, 0, 2), counted)


def test_rounding_is_no_fault():
    for dtype in (np.float16, np.float32, np.float64):
        one = dtype(1)
        check_probabilities(np.array([np.nextafter(one, dtype(2)), -np.finfo(dtype).eps / 2], dtype), 1, "map", (0,))
