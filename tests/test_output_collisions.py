"""Scripts refuse an output that is one of their inputs, however it is spelled, or cannot be made; and touch nothing."""

import hashlib
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from incasem_like.blockwise import create_or_resume_output
from incasem_like.errors import InputError
from incasem_like.volumes import check_outputs, create_volume, make_provenance, open_volume

SCRIPTS = Path(__file__).parents[1] / "scripts"
IMPORT = "01_data_formatting/00_image_sequences_to_zarr.py"
SYNTHETIC = "01_data_formatting/05_make_synthetic_data.py"
EQUALIZE = "01_data_formatting/40_equalize_histogram.py"
BOUNDARY = "01_data_formatting/50_create_boundary_labels.py"
METRIC_MASK = "01_data_formatting/60_create_metric_mask.py"
FOREGROUND = "01_data_formatting/20_create_mask.py"
THRESHOLD = "04_postprocessing/00_extract_segmentation_with_threshold.py"
STAGE_04 = "04_postprocessing"
OBJECTS = ("-s", "data/c.zarr/volumes/map", "-o")
EXPORT = "04_postprocessing/20_convert_zarr_to_image_sequence.py"


def write(container, dataset, array):
    volume = create_volume(
        container, dataset, shape=array.shape, dtype=array.dtype, voxel_size=(5, 5, 5), chunk_shape=(4, 4, 4)
    )
    volume.write(array)
    volume.mark_complete()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with volumes, sections and links to them, which is the current one."""
    for dataset in ("volumes/map", "volumes/mask", "volumes/raw"):
        write(tmp_path / "data/c.zarr", dataset, np.arange(384, dtype=np.uint8).reshape(6, 8, 8))
    write(tmp_path / "data/masks.n5", "mask", np.ones((6, 8, 8), dtype=np.uint8))
    (tmp_path / "sections").mkdir()
    for number in range(3):
        tifffile.imwrite(tmp_path / f"sections/section_{number}.tif", np.full((8, 8), number, dtype=np.uint8))
    (tmp_path / "to_container.zarr").symlink_to("data/c.zarr")
    (tmp_path / "to_folder").symlink_to(tmp_path / "data")
    (tmp_path / "data/c.zarr/volumes/to_map").symlink_to("map")
    (tmp_path / "data/c.zarr/inner").symlink_to("volumes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VOLUMES", str(tmp_path / "data"))
    return tmp_path


def contents(folder):
    """Every file and link below a folder with its hash."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes())
        .hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }  # fmt: skip


@pytest.fixture
def check_refused(folder, monkeypatch, capsys):
    """Run a script in this process; check for status 2, one sentence, and that no file has changed."""

    def run(script, *words, said="would replace the input"):
        before = contents(folder)
        for overwrite in ((), ("--overwrite",)):
            monkeypatch.setattr(sys, "argv", [str(SCRIPTS / script), *map(str, words), "-n", "1", *overwrite])
            with pytest.raises(SystemExit) as left:
                runpy.run_path(str(SCRIPTS / script), run_name="__main__")
            printed = capsys.readouterr()
            assert (left.value.code, printed.out) == (2, ""), printed
            [sentence] = printed.err.splitlines()
            assert said in sentence
            assert contents(folder) == before

    return run


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "01_data_formatting/80_make_2d.py",
            ("-f", "data/c.zarr", "-d", "volumes/map", "-F", "file/c", "-o", "planes"),
        ),
        (THRESHOLD, ("--prediction_filename", "data/c.zarr", "-d", "volumes/map", "-o", "file/new", "-t", "0.5")),
        (f"{STAGE_04}/12_refine_segmentation.py", ("filter", "--min_size", "2", *OBJECTS, "file/c.zarr/new")),
        (f"{STAGE_04}/12_refine_segmentation.py", ("fill_holes", *OBJECTS, "file/c.zarr/new")),
        (f"{STAGE_04}/25_measure_objects.py", (*OBJECTS, "file/tables")),
        (f"{STAGE_04}/30_extract_skeletons.py", (*OBJECTS, "file/skeletons")),
        (f"{STAGE_04}/35_extract_meshes.py", (*OBJECTS, "file/meshes")),
    ],
)
def test_where_an_output_cannot_be_made_nothing_is_left_behind(script, words, check_refused, folder, monkeypatch):
    monkeypatch.setenv("INCASEM_JOBS", str(folder / "jobs"))
    monkeypatch.setenv("INCASEM_RUNS", str(folder / "runs"))
    (folder / "file").touch()
    (folder / "data/c.zarr/file").touch()
    check_refused(script, *words, said="file is a file, but a folder is needed there")
    assert not (folder / "jobs").exists()
    assert not list((folder / "runs").rglob("run.json"))


