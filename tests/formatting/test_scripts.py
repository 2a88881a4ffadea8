"""The scripts of stage 01, run in a process of their own from another folder, on right and wrong input."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from skimage.exposure import equalize_adapthist
from skimage.util import img_as_ubyte

from incasem_like.formatting.label_masks import metric_mask
from incasem_like.targets import boundary_labels

IMPORT, SYNTHETIC, EQUALIZE = "00_image_sequences_to_zarr.py", "05_make_synthetic_data.py", "40_equalize_histogram.py"
BOUNDARY, MASK = "50_create_boundary_labels.py", "60_create_metric_mask.py"
DERIVE, FOREGROUND, PYRAMID = "10_derive_volume.py", "20_create_mask.py", "scale_pyramid.py"
SET_SIZE, PLANES = "15_set_voxel_size.py", "80_make_2d.py"
SCRIPTS = Path(__file__).parents[2] / "scripts/01_data_formatting"


def check_refused(finished, *said):
    """Check for exit status 2 and one sentence without a traceback."""
    assert finished.returncode == 2, finished.stderr
    assert "Traceback" not in finished.stderr
    [error] = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    for words in said:
        assert words in error


def test_from_synthetic_sections_to_masks(run_stage, tmp_path):
    shape = ("--shape", 24, 40, 32)
    made = run_stage(SYNTHETIC, "--output", "lobe", *shape, "--seed", 9, "--format", "tiff")
    assert made.returncode == 0, made.stderr
    folders = ("-i", "lobe/raw", "lobe/labels", "-f", "c.zarr", "-d", "volumes/raw", "volumes/labels/columns")
    chunks = ("--chunks", 16, 16, 16, "--resolution", 500, 500, 500)
    stages = {
        "import": (IMPORT, *folders, "--dtype", "uint8", "uint32", *chunks),
        "equalise": (EQUALIZE, "-f", "c.zarr", "--kernel_size", 16, "-c", 16, 16, 16),
        "boundary": (BOUNDARY, "-f", "c.zarr", "-d", "volumes/labels/columns", "-o", "volumes/labels/membrane"),
        "mask": (MASK, "-f", "c.zarr", "-d", "volumes/labels/columns", "-o", "volumes/metric_masks/columns",
                 "--exclude_voxels_outwards", 2, "--exclude_voxels_inwards", 0),
    }  # fmt: skip
    for stage in stages.values():
        finished = run_stage(*stage)
        assert finished.returncode == 0, finished.stderr
        assert "Wrote " in finished.stdout
        assert "Next: " in finished.stdout
    volumes = zarr.open_group(str(tmp_path / "c.zarr"), mode="r")["volumes"]
    raw, labels = volumes["raw"][:], volumes["labels/columns"][:]
    np.testing.assert_array_equal(raw[7], tifffile.imread(tmp_path / "lobe/raw/section_0007.tif"))
    equalised = img_as_ubyte(equalize_adapthist(raw, kernel_size=(16, 16, 16), clip_limit=0.02)).astype(int)
    assert np.abs(volumes["raw_equalized_0.02"][:] - equalised).max() <= 1
    np.testing.assert_array_equal(volumes["metric_masks/columns"][:], metric_mask(labels, 2, 0))
    np.testing.assert_array_equal(volumes["labels/membrane"][:], boundary_labels(labels))
    for name in ("raw", "raw_equalized_0.02", "labels/columns", "labels/membrane", "metric_masks/columns"):
        assert volumes[name].attrs["complete"] is True
        assert volumes[name].attrs["provenance"]["parameters"]
    again = run_stage(*stages["mask"])
    assert again.returncode == 0
    assert "Already complete" in again.stdout
    check_refused(run_stage(*stages["mask"][:-1], 1), "--overwrite")


@pytest.mark.slow
def test_each_operation_gives_the_same_on_workers_of_a_file(run_stage, tmp_path):
    made = run_stage(SYNTHETIC, "--output", "lobe", "--shape", 24, 40, 32, "--seed", 9, "--format", "tiff")
    assert made.returncode == 0, made.stderr
    (tmp_path / "workers.yaml").write_text("{launcher: command, count: 2, command: 'nice {command}'}")
    for container, flags in {"here.zarr": (), "there.zarr": ("--workers", "workers.yaml")}.items():
        folders = ("-i", "lobe/raw", "lobe/labels", "-f", container, "-d", "volumes/raw", "volumes/labels")
        of_labels = ("-f", container, "-d", "volumes/labels", "-c", 16, 16, 16)
        for stage in (
            (IMPORT, *folders, "--dtype", "uint8", "uint32", "--chunks", 16, 16, 16),
            (EQUALIZE, "-f", container, "--kernel_size", 16, "-c", 16, 16, 16),
            (BOUNDARY, *of_labels, "-o", "volumes/membrane"),
            (MASK, *of_labels, "-o", "volumes/mask", "--exclude_voxels_outwards", 2, "--exclude_voxels_inwards", 0),
        ):
            finished = run_stage(*stage, *flags)
            assert finished.returncode == 0, finished.stderr
    here, there = (zarr.open_group(str(tmp_path / name), mode="r")["volumes"] for name in ("here.zarr", "there.zarr"))
    for name in ("raw", "labels", "raw_equalized_0.02", "membrane", "mask"):
        np.testing.assert_array_equal(here[name][:], there[name][:])
        assert there[name].attrs["complete"] is True
    check_refused(
        run_stage(IMPORT, "-i", "lobe/raw", "-f", "no.zarr", "--workers", "none.yaml"), "none.yaml does not exist"
    )
    assert not (tmp_path / "no.zarr").exists()


@pytest.mark.parametrize("script", [IMPORT, SYNTHETIC, EQUALIZE, BOUNDARY, MASK, DERIVE, FOREGROUND, PYRAMID, SET_SIZE])
def test_help_imports_nothing_slow(script):
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPTS / script), "-h"], capture_output=True, text=True, check=True
    )
    assert "usage" in finished.stdout
    slow = ("torch", "tensorstore", "sacred", "numpy", "scipy", "skimage", "zarr", "tifffile", "pydantic")
    loaded = {package for package in slow if f" {package}\n" in finished.stderr}
    # The operations' flags come from their functions; what those modules import takes half a second.
    assert loaded <= ({"numpy", "pydantic"} if script == DERIVE else set())


def test_operations_pyramid_and_voxel_size_by_their_scripts(run_stage, volume_of, tmp_path, grey):
    volume_of(grey, "c.zarr/raw", chunk_shape=(16, 16, 16))
    where = ("-f", "c.zarr", "-d", "raw", "-c", 16, 16, 16, "-n", 1)
    listed = run_stage(DERIVE, "--help")
    operations = [line.split()[0] for line in listed.stdout.partition("operations:")[2].splitlines() if line.strip()]
    assert {"crop", "components", "rescale"} <= set(operations)
    for operation in operations:
        finished = run_stage(DERIVE, operation, "--help")
        assert finished.returncode == 0, finished.stderr
        assert f"{DERIVE} {operation}" in finished.stdout
    check_refused(run_stage(DERIVE, "corp", *where), "corp")
    cropped = run_stage(DERIVE, "crop", *where, "-o", "crop", "--offset", 1, 2, 3, "--shape", 5, 0, 0)
    assert cropped.returncode == 0, cropped.stderr
    np.testing.assert_array_equal(zarr.open(str(tmp_path / "c.zarr"))["crop"][:], grey[1:6, 2:, 3:])
    masked = run_stage(FOREGROUND, *where, "-o", "mask", "--hole_size", 9, "--object_size", 9)
    assert masked.returncode == 0, masked.stderr
    assert 'name it as "mask": "mask"' in masked.stdout
    size = run_stage(SET_SIZE, "-f", "c.zarr", "-d", "crop", "--voxel_size", 40, 4.6, 4.6, "--offset", 10, 20, 30)
    assert size.returncode == 0, size.stderr
    attributes = zarr.open(str(tmp_path / "c.zarr"))["crop"].attrs
    assert (attributes["resolution"], attributes["offset"]) == ([40, 4.6, 4.6], [400, 92, 138])
    check_refused(run_stage(SET_SIZE, "-f", "c.zarr", "-d", "crop", "--voxel_size", 0, 1, 1), "above 0")
    scaled = run_stage(PYRAMID, "-f", "c.zarr", "-d", "raw", "-s", "1,2,2", 2, "-n", 1)
    assert scaled.returncode == 0, scaled.stderr
    assert [zarr.open(str(tmp_path / "c.zarr"))[f"raw/s{level}"].shape for level in range(3)] == [
        (20, 30, 26), (20, 15, 13), (10, 8, 7)
    ]  # fmt: skip
    check_refused(run_stage(PYRAMID, "-f", "c.zarr", "-d", "raw", "-s", "1,2"), "--scales 1,2")


def test_missing_folder(run_stage):
    check_refused(run_stage(IMPORT, "-i", "absent", "-f", "c.zarr"), "The folder absent does not exist")


def test_no_tiff(run_stage, tmp_path):
    (tmp_path / "empty").mkdir()
    check_refused(run_stage(IMPORT, "-i", "empty", "-f", "c.zarr"), "empty holds no TIFF")


def test_bad_sequences_are_one_sentence_and_nothing_is_written(run_stage, write_sections, grey, tmp_path):
    folder = write_sections(grey)
    whole = (folder / "section_5.tif").read_bytes()

    def attempt(*said):
        check_refused(run_stage(IMPORT, "-i", folder, "-f", "c.zarr"), *said)
        assert not (tmp_path / "c.zarr").exists()

    (folder / "section_5.tif").unlink()
    attempt("Sections 5 are missing")
    tifffile.imwrite(folder / "section_5.tif", grey[5, :9])
    attempt("section_5.tif has 9 x 26 pixels", "30 x 26")
    (folder / "section_5.tif").write_bytes(whole[: len(whole) // 2])
    attempt("section_5.tif is truncated")


def test_a_good_folder_is_not_imported_when_a_second_one_is_bad(run_stage, write_sections, grey, tmp_path):
    folder = write_sections(grey)
    finished = run_stage(IMPORT, "-i", folder, "absent", "-f", "c.zarr", "-d", "volumes/raw", "volumes/b")
    check_refused(finished, "folder absent does not exist")
    assert not (tmp_path / "c.zarr").exists()


def test_left_out_files_are_counted_and_flags_come_from_a_file(run_stage, write_sections, grey, tmp_path):
    folder = write_sections(grey)
    (folder / "notes.txt").write_text("x")
    (tmp_path / "import.yaml").write_text("dtype: [uint16]\ninvert: true\nresolution: [5.24, 4, 4]\n")
    finished = run_stage(IMPORT, "-c", "import.yaml", "-i", folder, "-f", "c.n5")
    assert finished.returncode == 0, finished.stderr
    assert "Left out 1" in finished.stdout
    assert "notes.txt" in finished.stdout


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (EQUALIZE, ("-d", "volumes/rew")),
        (BOUNDARY, ("-d", "volumes/rew", "-o", "volumes/b")),
        (MASK, ("-d", "volumes/rew", "-o", "volumes/m")),
    ],
)
def test_zarr_without_the_dataset(run_stage, tmp_path, script, arguments):
    group = zarr.open_group(str(tmp_path / "c.zarr"), mode="w")
    group.create_dataset("volumes/raw", data=np.zeros((4, 4, 4), np.uint8))
    check_refused(run_stage(script, "-f", "c.zarr", *arguments), "volumes/rew", "volumes/raw")
    check_refused(run_stage(script, "-f", "absent.zarr", *arguments), "absent.zarr")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (EQUALIZE, ("--kernel_size", 4, 4)),
        (EQUALIZE, ("--clip_limit", 2)),
        (BOUNDARY, ("-d", "volumes/raw", "-o", "volumes/b", "--thickness", 0)),
        (MASK, ("-d", "volumes/raw", "-o", "volumes/m", "--exclude_voxels_inwards", -1)),
        (FOREGROUND, ("-d", "volumes/raw", "--hole_size", -1)),
        (PLANES, ("-d", "volumes/raw", "-o", "planes", "-c", 0, 1, 1)),
        (SYNTHETIC, ("--shape", 4, 4, 4)),
        (SYNTHETIC, ("--num_volumes", 0)),
        (SYNTHETIC, ("--seed", -1)),
    ],
)
def test_wrong_numbers(run_stage, tmp_path, script, arguments):
    group = zarr.open_group(str(tmp_path / "c.zarr"), mode="w")
    group.create_dataset("volumes/raw", data=np.zeros((4, 4, 4), np.uint8))
    where = ("--output", "new") if script == SYNTHETIC else ("-f", "c.zarr")
    check_refused(run_stage(script, *where, *arguments))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.zarr"]


def test_output_below_a_file(run_stage, write_sections, grey, tmp_path):
    (tmp_path / "file").write_text("x")
    check_refused(run_stage(IMPORT, "-i", write_sections(grey), "-f", "file/c.zarr"), "file")
    check_refused(run_stage(SYNTHETIC, "--output", "file/lobe", "--shape", 12, 12, 12), "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere: needs an ordinary user")
def test_output_folder_not_writable(run_stage, write_sections, grey, tmp_path):
    folder = write_sections(grey)
    (tmp_path / "locked").mkdir(mode=0o555)
    check_refused(run_stage(IMPORT, "-i", folder, "-f", "locked/c.zarr"), "locked")
    check_refused(run_stage(SYNTHETIC, "--output", "locked/lobe", "--shape", 12, 12, 12), "locked")


def test_the_next_command_can_be_pasted_whatever_names_hold(run_stage, write_sections, grey, tmp_path):
    folder, container = write_sections(grey, "my sections; $1"), tmp_path / "it's my cell.zarr"
    done = run_stage(IMPORT, "-i", folder, "-f", container, "-d", "volumes/labels/a b", "-n", 1)
    assert done.returncode == 0, done.stderr
    [following] = [line.removeprefix("Next: ") for line in done.stdout.splitlines() if line.startswith("Next: ")]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    pasted = subprocess.run(
        ["/bin/sh", "-c", f"{following} -n 1"], cwd=SCRIPTS.parents[1], env=environment, capture_output=True, text=True
    )
    assert pasted.returncode == 0, pasted.stderr
    assert zarr.open_group(str(container), mode="r")["volumes/metric_masks/a b"].shape == grey.shape
