"""Values on the way in: named conversions, inversion, types that lose nothing."""

import numpy as np
import pytest
from PIL import Image

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.conversions import Conversion, cast_exactly, path_uid


def test_colour_becomes_inverted_luma_as_pillow_has_it():
    colours = np.random.default_rng(0).integers(0, 256, (1, 30, 20, 3)).astype(np.uint8)
    expected = 255 - np.asarray(Image.fromarray(colours[0]).convert("L"))
    conversion = Conversion("uint8", "RgbToGrayInversion")
    np.testing.assert_array_equal(conversion.apply(colours, "x.tif")[0], expected)
    opaque = np.concatenate([colours, np.full((1, 30, 20, 1), 9, np.uint8)], axis=-1)
    np.testing.assert_array_equal(conversion.apply(opaque, "x.tif")[0], expected)


def test_grey_goes_through_the_colour_conversion_inverted():
    grey = np.array([[[0, 10, 255]]], dtype=np.uint8)
    np.testing.assert_array_equal(Conversion("uint8", "RgbToGrayInversion").apply(grey, "x"), 255 - grey)


def test_relabel_to_a_value():
    labels = np.array([[[0, 3, 255]]], dtype=np.uint8)
    out = Conversion("uint32", "RelabelTo:70000").apply(labels, "x")
    assert out.dtype == np.uint32
    assert out.ravel().tolist() == [0, 70000, 70000]


@pytest.mark.parametrize("conversion", [Conversion("uint8", "RelabelTo:1"), Conversion("uint32", "RelabelToUid")])
def test_negative_values_are_no_labels(conversion):
    with pytest.raises(DataError, match="The image holds the label -1 at z 0, y 0, x 1"):
        conversion.apply(np.array([[[0, -1, 2]]], dtype=np.int16), "x")


def test_relabel_to_uid_is_the_same_in_every_process_and_differs_by_folder():
    labels = np.array([[[0, 3, 255]]], dtype=np.uint8)
    out = Conversion("uint32", "RelabelToUid", source="/data/mito_1").apply(labels, "x").ravel()
    assert out.tolist() == [0, 708134175, 708134175]
    assert path_uid("/data/mito_2", "uint32") != path_uid("/data/mito_1", "uint32")


@pytest.mark.parametrize(("dtype", "top"), [("uint8", 255), ("uint16", 65535)])
def test_inversion_is_relative_to_the_stored_type(dtype, top):
    values = np.array([[[0, 1, 200]]], dtype=np.uint8)
    np.testing.assert_array_equal(Conversion(dtype, invert=True).apply(values, "x").ravel(), [top, top - 1, top - 200])


@pytest.mark.parametrize(
    ("values", "dtype", "found"),
    [
        (np.array([1, 3021], np.uint16), "uint8", "3021"),
        (np.array([-4, 7], np.int16), "uint16", "-4"),
        (np.array([0.5], np.float32), "uint8", "0.5"),
        (np.array([np.nan], np.float32), "uint8", "nan"),
        (np.array([2**24 + 1], np.uint32), "float32", str(2**24 + 1)),
        (np.array([0.1], np.float64), "float32", "0.1"),
        (np.array([2**40], np.int64), "uint32", str(2**40)),
    ],
)
def test_a_type_that_loses_a_value_is_refused_by_file_and_value(values, dtype, found):
    with pytest.raises(DataError, match=rf"s_7.tif holds the value {found}\b"):
        cast_exactly(values, np.dtype(dtype), "s_7.tif")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0, 255], np.uint16), "uint8"),
        (np.array([0.0, 12.0], np.float32), "uint8"),
        (np.array([0, 2**24], np.uint32), "float32"),
        (np.array([0.5, np.nan], np.float64), "float32"),
        (np.array([True, False]), "uint8"),
    ],
)
def test_a_type_that_keeps_every_value_is_taken(values, dtype):
    converted = cast_exactly(values, np.dtype(dtype), "x")
    assert converted.dtype == dtype
    np.testing.assert_array_equal(converted.astype(float), values.astype(float))


@pytest.mark.parametrize(
    ("conversion", "colours", "complaint"),
    [
        (Conversion("unit8"), 1, "did you mean 'uint8'"),
        (Conversion("uint8", "RgbToGreyInversion"), 1, "did you mean 'RgbToGrayInversion'"),
        (Conversion("uint8", "RelabelTo"), 1, "RelabelTo:1"),
        (Conversion("uint8", "RelabelTo:300"), 1, "RelabelTo:1"),
        (Conversion("uint8", "RelabelToUid"), 1, "uint32 or uint64"),
        (Conversion("uint8"), 3, "3 colour channels"),
        (Conversion("float32", invert=True), 1, "unsigned"),
    ],
)
def test_what_cannot_work_is_refused_before_reading(conversion, colours, complaint):
    with pytest.raises(InputError, match=complaint):
        conversion.check(colours)