# A container, and in it a dataset that is volumes/map of data/c.zarr.
SAME = [
    ("data/c.zarr", "volumes/map"),
    ("data/c.zarr", "volumes/map/"),
    ("data/c.zarr", "/volumes//map"),
    ("data/c.zarr", "./volumes/./map"),
    ("data/c.zarr", "volumes/map "),
    ("data/c.zarr/", " volumes/map"),
    ("data/../data/c.zarr ", "volumes/map"),
    ("data/c.zarr/volumes", "map"),
    ("data/c.zarr", "volumes/to_map"),
    ("data/c.zarr", "inner/map"),
    ("to_container.zarr", "volumes/map"),
    ("to_folder/c.zarr", "inner/to_map"),
    ("~/data/c.zarr", "volumes/map"),
    ("$VOLUMES/c.zarr", "volumes/map"),
    ("file://{folder}/data/c.zarr", "volumes/map"),
    ("zarr://file://{folder}/data/c.zarr", "volumes/map"),
]


@pytest.mark.parametrize(("container", "dataset"), SAME)
def test_thresholding_replaces_neither_map_nor_mask(container, dataset, check_refused, folder):
    container = container.format(folder=folder)
    flags = ("--prediction_filename", container, "-o", dataset, "-t", 0.5)
    within = ("-d", dataset if container.endswith("volumes") else "volumes/map")
    check_refused(THRESHOLD, *flags, *within)
    mask = ("--mask_filename", "data/c.zarr", "-m", "volumes/map")
    other = within if container.endswith("volumes") else ("-d", "volumes/raw")
    check_refused(THRESHOLD, *flags, *other, *mask)


@pytest.mark.parametrize("script", [EQUALIZE, BOUNDARY, METRIC_MASK, FOREGROUND])
@pytest.mark.parametrize("place", [place for place in SAME if not place[0].endswith("volumes")])
def test_a_derived_volume_does_not_replace_its_source(script, place, check_refused, folder):
    check_refused(script, "-f", place[0].format(folder=folder), "-d", "volumes/map", "-o", place[1])


@pytest.mark.parametrize("output", ["volumes\\map", ".\\volumes\\map", "volumes/map\\", "other\\raw"])
def test_backslashes_which_tensorstore_takes_for_slashes_are_refused(output, check_refused):
    check_refused(EQUALIZE, "-f", "data/c.zarr", "-d", "volumes/map", "-o", output, said="holds a backslash")
    check_refused(IMPORT, "-i", "sections", "-f", f"data\\{output}", said="holds a backslash")


@pytest.mark.parametrize("script", [EQUALIZE, BOUNDARY, METRIC_MASK, FOREGROUND])
@pytest.mark.parametrize(
    ("output", "said"),
    [("volumes", "would be deleted with it"), ("inner/", "would be deleted with it"), ("inner/map/new", "lies inside")],
)
def test_groups_above_an_input_and_places_inside_it_are_refused(script, output, said, check_refused):
    check_refused(script, "-f", "to_container.zarr", "-d", "volumes/map", "-o", output, said=said)


def test_a_mask_of_another_container_is_protected_too(check_refused, folder):
    (folder / "data/c.zarr/other").symlink_to(folder / "data/masks.n5")
    write(folder / "data/masks.n5", "map", np.zeros((6, 8, 8), dtype=np.uint8))
    flags = ("--mask_filename", "data/masks.n5", "-m", "mask", "-t", 0.5)
    check_refused(THRESHOLD, "--prediction_filename", "data/c.zarr", "-d", "volumes/map", "-o", "other/mask", *flags)


@pytest.mark.parametrize("directory", ["data", "to_folder", "./data/", "to_folder/../data"])
def test_sections_are_not_exported_into_what_is_exported(directory, check_refused):
    flags = ("-f", "data/c.zarr", "-d", "volumes/map", "-o", directory, "--out_datasets")
    check_refused(EXPORT, *flags, "c.zarr/volumes/map")
    check_refused(EXPORT, *flags, "c.zarr/inner", said="would be deleted with it")
    check_refused(EXPORT, *flags, "c.zarr/volumes/to_map/sections", said="lies inside")


def test_two_exports_into_one_folder_are_refused(check_refused, folder):
    (folder / "out").mkdir()
    (folder / "out/b").symlink_to("a")
    flags = ("-f", "data/c.zarr", "-d", "volumes/map", "volumes/raw", "-o", "out", "--out_datasets")
    for names in (("a", "b"), ("a", "x/../a"), ("a", "b/c")):
        check_refused(EXPORT, *flags, *names, said="overlap")


def test_sections_that_no_export_wrote_are_kept(check_refused):
    check_refused(
        EXPORT, "-f", "data/c.zarr", "-d", "volumes/map", "-o", ".", "--out_datasets", "sections", said="sections"
    )


@pytest.mark.parametrize(
    "source", ["data/c.zarr/volumes/new", "to_container.zarr/inner/new", "data/c.zarr/inner/new/tif"]
)
def test_an_import_does_not_replace_its_sections(source, check_refused, folder):
    (folder / source).mkdir(parents=True)
    for name in ("section_0.tif", "section_1.tif"):
        tifffile.imwrite(folder / source / name, np.zeros((8, 8), dtype=np.uint8))
    said = "deleted with it" if source.endswith("tif") else "would replace the input"
    check_refused(IMPORT, "-i", source, "-f", "to_folder/c.zarr", "-d", "volumes/new", said=said)


