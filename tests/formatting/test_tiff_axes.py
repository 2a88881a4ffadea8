"""Which planes of a file are sections: axes of ImageJ, OME and tifffile, volumes in a page, reduced pages."""

from contextlib import suppress

import numpy as np
import pytest
import tifffile
from PIL import Image

from incasem_like.errors import DataError, IncasemError, InputError
from incasem_like.formatting.import_sections import SequenceImport, import_all
from incasem_like.formatting.section_file import ReadOptions
from incasem_like.formatting.sections import find_sections

STACK = np.arange(12 * 20 * 18, dtype=np.uint16).reshape(12, 20, 18)
HYPER = np.arange(2 * 3 * 4 * 20 * 18, dtype=np.uint16).reshape(2, 3, 4, 20, 18)  # T, Z, C


def read(source, **options):
    sequence = find_sections(source, None, ReadOptions(**options))
    return np.stack([section for file in sequence.files for section in file.read(range(file.pages))])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.tif"


@pytest.mark.parametrize("kind", ["imagej", "ome", "shaped"])
@pytest.mark.parametrize("order", ["TZC", "ZTC", "CZT", "TCZ", "CTZ", "ZCT"])
def test_a_channel_and_a_time_point_of_any_order_are_chosen(path, kind, order):
    array = np.transpose(HYPER, ["TZC".index(axis) for axis in order] + [3, 4])
    if kind == "imagej" and order != "TZC":
        # ImageJ names another order of the planes in its description.
        text = f"ImageJ=1.53\nimages=24\nchannels=4\nslices=3\nframes=2\norder={order[::-1].lower()}\n"
        with tifffile.TiffWriter(path) as writer:
            for number, plane in enumerate(array.reshape(24, 20, 18)):
                writer.write(plane, description=text if number == 0 else None, metadata=None)
    else:
        options = {} if kind == "shaped" else {kind: True}
        tifffile.imwrite(path, array, metadata={"axes": order + "YX"}, photometric="minisblack", **options)
    np.testing.assert_array_equal(read(path, channel=2, time=1), HYPER[1, :, 2])
    np.testing.assert_array_equal(read(path, channel=0, time=0), HYPER[0, :, 0])
    for given, complaint in (
        ({"channel": 1}, "more than one time point .*T=2.*--time"),
        ({"time": 1}, "channel .*C=4"),
    ):
        with pytest.raises(InputError, match=complaint):
            find_sections(path, None, ReadOptions(**given))
    with pytest.raises(InputError, match=r"has 4 channel\(s\), counted from 0, but --channel is 4"):
        find_sections(path, None, ReadOptions(channel=4, time=0))


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {}], ids=str)
@pytest.mark.parametrize("axis", ["T", "C"])
def test_time_points_or_channels_become_sections_by_choice(path, options, axis):
    tifffile.imwrite(path, STACK, metadata={"axes": f"{axis}YX"}, photometric="minisblack", **options)
    with pytest.raises(InputError, match=f"{axis}=12.* or make them the sections with --section_axis {axis}"):
        find_sections(path)
    np.testing.assert_array_equal(read(path, section_axis=axis), STACK)


@pytest.mark.parametrize("axes", ["RYX", "AZYX", "PZYX"])
def test_other_axes_are_refused_by_name(path, axes):
    array = HYPER[0] if len(axes) == 4 else STACK
    tifffile.imwrite(path, array, metadata={"axes": axes}, photometric="minisblack")
    with pytest.raises(InputError, match=rf"axis {axes[0]} \("):
        find_sections(path)


@pytest.mark.parametrize("shape", [(1, 12), (12, 1), (1, 12, 1)])
def test_axes_of_size_1_do_not_matter(path, shape):
    tifffile.imwrite(path, STACK.reshape(*shape, 20, 18), photometric="minisblack")
    np.testing.assert_array_equal(read(path), STACK)
    tifffile.imwrite(path, STACK[..., None], photometric="minisblack")
    np.testing.assert_array_equal(read(path), STACK)


