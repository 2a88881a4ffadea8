"""Values on the way in: named conversions, inversion, types that lose nothing."""

import numpy as np
import pytest
from PIL import Image

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.conversions import Conversion, cast_exactly, path_uid
from incasem_like.formatting.section_file import Pixels


@pytest.mark.parametrize(("name", "inverted"), [("RgbToGray", False), ("RgbToGrayInversion", True)])
def test_colour_becomes_luma_as_pillow_has_it(name, inverted):
    colours = np.random.default_rng(0).integers(0, 256, (30, 20, 3)).astype(np.uint8)
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    np.testing.assert_array_equal(Conversion("uint8", name).apply(colours, "x.tif"), 255 - grey if inverted else grey)


def test_grey_goes_through_the_colour_conversions():
    grey = np.array([[0, 10, 255]], dtype=np.uint8)
    np.testing.assert_array_equal(Conversion("uint8", "RgbToGray").apply(grey, "x"), grey)
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


@pytest.mark.parametrize(
    ("bits", "dtype", "top"),
    [(1, "uint8", 1), (8, "uint8", 255), (8, "uint16", 255), (12, "uint16", 4095), (16, "uint8", 255)],
)
def test_inversion_is_relative_to_the_bits_of_the_file(bits, dtype, top):
    values = np.array([[0, 1]], dtype=np.uint8)
    np.testing.assert_array_equal(Conversion(dtype, invert=True).apply(values, "x", bits).ravel(), [top, top - 1])


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


GREY, COLOURS = Pixels("uint8", 8), Pixels("uint8", 8, 3)


@pytest.mark.parametrize(
    ("conversion", "pixels", "complaint"),
    [
        (Conversion("unit8"), GREY, "did you mean 'uint8'"),
        (Conversion("uint8", "RgbToGreyInversion"), GREY, "did you mean 'RgbToGrayInversion'"),
        (Conversion("uint8", "RelabelTo"), GREY, "RelabelTo:1"),
        (Conversion("uint8", "RelabelTo:300"), GREY, "RelabelTo:1"),
        (Conversion("uint8", "RelabelToUid"), GREY, "uint32 or uint64"),
        (Conversion("uint8"), COLOURS, "3 colour channels"),
        (Conversion("uint32", "RelabelTo:1"), COLOURS, "3 colour channels"),
        (Conversion("uint8"), Pixels("uint8", 8, colour_map=True), "ColourMapIndices"),
        (Conversion("float32", "RgbToGray"), Pixels("float32", 32, 3), "8 or 16 bits"),
        (Conversion("float32", invert=True), GREY, "unsigned"),
    ],
)
def test_what_cannot_work_is_refused_before_reading(conversion, pixels, complaint):
    with pytest.raises(InputError, match=complaint):
        conversion.check(pixels)


def test_labels_are_stored_as_unsigned_integers():
    for dtype in ("int16", "float32"):
        with pytest.raises(InputError, match=f"unsigned integers, but --dtype is {dtype}"):
            Conversion(dtype).check(Pixels("uint8", 8), labels=True)
        Conversion(dtype).check(Pixels("uint8", 8))
    Conversion("uint64").check(Pixels("uint8", 8), labels=True)
