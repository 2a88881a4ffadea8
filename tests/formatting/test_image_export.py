"""TIFF export: read back by tifffile, and its folder appears whole or not at all."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from incasem_like.errors import DataError, InputError
from incasem_like.formatting import image_export, section_writing
from incasem_like.formatting.image_export import SectionExport, export_all, pair_datasets
from incasem_like.volumes import create_volume, open_volume

SCRIPT = Path(__file__).parents[2] / "scripts/04_postprocessing/20_convert_zarr_to_image_sequence.py"
SHAPE = (7, 9, 10)


@pytest.fixture
def make_volume(tmp_path):
    def make(array, dataset="volumes/raw", offset=(0, 0, 0), chunk_shape=(4, 4, 8), **options):
        volume = create_volume(
            tmp_path / "cell.zarr",
            dataset,
            shape=array.shape,
            dtype=array.dtype,
            voxel_size=(8.0, 4.6, 4.0),
            offset=offset,
            chunk_shape=chunk_shape,
            **options,
        )
        volume.write(array)
        volume.mark_complete()
        return open_volume(tmp_path / "cell.zarr", dataset)

    return make


def export_sections(volume, directory, num_workers=1, **options):
    return SectionExport(volume, directory, **options).run(num_workers=num_workers)


def read_sections(directory):
    return np.stack([tifffile.imread(path) for path in sorted(directory.glob("*.tif"))])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "uint64", "float32"])
def test_values_and_dtype_come_back_as_they_were(dtype, make_volume, tmp_path):
    generator = np.random.default_rng(1)
    array = (generator.normal(size=SHAPE) * 1e3).astype(dtype)
    if dtype == "uint32":
        array[0, 0, 0] = 4_000_000_000
    summary = export_sections(make_volume(array), tmp_path / "sections", num_workers=2)
    found = read_sections(tmp_path / "sections")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)
    assert (summary.sections, summary.first_file.name, summary.last_file.name) == (
        7,
        "section_0000.tif",
        "section_0006.tif",
    )


def test_bands_smaller_than_a_section_give_the_same_files(make_volume, tmp_path, monkeypatch):
    array = np.random.default_rng(2).integers(0, 2**16, SHAPE).astype(np.uint16)
    monkeypatch.setattr(section_writing, "BAND_BYTES", 1)
    export_sections(make_volume(array), tmp_path / "sections")
    np.testing.assert_array_equal(read_sections(tmp_path / "sections"), array)


@pytest.mark.parametrize(
    ("stored", "values", "dtype"),
    [
        ("int64", [0, 1], "uint8"),
        ("uint64", [0, 255], "uint8"),
        ("uint32", [7, 256], "uint16"),
        ("int64", [0, 65_535], "uint16"),
        ("int32", [-3, 40], "int16"),
        ("uint64", [0, 65_536], "uint32"),
        ("int64", [0, 2**24], "uint32"),
        ("int64", [-40_000, 3], "int32"),
        ("int8", [-128, 127], "int16"),
    ],
)
def test_integers_get_the_smallest_type_that_pillow_opens(stored, values, dtype, make_volume, tmp_path):
    array = np.random.default_rng(3).choice(np.array(values, stored), SHAPE)
    array[0, 0, :2] = values
    make_volume(array)
    pairs = pair_datasets([str(tmp_path / "cell.zarr")], [["volumes/raw"]], tmp_path / "out")
    (summary,) = export_all(pairs)
    assert (summary.dtype, summary.source_dtype) == (dtype, stored)
    sections = sorted(summary.directory.glob("*.tif"))
    assert tifffile.imread(sections[0]).dtype == dtype
    opened = np.stack([np.asarray(Image.open(path)) for path in sections])
    np.testing.assert_array_equal(opened.astype(np.int64), array.astype(np.int64))


def test_an_export_done_is_known_without_reading_the_labels_again(make_volume, tmp_path, monkeypatch):
    make_volume(np.ones(SHAPE, dtype=np.int64))
    pairs = pair_datasets([str(tmp_path / "cell.zarr")], [["volumes/raw"]], tmp_path / "out")
    assert [summary.dtype for summary in export_all(pairs)] == ["uint8"]
    monkeypatch.setattr(image_export, "readable_dtype", None)
    assert [summary.already_complete for summary in export_all(pairs)] == [True]


def test_ids_that_no_viewer_opens_are_refused_and_those_it_rounds_are_reported(make_volume, tmp_path, caplog):
    make_volume(np.full(SHAPE, 2**24 + 1, dtype=np.uint64), "many")
    make_volume(np.full(SHAPE, 2**63 + 1, dtype=np.uint64), "huge")
    many, huge = pair_datasets([str(tmp_path / "cell.zarr")], [["many", "huge"]], tmp_path / "out")
    with pytest.raises(DataError, match=r"integers from 9223372036854775809 to 92.*5809, but .* renumber the objects"):
        list(export_all([huge]))
    assert not (tmp_path / "out").exists()
    with caplog.at_level(logging.WARNING):
        assert [summary.dtype for summary in export_all([many])] == ["uint32"]
    assert "ImageJ rounds those beyond 16777216" in caplog.text


def test_float16_widens_and_bool_becomes_a_mask(make_volume, tmp_path):
    array = np.random.default_rng(2).random(SHAPE)
    export_sections(make_volume(array.astype(np.float16), "half"), tmp_path / "half")
    export_sections(make_volume(array > 0.5, "mask"), tmp_path / "mask")
    assert read_sections(tmp_path / "half").dtype == np.float32
    np.testing.assert_array_equal(read_sections(tmp_path / "half"), array.astype(np.float16))
    assert read_sections(tmp_path / "mask").dtype == np.uint8
    np.testing.assert_array_equal(read_sections(tmp_path / "mask"), array > 0.5)


def test_probabilities_spread_over_the_range_of_uint8(make_volume, tmp_path):
    array = np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    export_sections(make_volume(array), tmp_path / "sections", dtype="uint8")
    found = read_sections(tmp_path / "sections")
    assert found.dtype == np.uint8
    assert np.abs(found / 255 - array).max() <= 0.5 / 255 + 1e-7
    assert (found.min(), found.max()) == (0, 255)


def test_scaled_probabilities_become_floats_by_their_scale(make_volume, tmp_path):
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint8)
    export_sections(make_volume(array, attributes={"scale": 255}), tmp_path / "sections", dtype="float32")
    np.testing.assert_allclose(read_sections(tmp_path / "sections"), array / 255, atol=1e-7)


@pytest.mark.parametrize(
    ("value", "stored", "dtype", "message"),
    [
        (300, "uint16", "uint8", "holds 300 at z 5, y 5, x 5, which uint8 cannot hold"),
        (-1, "int16", "uint16", "holds -1 at z 5, y 5, x 5, which uint16 cannot"),
        (1.5, "float32", "uint8", r"holds 1.5 at z 5, y 5, x 5, but probabilities are stored as 0 to 1 here: export"),
        (float("nan"), "float32", "uint8", r"holds nan at z 5, y 5, x 5, but probabilities"),
        (2**24 + 1, "uint32", "float32", "cannot hold exactly"),
    ],
)
def test_a_value_that_would_be_lost_is_refused_and_leaves_nothing(value, stored, dtype, message, make_volume, tmp_path):
    array = np.zeros(SHAPE, dtype=stored)
    array[5, 5, 5] = value
    with pytest.raises(DataError, match=message):
        export_sections(make_volume(array), tmp_path / "sections", dtype=dtype)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cell.zarr"]


def test_absolute_numbers_keep_the_offset_and_sort(make_volume, tmp_path):
    volume = make_volume(np.zeros(SHAPE, dtype=np.uint8), offset=(8.0 * 9996, 0, 0))
    export_sections(volume, tmp_path / "sections", absolute=True)
    names = sorted(path.name for path in (tmp_path / "sections").glob("*.tif"))
    assert names == [f"section_{number:05d}.tif" for number in range(9996, 10003)]


def test_sections_carry_their_voxel_size_and_where_they_come_from(make_volume, tmp_path):
    volume = make_volume(np.zeros(SHAPE, dtype=np.uint8), offset=(16.0, 4.6, 0))
    summary = export_sections(volume, tmp_path / "sections")
    with tifffile.TiffFile(summary.first_file) as file:
        tags = file.pages[0].tags
        x, y = (1e7 * tags[name].value[1] / tags[name].value[0] for name in ("XResolution", "YResolution"))
    assert (x, y) == (4.0, 4.6)
    record = json.loads((tmp_path / "sections/provenance.json").read_text())
    assert record["offset"] == pytest.approx([16.0, 4.6, 0.0])
    assert record["voxel_size"] == pytest.approx([8.0, 4.6, 4.0])
    assert record["provenance"]


def test_a_second_call_finds_its_work_done(make_volume, tmp_path):
    volume = make_volume(np.ones(SHAPE, dtype=np.uint8))
    assert not export_sections(volume, tmp_path / "sections").already_complete
    before = (tmp_path / "sections/section_0000.tif").stat().st_mtime_ns
    assert export_sections(volume, tmp_path / "sections").already_complete
    assert (tmp_path / "sections/section_0000.tif").stat().st_mtime_ns == before


def test_a_folder_that_is_there_is_replaced_only_when_asked(make_volume, tmp_path):
    first, second = (make_volume(np.full(SHAPE, value, dtype=np.uint8), f"v{value}") for value in (1, 2))
    export_sections(first, tmp_path / "sections")
    with pytest.raises(InputError, match=r"was exported with .*v1, but now it is .*v2.*--overwrite"):
        export_sections(second, tmp_path / "sections")
    assert read_sections(tmp_path / "sections").max() == 1
    export_sections(second, tmp_path / "sections", overwrite=True)
    assert read_sections(tmp_path / "sections").min() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cell.zarr", "sections"]


def test_a_folder_of_other_things_is_never_replaced(make_volume, tmp_path):
    (tmp_path / "sections").mkdir()
    (tmp_path / "sections/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis\.txt, which is not an exported section"):
        export_sections(make_volume(np.ones(SHAPE, dtype=np.uint8)), tmp_path / "sections", overwrite=True)
    assert (tmp_path / "sections/thesis.txt").read_text() == "years of work"


def test_an_interrupted_export_shows_no_folder_and_goes_on_later(make_volume, tmp_path, monkeypatch):
    array = np.random.default_rng(4).integers(0, 256, SHAPE).astype(np.uint8)
    volume, original = make_volume(array), image_export.write_slab

    def interrupted(plan, folder, start, stop):
        if start > 0:
            raise KeyboardInterrupt
        original(plan, folder, start, stop)

    monkeypatch.setattr(image_export, "write_slab", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_sections(volume, tmp_path / "sections")
    assert not (tmp_path / "sections").exists()
    kept = (tmp_path / ".sections.partial/section_0000.tif").stat().st_mtime_ns
    monkeypatch.setattr(image_export, "write_slab", original)
    export_sections(volume, tmp_path / "sections")
    np.testing.assert_array_equal(read_sections(tmp_path / "sections"), array)
    assert (tmp_path / "sections/section_0000.tif").stat().st_mtime_ns == kept


def test_channels_are_refused(tmp_path):
    volume = create_volume(
        tmp_path / "a.zarr",
        "affs",
        shape=(3, 4, 4, 4),
        dtype="uint8",
        voxel_size=(1, 1, 1),
        axes="czyx",
        chunk_shape=None,
    )
    with pytest.raises(DataError, match="one channel is needed: choose one as affs@c=0"):
        export_sections(volume, tmp_path / "sections")


def test_several_datasets_of_several_containers_are_paired_in_order(tmp_path):
    pairs = pair_datasets(["a.zarr", "b.zarr"], [["raw", "labels"], ["raw"]], tmp_path, [["x", "y"], ["z"]])
    assert pairs == [
        ("a.zarr", "raw", tmp_path / "x"),
        ("a.zarr", "labels", tmp_path / "y"),
        ("b.zarr", "raw", tmp_path / "z"),
    ]
    assert pair_datasets(["a.zarr"], [["raw"], ["labels"]], tmp_path)[1] == ("a.zarr", "labels", tmp_path / "labels")


@pytest.mark.parametrize(
    ("containers", "datasets", "names", "message"),
    [
        (["a", "b", "c"], [["raw"]], None, "3 --filename but 1 --datasets"),
        (["a"], [["raw", "labels"]], [["x"]], "2 datasets but 1 --out_datasets"),
        (["a", "b"], [["raw"], ["raw"]], None, "the folder raw too"),
        (["a"], [["labels", "labels/er"]], None, "the folder labels too"),
    ],
)
def test_what_does_not_pair_gets_one_sentence(containers, datasets, names, message, tmp_path):
    with pytest.raises(InputError, match=message):
        pair_datasets(containers, datasets, tmp_path, names)


def test_volumes_in_different_places_are_pointed_out(make_volume, tmp_path, caplog):
    for name, offset in (("here", (0, 0, 0)), ("there", (80.0, 0, 0))):
        make_volume(np.zeros(SHAPE, dtype=np.uint8), name, offset=offset)
    pairs = pair_datasets([str(tmp_path / "cell.zarr")], [["here", "there"]], tmp_path / "out")
    with caplog.at_level(logging.WARNING):
        assert [summary.sections for summary in export_all(pairs)] == [7, 7]
    assert "differ in offset or shape" in caplog.text


def run_script(*arguments, cwd):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=60, check=False
    )


def test_the_script_exports_from_any_folder(make_volume, tmp_path):
    array = np.arange(np.prod(SHAPE), dtype=np.uint32).reshape(SHAPE)
    make_volume(array, "volumes/labels")
    done = run_script("-f", "cell.zarr", "-d", "volumes/labels", "-o", "out", "--out_datasets", "er", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert "Wrote uint32 values as 7 uint16 sections" in done.stdout
    np.testing.assert_array_equal(read_sections(tmp_path / "out/er"), array)
    again = run_script("-f", "cell.zarr", "-d", "volumes/labels", "-o", "out", "--out_datasets", "er", cwd=tmp_path)
    assert "Already complete" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "cell.zarr", "-d", "volumes/labels", "-o", "out"], "volumes/labels"),
        (["-f", "none.zarr", "-d", "volumes/raw", "-o", "out"], "none.zarr"),
        (["-f", "cell.zarr", "-d", "volumes/raw", "-o", "file/out"], "file is a file, but a folder is needed there"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(arguments, message, make_volume, tmp_path):
    make_volume(np.zeros(SHAPE, dtype=np.uint8))
    (tmp_path / "file").write_text("not a folder")
    done = run_script(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_sections_survive_import_and_export_and_import_again(tmp_path):
    importer = Path(__file__).parents[2] / "scripts/01_data_formatting/00_image_sequences_to_zarr.py"
    array = np.random.default_rng(6).integers(0, 2**32, (12, 5, 6), dtype=np.uint32)
    (tmp_path / "sections").mkdir()
    for index, section in enumerate(array, start=1):
        tifffile.imwrite(tmp_path / f"sections/slice_{index}.tif", section)

    def import_sections(folder, dataset):
        flags = ["-i", folder, "-f", "a.zarr", "-d", dataset, "--dtype", "uint32", "--num_workers", "1"]
        subprocess.run([sys.executable, importer, *flags], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    import_sections("sections", "volumes/labels")
    done = run_script("-f", "a.zarr", "-d", "volumes/labels", "-o", "out", "--out_datasets", "labels", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read_sections(tmp_path / "out/labels"), array)
    import_sections("out/labels", "volumes/again")
    np.testing.assert_array_equal(open_volume(tmp_path / "a.zarr", "volumes/again").read(), array)