def test_axes_without_a_name(path):
    tifffile.imwrite(path, HYPER[0], photometric="minisblack")
    with pytest.raises(DataError, match=r"more than one axis without a name \(\[3, 4, 20, 18\]\)"):
        find_sections(path)
    tifffile.imwrite(path, STACK, metadata={"axes": "ZXY"}, photometric="minisblack")
    with pytest.raises(DataError, match=r"axes ZXY of .* not Y x X"):
        find_sections(path)
    tifffile.imwrite(path, STACK.reshape(12, 20, 9, 2), metadata={"axes": "ZYXS"}, photometric="minisblack")
    with pytest.raises(DataError, match=r"axes ZYXS of .* not Y x X"):
        find_sections(path)  # tifffile makes 240 pages of 9 x 2 of it


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}], ids=str)
def test_samples_that_are_no_colours_are_channels(path, planar, options):
    array = np.moveaxis(HYPER[0], 1, -1) if planar == "contig" else HYPER[0]  # 4 samples in each pixel
    tifffile.imwrite(path, array, photometric="minisblack", planarconfig=planar, metadata=None, **options)
    with pytest.raises(InputError, match=r"more than one channel \(.*C=4\)"):
        find_sections(path)
    np.testing.assert_array_equal(read(path, channel=3), HYPER[0, :, 3])


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"bigtiff": True}], ids=str)
@pytest.mark.parametrize("tile", [(1, 16, 16), (4, 16, 16), (16, 16, 32)])
def test_volumes_in_tiles(path, options, tile):
    tifffile.imwrite(path, STACK, volumetric=True, tile=tile, photometric="minisblack", **options)
    np.testing.assert_array_equal(read(path), STACK)
    [file] = find_sections(path).files
    np.testing.assert_array_equal(list(file.read(range(3, 9))), STACK[3:9])


def test_appended_pages_are_sections_and_several_stacks_are_refused(path):
    for section in STACK:
        tifffile.imwrite(path, section, append=True)
    np.testing.assert_array_equal(read(path), STACK)
    path.unlink()
    for part in (STACK[:6], STACK[6:]):
        tifffile.imwrite(path, part, append=True, photometric="minisblack")
    with pytest.raises(DataError, match="holds 2 images"):
        find_sections(path)
    tifffile.imwrite(path, STACK[0])
    tifffile.imwrite(path, STACK[0, :9], append=True)
    with pytest.raises(DataError, match=r"differ in size or type \(20 x 18, .*; 9 x 18"):
        find_sections(path)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("options", [{"imagej": True}, {}], ids=str)
def test_uncompressed_planes_behind_one_page(path, byteorder, options):
    tifffile.imwrite(path, STACK, truncate=True, byteorder=byteorder, metadata={"axes": "ZYX"}, **options)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
    np.testing.assert_array_equal(read(path), STACK)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match=r"is truncated: its description says 12 planes"):
        find_sections(path)


