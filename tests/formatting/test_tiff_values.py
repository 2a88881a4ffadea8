"""Values of TIFFs of many encodings, imported and read by zarr-python, against the arrays written and Pillow."""

import struct

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from incasem_like.errors import DataError, IncasemError, InputError
from incasem_like.formatting.import_sections import SequenceImport, check_import, import_all
from incasem_like.formatting.sections import find_sections

RNG = np.random.default_rng(5)
GREY8 = RNG.integers(0, 256, (2, 37, 45)).astype(np.uint8)
GREY16 = RNG.integers(0, 65536, (2, 37, 45)).astype(np.uint16)
SIGNED = GREY16.astype(np.int32).astype(np.int16)
FLOATS = RNG.normal(0, 9, (2, 37, 45)).astype(np.float32)
FLOATS[0, 3, 4] = np.nan
BITS = GREY8 > 99
COLOURS8 = RNG.integers(0, 256, (2, 37, 45, 3)).astype(np.uint8)
COLOURS16 = RNG.integers(0, 65536, (2, 37, 45, 3)).astype(np.uint16)
SMOOTH = np.add.outer(np.arange(2) * 50, np.add.outer(np.arange(48), np.arange(64))).astype(np.uint8)


def luma(colours):
    """Return the grey values that Pillow makes of colours (ITU-R 601-2), at any bit depth."""
    weighted = colours.astype(np.uint64) @ np.array([19595, 38470, 7471], np.uint64)
    return ((weighted + 0x8000) >> 16).astype(colours.dtype)


@pytest.fixture
def imported(tmp_path):
    """Import a file or folder and return the array that zarr-python reads, and what was reported."""

    def run(source, dtype, dataset="volumes/raw", **options):
        order = SequenceImport(
            source, str(tmp_path / "c.zarr"), dataset, dtype=str(dtype), chunk_shape=(2, 32, 32), **options
        )
        [(_, written)] = import_all([order], overwrite=True)
        return zarr.open(str(tmp_path / "c.zarr"), "r")[dataset][:], written.note

    return run


@pytest.fixture
def sections(tmp_path):
    """Write sections as one TIFF each with tifffile and return the folder."""

    def write(stack, **options):
        for number, section in enumerate(stack):
            tifffile.imwrite(tmp_path / "s" / f"s_{number}.tif", section, metadata=None, **options)
        return tmp_path / "s"

    (tmp_path / "s").mkdir()
    return write


ENCODINGS = [
    {},
    {"byteorder": ">"},
    {"bigtiff": True},
    {"bigtiff": True, "byteorder": ">"},
    {"tile": (16, 32)},
    {"tile": (16, 16), "byteorder": ">", "compression": "zlib"},
    {"rowsperstrip": 5},
    {"rowsperstrip": 5, "compression": "lzw", "predictor": True},
    {"compression": "lzw", "byteorder": ">", "predictor": True},
    {"compression": "zstd"},
    {"compression": "lzma"},
    {"compression": "deflate", "predictor": True, "tile": (32, 16)},
    {"compression": "packbits"},
    {"compression": "lerc"},
]
LOSSLESS_8 = [{"compression": "png"}, {"compression": "jpeg2000", "compressionargs": {"reversible": True}}]


@pytest.mark.parametrize("options", ENCODINGS, ids=str)
@pytest.mark.parametrize("stack", [GREY8, GREY16, SIGNED, FLOATS], ids=lambda stack: stack.dtype.name)
def test_encodings_of_sections(sections, options, stack):
    stack = np.nan_to_num(stack) if options.get("compression") == "lerc" else stack
    sequence = find_sections(sections(stack, photometric="minisblack", **options))
    read = np.stack([section for file in sequence.files for section in file.read(range(1))])
    np.testing.assert_array_equal(read, stack)
    assert (read.dtype, sequence.notes) == (stack.dtype, [])