@pytest.mark.parametrize(
    "datasets", [("a", "a/"), ("volumes/a", "inner/a"), ("a", "a/b"), ("a", "b/../a"), ("a ", "a")]
)
def test_two_imports_into_one_dataset_are_refused(datasets, check_refused, folder):
    said = "without '..'" if ".." in datasets[1] else "overlap"
    check_refused(IMPORT, "-i", "sections", "sections", "-f", "data/c.zarr", "-d", *datasets, said=said)


def test_synthetic_volumes_of_one_place_are_refused(check_refused, folder):
    (folder / "lobe_001").symlink_to("lobe_000")
    check_refused(SYNTHETIC, "-o", "lobe", "--num_volumes", 2, "--shape", 24, 40, 32, said="overlap")


def test_folders_are_compared_by_identity_where_names_differ(folder, monkeypatch):
    """As on file systems that ignore the case of letters, or show one folder at two places."""
    seen = os.stat

    def ignoring_case(path, *args, **options):
        return seen(str(path).replace("DATA/C.ZARR", "data/c.zarr"), *args, **options)

    monkeypatch.setattr(os, "stat", ignoring_case)
    with pytest.raises(InputError, match="would replace the input"):
        check_outputs([str(folder / "DATA/C.ZARR/volumes/map")], ["data/c.zarr/volumes/map"], "do not")
    with pytest.raises(InputError, match="would be deleted with it"):
        check_outputs([str(folder / "DATA/C.ZARR/volumes")], ["data/c.zarr/volumes/map"], "do not")
    with pytest.raises(InputError, match="overlap"):
        check_outputs(["data/c.zarr/new", str(folder / "DATA/C.ZARR/new")], [], "do not")
    check_outputs(["data/c.zarr/New"], ["data/c.zarr/volumes/map"], "do not")


@pytest.mark.parametrize(
    ("output", "source", "clash"),
    [
        ("s3://bucket/c.zarr/raw", "S3://bucket/c.zarr//raw/", True),
        ("s3://bucket/c.zarr/raw", "zarr://s3://bucket/./c.zarr/raw", True),
        ("s3://bucket/c.zarr", "s3://bucket/c.zarr/raw", True),
        ("s3://bucket/c%20d.zarr/raw", "s3://bucket/c d.zarr/raw", True),
        ("s3://bucket/c.zarr/raw", "s3://other/c.zarr/raw", False),
        ("s3://bucket/c.zarr/raw", "gs://bucket/c.zarr/raw", False),
        ("s3://bucket/c.zarr/raw_2", "s3://bucket/c.zarr/raw", False),
        ("data/c.zarr/raw", "s3://data/c.zarr/raw", False),
    ],
)
def test_remote_addresses_are_normalised(output, source, clash):
    if clash:
        with pytest.raises(InputError):
            check_outputs([output], [source], "do not")
    else:
        check_outputs([output], [source], "do not")


def test_an_output_beside_its_inputs_is_fine(folder):
    check_outputs(["data/c.zarr/volumes/map_2"], ["data/c.zarr/volumes/map"], "do not")
    check_outputs(["sections/c.zarr/volumes/raw"], [Path("sections")], "do not")  # in a folder of images, beside them


def test_inputs_in_the_provenance_of_an_output_are_protected(folder):
    before = contents(folder)
    provenance = make_provenance("copy", {}, [open_volume("data/c.zarr/volumes/map")])
    layout = {"shape": (6, 8, 8), "dtype": "uint8", "voxel_size": (5, 5, 5), "provenance": provenance}
    with pytest.raises(InputError, match="would replace the input"):
        create_or_resume_output("to_container.zarr", "inner/map", overwrite=True, **layout)
    assert contents(folder) == before


def test_what_is_replaced_comes_back_where_its_successor_cannot_be_made(folder, monkeypatch):
    before = contents(folder)
    monkeypatch.setattr(
        "incasem_like.volumes.creating._announce", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        create_volume(
            "data/c.zarr", "volumes/map", shape=(4, 4, 4), dtype="uint8", voxel_size=(1, 1, 1), overwrite=True
        )
    assert contents(folder) == before


def test_values_that_cannot_be_equalised_leave_the_earlier_result(check_refused, folder, monkeypatch, capsys):
    write(folder / "data/c.zarr", "volumes/floats", np.full((6, 8, 8), 7, dtype=np.float32))
    argv = ["-f", "data/c.zarr", "-d", "volumes/floats", "-o", "volumes/raw", "-n", "1", "--overwrite"]
    before = contents(folder)
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / EQUALIZE), *argv])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPTS / EQUALIZE), run_name="__main__")
    assert left.value.code == 2
    assert "floats from 7 to 7" in capsys.readouterr().err
    assert contents(folder) == before


def test_a_remote_output_is_refused_before_it_is_replaced():
    with pytest.raises(InputError, match="must be local"):
        create_or_resume_output(
            "s3://bucket/c.zarr", "raw", shape=(4, 4, 4), dtype="uint8", voxel_size=(1, 1, 1), overwrite=True
        )