def test_planes_behind_one_page_beyond_4_gb(path):
    """A sparse file: ImageJ's header for 3000 planes of 2 MB, of which the last one is written."""
    plane = np.arange(1024 * 1024, dtype=">u2").reshape(1024, 1024)
    description = "ImageJ=1.53\nimages=3000\nslices=3000\n"
    tifffile.imwrite(path, plane, byteorder=">", description=description, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        begin = tiff.pages.first.dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(begin + 2999 * plane.nbytes)
        file.write(plane[::-1].tobytes())
    [file] = find_sections(path).files
    first, middle, last = (next(file.read(range(number, number + 1))) for number in (0, 1500, 2999))
    np.testing.assert_array_equal(first, plane)
    assert not middle.any()
    np.testing.assert_array_equal(last, plane[::-1])


def test_a_description_of_other_sections_than_the_pages(path):
    tifffile.imwrite(path, STACK[0], compression="zlib", description="ImageJ=1.53\nimages=9\nslices=9\n", metadata=None)
    np.testing.assert_array_equal(read(path), STACK[:1])
    with tifffile.TiffWriter(path) as writer:
        for number, section in enumerate(STACK[:5]):
            text = "ImageJ=1.53\nimages=6\nchannels=2\nslices=3\n" if number == 0 else None
            writer.write(section, description=text, metadata=None)
    with pytest.raises(DataError, match=r"describes 6 planes \(Z=3 x C=2\), but holds 5"):
        find_sections(path)


@pytest.mark.parametrize("options", [{}, {"ome": True}], ids=str)
def test_pyramids_thumbnails_and_masks_are_left_out(path, options):
    with tifffile.TiffWriter(path, **options) as writer:
        writer.write(STACK[:3], subifds=1, photometric="minisblack", metadata={"axes": "ZYX"})
        writer.write(STACK[:3, ::2, ::2], subfiletype=1, photometric="minisblack", metadata=None)
        if not options:
            writer.write(STACK[0, ::4, ::4].astype(np.uint8), subfiletype=1, metadata=None)
            writer.write(STACK[0] > 9, subfiletype=4, photometric="mask", metadata=None)
    np.testing.assert_array_equal(read(path), STACK[:3])
    assert bool(find_sections(path).notes) == (not options)


def ome_files(folder, image, layout, binary_only=False):
    """Write an OME image in several files, each of which names all of them.

    Args:
        image: Array (T, Z, C, y, x).
        layout: Name of a file -> its planes (t, z, c).
        binary_only: Put the XML into a companion.
    """
    times, depth, channels, rows, columns = image.shape
    data = "".join(
        f'<TiffData IFD="{ifd}" FirstT="{t}" FirstZ="{z}" FirstC="{c}" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{name}</UUID></TiffData>'
        for name, planes in layout.items()
        for ifd, (t, z, c) in enumerate(planes)
    )
    space = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
    pixels = (
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="{columns}" '
        f'SizeY="{rows}" SizeZ="{depth}" SizeC="{channels}" SizeT="{times}" PhysicalSizeX="4" PhysicalSizeXUnit="nm" '
        f'PhysicalSizeZ="0.04">{data}</Pixels></Image>'
    )
    if binary_only:
        (folder / "all.companion.ome").write_text(f'<OME {space} UUID="urn:uuid:all">{pixels}</OME>')
    for name, planes in layout.items():
        inner = '<BinaryOnly MetadataFile="all.companion.ome" UUID="urn:uuid:all"/>' if binary_only else pixels
        xml = f'<?xml version="1.0"?><OME {space} UUID="urn:uuid:{name}">{inner}</OME>'
        with tifffile.TiffWriter(folder / name) as writer:
            for number, plane in enumerate(planes):
                writer.write(image[plane], description=xml.encode() if number == 0 else None, metadata=None)


@pytest.mark.parametrize("binary_only", [False, True])
def test_files_of_one_ome_image_are_their_own_pages(tmp_path, binary_only):
    image = STACK[None, :, None]
    ome_files(tmp_path, image, {f"z_{z}.ome.tif": [(0, z, 0)] for z in range(12)}, binary_only)
    np.testing.assert_array_equal(read(tmp_path), STACK)
    np.testing.assert_array_equal(read(tmp_path / "z_4.ome.tif"), STACK[4:5])
    parts = {f"part_{n}.ome.tif": [(0, z, 0) for z in range(4 * n, 4 * n + 4)] for n in range(3)}
    (tmp_path / "parts").mkdir()
    ome_files(tmp_path / "parts", image, parts, binary_only)
    np.testing.assert_array_equal(read(tmp_path / "parts"), STACK)


def test_channels_and_times_in_several_ome_files_are_not_mixed(tmp_path):
    planes = [(t, z) for t in range(2) for z in range(3)]
    ome_files(tmp_path, HYPER, {f"s_{n}.ome.tif": [(t, z, c) for c in range(4)] for n, (t, z) in enumerate(planes)})
    with pytest.raises(InputError, match="more than one channel"):
        find_sections(tmp_path)
    with pytest.raises(InputError, match=r"s_3.ome.tif holds time point 1, but s_0.ome.tif holds 0"):
        find_sections(tmp_path, None, ReadOptions(channel=1))
    np.testing.assert_array_equal(read(tmp_path, channel=1, time=1), HYPER[1, :, 1])


def test_channels_in_ome_files_whose_names_share_section_numbers(tmp_path):
    ome_files(tmp_path, HYPER, {f"c{c}_z{z}.ome.tif": [(0, z, c)] for c in range(4) for z in range(3)})
    with pytest.raises(InputError, match="choose one with --channel"):
        find_sections(tmp_path)
    np.testing.assert_array_equal(read(tmp_path, channel=2), HYPER[0, :, 2])


def test_ome_stack_behind_one_page(path):
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYCZT" Type="uint16" SizeX="18" SizeY="20" SizeC="4" SizeZ="3" SizeT="2">'
        '<TiffData IFD="0" PlaneCount="24"/></Pixels></Image></OME>'
    )
    tifffile.imwrite(path, HYPER[0, 0, 0], description=xml.encode(), metadata=None)
    assert find_sections(path).shape == (1, 20, 18)  # the description of another file, whose planes are not here
    tifffile.imwrite(path, HYPER, description=xml.encode(), photometric="minisblack", truncate=True)
    np.testing.assert_array_equal(read(path, time=1, channel=3), HYPER[1, :, 3])