@pytest.mark.parametrize("options", [*ENCODINGS[:8:3], *LOSSLESS_8], ids=str)
def test_encodings_as_zarr(sections, imported, options):
    for stack in (GREY8, COLOURS8):
        folder = sections(stack, photometric="rgb" if stack.ndim == 4 else "minisblack", **options)
        array, note = imported(folder, "uint8", conversion="RgbToGray")
        np.testing.assert_array_equal(array, luma(stack) if stack.ndim == 4 else stack)
        assert note == f"2 section(s) in 2 file(s) of {folder}"


@pytest.mark.parametrize("compression", ["jpeg", "webp"])
def test_lossy_compressions_are_read_as_tifffile_and_pillow_do(sections, imported, compression):
    folder = sections(COLOURS8[:, :32, :32], photometric="rgb", compression=compression)
    pages = np.stack([tifffile.imread(path) for path in sorted(folder.iterdir())])
    np.testing.assert_array_equal(imported(folder, "uint8", conversion="RgbToGray")[0], luma(pages))
    folder = sections(SMOOTH, photometric="minisblack", compression="jpeg")
    np.testing.assert_array_equal(
        imported(folder, "uint8")[0], np.stack([Image.open(p) for p in sorted(folder.iterdir())])
    )


def test_ycbcr_with_and_without_jpeg(tmp_path, imported):
    colour = np.stack([SMOOTH[0], SMOOTH[0] // 2, 255 - SMOOTH[0]], axis=-1)
    Image.fromarray(colour).convert("YCbCr").save(tmp_path / "raw.tif")
    Image.fromarray(colour).save(tmp_path / "jpeg.tif", compression="jpeg")
    array = imported(tmp_path / "raw.tif", "uint8", conversion="RgbToGray")[0][0]
    assert np.abs(array.astype(int) - luma(colour)).max() <= 2  # rounded twice
    array = imported(tmp_path / "jpeg.tif", "uint8", conversion="RgbToGray")[0][0]
    with Image.open(tmp_path / "jpeg.tif") as image:
        assert np.abs(array.astype(int) - np.asarray(image.convert("L"))).max() <= 3


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("extra", [None, "assocalpha", "unassalpha", "unspecified"])
@pytest.mark.parametrize("colours", [COLOURS8, COLOURS16], ids=["8", "16"])
def test_colours_and_alpha_by_samples_of_a_pixel(sections, imported, planar, extra, colours):
    stack = colours if extra is None else np.concatenate([colours, colours[..., :1]], axis=-1)
    options = {} if extra is None else {"extrasamples": [extra]}
    stack = np.moveaxis(stack, -1, 1) if planar == "separate" else stack
    folder = sections(stack, photometric="rgb", planarconfig=planar, **options)
    array, note = imported(folder, colours.dtype, conversion="RgbToGray")
    np.testing.assert_array_equal(array, luma(colours))
    assert ("ignored the alpha channel" in note) == (extra is not None)
    inverted, _ = imported(folder, colours.dtype, conversion="RgbToGrayInversion")
    np.testing.assert_array_equal(inverted, np.iinfo(colours.dtype).max - luma(colours))
    with pytest.raises(InputError, match="3 colour channels: give --conversion RgbToGray"):
        imported(folder, colours.dtype)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize("size", [(8, 8), (9, 3), (3, 9), (4, 4), (1, 3), (2, 2), (1, 1)])
def test_pillow_images_whatever_their_size_resembles(tmp_path, imported, mode, size):
    image = Image.fromarray(RNG.integers(0, 256, (*size, 4)).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "a.tif")
    array, note = imported(tmp_path / "a.tif", "uint8", conversion="RgbToGrayInversion")
    np.testing.assert_array_equal(array[0], 255 - np.asarray(image.convert("L")))
    assert ("alpha" in note) == mode.endswith("A")


@pytest.mark.parametrize("stack", [GREY8, GREY16, SIGNED], ids=lambda stack: stack.dtype.name)
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "lzw"}], ids=str)
def test_white_is_zero_is_inverted(sections, imported, stack, options):
    array, note = imported(sections(stack, photometric="miniswhite", **options), stack.dtype)
    np.testing.assert_array_equal(array, ~stack)
    assert "2 of 2 file(s): inverted, since white is stored as 0" in note


