"""Which TIFFs are sections, in which order, and what is said about those that are not right."""

import numpy as np
import pytest
import tifffile

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.sections import find_sections

STACK = np.arange(12 * 5 * 4, dtype=np.uint16).reshape(12, 5, 4)


def read(sequence):
    return np.stack(
        [section for file, pages, _ in sequence.locate(0, sequence.shape[0]) for section in file.read(pages)]
    )


def write(folder, names, stack=STACK):
    for name, section in zip(names, stack, strict=False):
        tifffile.imwrite(folder / name, section)


@pytest.mark.parametrize("pattern", ["s_{}.tif", "{}.tif", "{:04d}.TIFF", "cell 3 z{}.TiF", "cell_5nm_z{:03d}.tif"])
def test_numbers_order_as_numbers_whatever_the_name(tmp_path, pattern):
    write(tmp_path, [pattern.format(i + 1) for i in range(12)])
    np.testing.assert_array_equal(read(find_sections(tmp_path)), STACK)


def test_a_regex_chooses_files_and_number(tmp_path):
    write(tmp_path, [f"{i}_of_12_raw.tif" for i in range(12)])
    write(tmp_path, ["0_of_12_labels.tif"])
    sequence = find_sections(tmp_path, r"(\d+)_.*_raw\.tif")
    np.testing.assert_array_equal(read(sequence), STACK)
    assert sequence.ignored == ("0_of_12_labels.tif",)


def test_other_files_are_left_out_and_counted(tmp_path):
    write(tmp_path, ["a_0.tif", "a_1.tif"])
    (tmp_path / "notes.txt").write_text("x")
    assert find_sections(tmp_path).ignored == ("notes.txt",)


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "minisblack"},
        {"imagej": True, "metadata": {"axes": "ZYX"}},
        {"ome": True, "photometric": "minisblack", "metadata": {"axes": "ZYX"}},
        {"metadata": None, "photometric": "minisblack", "compression": "zlib"},
    ],
)
def test_pages_of_one_file_are_sections(tmp_path, options):
    tifffile.imwrite(tmp_path / "stack.tif", STACK, **options)
    for source in (tmp_path, tmp_path / "stack.tif"):
        np.testing.assert_array_equal(read(find_sections(source)), STACK)


def test_several_multi_page_files_follow_one_another(tmp_path):
    for part in range(3):
        tifffile.imwrite(tmp_path / f"part_{part + 9}.tif", STACK[4 * part : 4 * part + 4], photometric="minisblack")
    sequence = find_sections(tmp_path)
    np.testing.assert_array_equal(read(sequence), STACK)
    middle = [(file.path[-6:-4], list(pages), first) for file, pages, first in sequence.locate(3, 9)]
    assert middle == [("_9", [3], 3), ("10", [0, 1, 2, 3], 4), ("11", [0], 8)]


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colours_come_last(tmp_path, planar):
    shape = (5, 4, 3) if planar == "contig" else (3, 5, 4)
    tifffile.imwrite(tmp_path / "c.tif", np.zeros(shape, np.uint8), photometric="rgb", planarconfig=planar)
    sequence = find_sections(tmp_path)
    assert (sequence.shape, sequence.files[0].pixels.colours, read(sequence).shape) == ((1, 5, 4), 3, (1, 5, 4, 3))


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"The folder .*absent does not exist"):
        find_sections(tmp_path / "absent")


def test_no_tiff(tmp_path):
    with pytest.raises(DataError, match=r"holds no TIFF, PNG or JPEG, nor any other file"):
        find_sections(tmp_path)
    (tmp_path / "sections").mkdir()
    with pytest.raises(DataError, match=r"nor any other file, and the 1 folder\(s\) in it are not searched"):
        find_sections(tmp_path)
    (tmp_path / "a.bmp").write_text("")
    with pytest.raises(DataError, match=r"holds no TIFF, PNG or JPEG, but 1 other file"):
        find_sections(tmp_path)


def test_previews_beside_tiffs_are_ignored(tmp_path):
    write(tmp_path, ["s_1.tif", "s_2.tif"])
    (tmp_path / "s_1.png").write_text("")
    assert find_sections(tmp_path).ignored == ("s_1.png",)


def test_missing_sections_are_named(tmp_path):
    write(tmp_path, [f"s_{i}.tif" for i in (1, 2, 5, 6, 8)])
    with pytest.raises(DataError, match="Sections 3-4, 7 are missing"):
        find_sections(tmp_path)


@pytest.mark.parametrize("names", [["s_1.tif", "s_01.tif"], ["s_1_ch1.tif", "s_2_ch1.tif"]])
def test_a_number_twice(tmp_path, names):
    write(tmp_path, names)
    with pytest.raises(DataError, match=r"both have section number 1: .* --image_regex"):
        find_sections(tmp_path)


def test_no_number(tmp_path):
    write(tmp_path, ["a.tif", "b.tif"])
    with pytest.raises(DataError, match="section number"):
        find_sections(tmp_path)


def test_other_size_and_other_type_name_the_file(tmp_path):
    write(tmp_path, ["s_0.tif", "s_1.tif"])
    tifffile.imwrite(tmp_path / "s_2.tif", STACK[0, :4])
    with pytest.raises(DataError, match=r"s_2.tif has 4 x 4 pixels, but s_0.tif has 5 x 4"):
        find_sections(tmp_path)
    tifffile.imwrite(tmp_path / "s_2.tif", STACK[0].astype(np.uint8))
    with pytest.raises(
        DataError, match=r"s_2.tif holds grey values of 8 bits \(uint8\), but s_0.tif holds grey values of 16 bits"
    ):
        find_sections(tmp_path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"imagej": True}])
@pytest.mark.parametrize("kept", [0, 3, 20, -20])
def test_a_truncated_file_is_named_before_anything_is_read(tmp_path, options, kept):
    write(tmp_path, ["s_0.tif"])
    noise = np.random.default_rng(0).integers(0, 9999, (2, 5, 4)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "s_1.tif", noise, photometric="minisblack", **options)
    whole = (tmp_path / "s_1.tif").read_bytes()
    (tmp_path / "s_1.tif").write_bytes(whole[:kept])
    with pytest.raises(DataError, match=r"s_1.tif is truncated"):
        find_sections(tmp_path)


@pytest.mark.parametrize(
    ("regex", "complaint"), [("(", "not a regular expression"), ("abc", "no group"), (r"(.*)\.tif", "not a number")]
)
def test_a_wrong_regex_says_what_is_wrong(tmp_path, regex, complaint):
    write(tmp_path, ["s_0.tif"])
    with pytest.raises(InputError, match=complaint):
        find_sections(tmp_path, regex)


def test_the_fingerprint_notices_another_file(tmp_path):
    write(tmp_path, ["s_0.tif", "s_1.tif"])
    before = find_sections(tmp_path).fingerprint()
    assert find_sections(tmp_path).fingerprint() == before
    tifffile.imwrite(tmp_path / "s_1.tif", STACK[5])
    assert find_sections(tmp_path).fingerprint() != before