def test_ome_planes_in_another_order_than_the_pages(path):
    ome_files(path.parent, HYPER[:1, :, :1], {path.name: [(0, 2, 0), (0, 0, 0), (0, 1, 0)]})
    np.testing.assert_array_equal(read(path), HYPER[0, :, 0])


def test_ome_files_that_were_renamed(tmp_path):
    ome_files(tmp_path, HYPER, {"a.ome.tif": [(t, z, c) for t in range(2) for z in range(3) for c in range(4)]})
    renamed = (tmp_path / "a.ome.tif").rename(tmp_path / "b.ome.tif")
    np.testing.assert_array_equal(read(renamed, channel=3, time=0), HYPER[0, :, 3])  # known by its identifier


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 3, 0, 1]])
def test_names_that_contradict_the_order_of_an_ome_image_are_reported(tmp_path, caplog, order):
    ome_files(tmp_path, STACK[None, :4, None], {f"z_{name}.ome.tif": [(0, z, 0)] for name, z in enumerate(order)})
    np.testing.assert_array_equal(read(tmp_path), STACK[order])
    said = "names z_1.ome.tif before z_2.ome.tif, but by their metadata they are sections 3 and 0"
    assert (said in caplog.text) == (order != [0, 1, 2, 3])


def test_several_ome_images_and_a_missing_companion_are_refused(tmp_path, path):
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(STACK, metadata={"axes": "ZYX"}, photometric="minisblack")
        writer.write(STACK, metadata={"axes": "ZYX"}, photometric="minisblack")
    with pytest.raises(DataError, match="holds 2 images by its OME-XML"):
        find_sections(path)
    ome_files(tmp_path, STACK[None, :, None], {path.name: [(0, z, 0) for z in range(12)]}, True)
    (tmp_path / "all.companion.ome").unlink()
    with pytest.raises(DataError, match="companion file that is missing"):
        find_sections(path)


def test_colours_of_ome_and_imagej_are_no_channels(path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 20, 18, 3)).astype(np.uint8)
    for options in ({"ome": True}, {"imagej": True}, {}):
        tifffile.imwrite(path, colours, photometric="rgb", metadata={"axes": "ZYXS"}, **options)
        np.testing.assert_array_equal(read(path), colours)