def test_white_is_zero_of_floats_is_kept_and_reported(sections, imported):
    array, note = imported(sections(FLOATS, photometric="miniswhite"), "float32")
    np.testing.assert_array_equal(array, FLOATS)
    assert "kept float values" in note


@pytest.mark.parametrize(
    "compression", [None, "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw", "tiff_adobe_deflate"]
)
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_masks_of_one_bit_become_0_and_1(tmp_path, imported, compression, white_is_zero):
    for number in range(2):
        info = {262: 0} if white_is_zero else {}
        Image.fromarray(BITS[number]).save(tmp_path / f"m_{number}.tif", compression=compression, tiffinfo=info)
    shown = np.stack([np.asarray(Image.open(tmp_path / f"m_{number}.tif")) for number in range(2)])
    np.testing.assert_array_equal(imported(tmp_path, "uint8", "volumes/labels/a")[0], shown.astype(np.uint8))
    np.testing.assert_array_equal(imported(tmp_path, "uint32", "volumes/labels/b", invert=True)[0], ~shown)


def test_multi_page_masks_in_group_4(tmp_path, imported):
    first, *others = [Image.fromarray(section) for section in (*BITS, *~BITS)]
    first.save(tmp_path / "m.tif", save_all=True, append_images=others, compression="group4")
    np.testing.assert_array_equal(imported(tmp_path / "m.tif", "uint8")[0], np.concatenate([BITS, ~BITS]))


def packed(values, bits, fill_order=1):
    """Return rows of integers packed into bits, most significant first, each row padded to a byte."""
    shifts = np.arange(bits - 1, -1, -1)
    rows = ((values[..., None] >> shifts) & 1).astype(np.uint8).reshape(len(values), -1)
    return np.packbits(rows, axis=1, bitorder="big" if fill_order == 1 else "little").tobytes()


def write_tiff(path, data, width, height, order="<", **tags):
    """Write a page of one strip by hand: the tags are numbers, as unsigned shorts or longs."""
    entries = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries.update({int(code[1:]): value for code, value in tags.items()})
    directory = struct.pack(order + "H", len(entries))
    for code, value in sorted(entries.items()):
        directory += struct.pack(order + "HHII", code, 4, 1, value)
    header = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8 + len(data))
    path.write_bytes(header + data + directory + bytes(4))


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 12, 16])
@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("photometric", [0, 1])
def test_packed_integers(tmp_path, imported, bits, fill_order, photometric):
    values = GREY16[0] >> (16 - bits)
    write_tiff(
        tmp_path / "p.tif", packed(values, bits, fill_order), 45, 37, ">", t258=bits, t262=photometric, t266=fill_order
    )
    shown = values if photometric else 2**bits - 1 - values
    np.testing.assert_array_equal(imported(tmp_path / "p.tif", "uint16")[0][0], shown)
    np.testing.assert_array_equal(imported(tmp_path / "p.tif", "uint16", invert=True)[0][0], 2**bits - 1 - shown)


@pytest.mark.parametrize("code", range(1, 9))
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_orientation_is_applied_as_pillow_does(tmp_path, imported, code, compression):
    tags = [(274, 3, 1, code, True)]
    for name, how in (("o.tif", compression), ("shown.tif", "zlib")):  # Pillow garbles turned uncompressed images
        tifffile.imwrite(tmp_path / name, GREY8[0], extratags=tags, compression=how, metadata=None)
    array, note = imported(tmp_path / "o.tif", "uint8")
    with Image.open(tmp_path / "shown.tif") as image:
        image.load()
        np.testing.assert_array_equal(array[0], np.asarray(image))
    assert (f"Orientation tag ({code})" in note) == (code > 1)


def test_a_colour_map_is_applied_or_ignored_by_choice(tmp_path, imported):
    image = Image.fromarray(GREY8[0] % 7)
    image.putpalette(RNG.integers(0, 256, 21).astype(np.uint8).tobytes())
    image.save(tmp_path / "p.tif")
    with pytest.raises(InputError, match=r"colour map: give --conversion RgbToGray .* or ColourMapIndices"):
        imported(tmp_path / "p.tif", "uint8")
    shown = np.asarray(image.convert("RGB").convert("L"))
    np.testing.assert_array_equal(imported(tmp_path / "p.tif", "uint8", conversion="RgbToGray")[0][0], shown)
    for dataset, conversion in (("volumes/raw", "ColourMapIndices"), ("volumes/labels/er", None)):
        array, note = imported(tmp_path / "p.tif", "uint8", dataset, conversion=conversion)
        np.testing.assert_array_equal(array[0], GREY8[0] % 7)
        assert "colour map was ignored" in note


def test_a_colour_map_of_grey_values_is_none(tmp_path, imported):
    tifffile.imwrite(
        tmp_path / "p.tif", GREY8[0], photometric="palette", colormap=np.stack([np.arange(256) * 257] * 3).astype("u2")
    )
    array, note = imported(tmp_path / "p.tif", "uint8")
    np.testing.assert_array_equal(array[0], GREY8[0])
    assert "colour map" not in note


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ({"t262": 5, "t277": 1}, r"CMYK \(SEPARATED\)"),
        ({"t262": 8}, "CIELAB"),
        ({"t262": 32803}, "CFA"),
        ({"t262": 777}, "777"),
        ({"t259": 34661}, "compression JBIG"),
        ({"t259": 34676}, "compression SGILOG"),
        ({"t259": 4711}, "compression 4711"),
        ({"t262": 2}, r"RGB colours with 1 sample\(s\)"),
        ({"t258": 64, "t339": 6}, "SampleFormat 6"),
        ({"t258": 24}, "samples of 24 bits"),
        ({"t256": 0}, "0 pixels"),
        ({"t259": 8, "t278": 3}, "1 of 13 strips"),
        ({"t259": 8, "t279": 99999}, "truncated"),
    ],
)
def test_what_is_not_understood_is_named_before_anything_is_written(tmp_path, tags, found):
    for number in range(3):
        tags_here = tags if number == 1 else {}
        write_tiff(tmp_path / f"s_{number}.tif", bytes(37 * 45 * 8), 45, 37, **tags_here)
    with pytest.raises(IncasemError, match=rf"s_1\.tif .*{found}"):
        find_sections(tmp_path)


def test_a_damaged_strip_of_another_compression_is_found_before_anything_is_written(tmp_path):
    write_tiff(tmp_path / "s_0.tif", bytes(37 * 45), 45, 37)
    write_tiff(tmp_path / "s_1.tif", bytes(37 * 45), 45, 37, t259=8)
    with pytest.raises(DataError, match=r"s_1\.tif cannot be decoded \(compression ADOBE_DEFLATE"):
        check_import(SequenceImport(tmp_path, str(tmp_path / "c.zarr"), "volumes/raw"))
    assert not (tmp_path / "c.zarr").exists()


def test_types_without_an_exact_equal_are_refused_by_value(tmp_path, imported):
    tifffile.imwrite(tmp_path / "f.tif", np.full((5, 4), np.nan, np.float32))
    with pytest.raises(DataError, match="holds the value nan, which uint8 cannot hold"):
        imported(tmp_path / "f.tif", "uint8")
    with pytest.raises(InputError, match="RgbToGray takes images of 8 or 16 bits, but these hold float32"):
        imported(tmp_path / "f.tif", "uint8", conversion="RgbToGray")