@pytest.mark.parametrize(
    ("name", "number"),
    [("cell_5nm_z{:03d}.tif", 7), ("a{}.TIFF", 7), ("{}.btf", 7), ("s1_{}.tf8", 7), ("x_2024_c1_z{}.ome.tif", 7)],
)
def test_the_last_number_before_the_suffix_counts(tmp_path, name, number):
    for index, section in enumerate(STACK):
        tifffile.imwrite(tmp_path / name.format(number + index), section)
    for junk in ("._" + name.format(number), ".DS_Store", "Thumbs.db"):
        (tmp_path / junk).write_bytes(b"x")
    np.testing.assert_array_equal(read(tmp_path), STACK)
    assert find_sections(tmp_path).ignored == ()


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_another_voxel_size_than_the_stated_one_is_reported(tmp_path, kind):
    metadata = {"axes": "ZYX", "spacing": 0.04, "unit": "micron"}
    if kind == "ome":
        metadata = {"axes": "ZYX", "PhysicalSizeX": 4, "PhysicalSizeXUnit": "nm", "PhysicalSizeZ": 0.04}
    tifffile.imwrite(
        tmp_path / "a.tif", STACK, metadata=metadata, resolution=(250, 250), photometric="minisblack", **{kind: True}
    )
    for voxel_size, warned in (((40, 4, 4), False), ((40.3, 4, 4), False), ((5, 5, 5), True)):
        order = SequenceImport(
            tmp_path / "a.tif", str(tmp_path / f"{voxel_size}.zarr"), "raw", dtype="uint16", voxel_size=voxel_size
        )
        [(_, written)] = import_all([order])
        assert ("state a voxel size of 40 x" in written.note) == warned


def test_a_loop_of_pages_ends(path):
    Image.fromarray(STACK[0]).save(path, save_all=True, append_images=[Image.fromarray(STACK[1])])
    with tifffile.TiffFile(path) as tiff:
        first, second = (page.offset for page in tiff.pages)
        link = second + 2 + 12 * len(tiff.pages[1].tags)
    with path.open("r+b") as file:
        file.seek(link)
        file.write(first.to_bytes(4, "little"))
    np.testing.assert_array_equal(read(path), STACK[:2])


@pytest.mark.filterwarnings("ignore")
def test_damaged_headers_are_read_or_refused_in_one_sentence(path):
    tifffile.imwrite(path, STACK[:2], compression="zlib", photometric="minisblack")
    whole, rng, messages = path.read_bytes(), np.random.default_rng(1), []
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.integers(0, 400, 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        with suppress(IncasemError):
            read(path)
            continue
        with pytest.raises(IncasemError) as refused:
            read(path)
        messages.append(str(refused.value))
    assert len(messages) > 50
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize(
    "description", ['{"shape": "round"}', '{"note": {"shape": [1]}}', "shape=(9,9)", "ImageJ=x\nslices=2"]
)
def test_descriptions_of_other_programs_do_not_matter(path, description):
    tifffile.imwrite(path, STACK[0], description=description, metadata=None, compression="lzw")
    np.testing.assert_array_equal(read(path), STACK[:1])


def test_a_remnant_of_imagejs_description_is_told_from_a_truncated_stack(path):
    tifffile.imwrite(path, STACK[0], description="ImageJ=1.53\nimages=9\nslices=9\n", metadata=None)
    with pytest.raises(DataError, match="truncated: its description says 9 planes"):
        find_sections(path)
    with tifffile.TiffFile(path) as tiff:
        length = 2 + 12 * len(tiff.pages.first.tags) + 4
    content = bytearray(path.read_bytes())
    content += content[8 : 8 + length]  # the page's header behind its data, where a stack would go on
    content[4:8] = (len(content) - length).to_bytes(4, "little")
    path.write_bytes(content)
    np.testing.assert_array_equal(read(path), STACK[:1])
