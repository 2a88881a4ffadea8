"""Threshold segmentation against comparing the whole array at once, through the function and through the script."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from incasem_like.errors import DataError, InputError
from incasem_like.segmentation.threshold import ThresholdSegmentation, segment_as_run
from incasem_like.tracking import open_store
from incasem_like.volumes import open_volume

SCRIPT = Path(__file__).parents[2] / "scripts/04_postprocessing/00_extract_segmentation_with_threshold.py"
SHAPE = (6, 9, 7)


@pytest.fixture
def probabilities():
    return np.random.default_rng(8).random(SHAPE).astype(np.float32)


def request(tmp_path, **changes):
    given = {"dataset": "probs", "out_dataset": "seg", "threshold": 0.6, "chunk_shape": (4, 4, 4)}
    return ThresholdSegmentation(prediction_filename=str(tmp_path / "cell.zarr"), **{**given, **changes})


@pytest.mark.parametrize("num_workers", [1, 2])
def test_voxels_that_reach_the_threshold_are_one(num_workers, probabilities, make_volume, tmp_path):
    probabilities[0, 0, :2] = np.float32(0.6), np.nextafter(np.float32(0.6), np.float32(0))
    make_volume("probs", probabilities, begin=(3, 0, 5), provenance={"run_id": 12})
    result = segment_as_run(request(tmp_path), store=None, num_workers=num_workers)
    written = open_volume(tmp_path / "cell.zarr", "seg")
    assert result["address"] == str(written.address)
    np.testing.assert_array_equal(written.read(), (probabilities >= np.float32(0.6)).astype(np.uint8))
    assert written.dtype == np.uint8
    assert written.read()[0, 0, :2].tolist() == [1, 0]
    assert written.roi.begin == (3, 0, 5)
    assert written.provenance["parameters"] == {"threshold": 0.6}
    assert written.provenance["inputs"][0]["provenance_hash"]
    np.testing.assert_array_equal(zarr.open(str(tmp_path / "cell.zarr"))["seg"][:], written.read())


def test_stored_uint8_is_read_by_its_scale(make_volume, tmp_path):
    levels = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint8)
    make_volume("probs", levels, attributes={"scale": 255})
    segment_as_run(request(tmp_path, threshold=0.2), store=None)
    np.testing.assert_array_equal(open_volume(tmp_path / "cell.zarr", "seg").read(), levels / 255 >= 0.2)


def test_a_mask_of_255_that_covers_more_is_applied_at_the_right_place(probabilities, make_volume, tmp_path):
    make_volume("probs", probabilities, begin=(3, 2, 1))
    mask = np.random.default_rng(9).integers(0, 2, (12, 12, 12)).astype(np.uint8) * 255
    make_volume("volumes/mask", mask)
    segment_as_run(request(tmp_path, mask="volumes/mask"), store=None)
    expected = (probabilities >= 0.6) & (mask[3:9, 2:11, 1:8] != 0)
    np.testing.assert_array_equal(open_volume(tmp_path / "cell.zarr", "seg").read(), expected)


def test_a_mask_file_alone_means_its_volumes_mask(probabilities, make_volume, tmp_path):
    make_volume("probs", probabilities)
    make_volume("volumes/mask", np.zeros(SHAPE, dtype=np.uint8))
    segment_as_run(request(tmp_path, mask_filename=str(tmp_path / "cell.zarr")), store=None)
    assert not open_volume(tmp_path / "cell.zarr", "seg").read().any()


def test_a_second_call_finds_it_done_and_another_threshold_is_refused(probabilities, make_volume, tmp_path):
    make_volume("probs", probabilities)
    store = open_store(None, kind="segmentations", runs_directory=tmp_path / "runs")
    first = segment_as_run(request(tmp_path), store=store, run_name="first")
    assert (first["blocks"], first["run_id"]) == (12, 1)
    assert open_volume(tmp_path / "cell.zarr", "seg").provenance["run_id"] == 1
    again = segment_as_run(request(tmp_path), store=store)
    assert (again["blocks"], again["run_id"]) == (0, None)
    with pytest.raises(InputError, match="--overwrite"):
        segment_as_run(request(tmp_path, threshold=0.7), store=store)
    assert store.ids() == [1]
    assert store.get(1).config["threshold"] == 0.6
    segment_as_run(request(tmp_path, threshold=0.7), store=store, overwrite=True)
    np.testing.assert_array_equal(open_volume(tmp_path / "cell.zarr", "seg").read(), probabilities >= np.float32(0.7))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"threshold": 60}, InputError, "from 0 to 1"),
        ({"out_dataset": "probs"}, InputError, "would replace the input"),
        ({"dataset": "ids"}, DataError, "uint32 without a scale"),
        ({"dataset": "channels"}, DataError, "name one class's dataset"),
        ({"mask": "small"}, DataError, "covers z 0-5, y 0-8, x 0-3, but the probability map z 0-5, y 0-8, x 0-6"),
        ({"mask": "coarse"}, DataError, r"voxels of 9\.2 8 8 nm, but .* has 4\.6 4 4 nm"),
        ({"mask": "none"}, DataError, "none"),
        ({"mask": "probs"}, DataError, "holds float32, but labels and masks are integers"),
        ({"mask": "negative"}, DataError, "negative holds the label -1 at z 0, y 0, x 0"),
        ({"dataset": "zero_one"}, DataError, r'holds only 0 and 1 as uint8.*"scale": 1 \(segmentation\).*\.zattrs'),
        ({"dataset": "levels"}, DataError, r"levels holds 40 at z 0, y 0, x 1, but .* 0 to 1 here"),
        ({"dataset": "logits"}, DataError, r"logits holds -3 at z 5, y 8, x 6"),
        ({"dataset": "nan"}, DataError, r"nan holds nan at z 2, y 0, x 0"),
    ],
)
def test_what_cannot_be_segmented_is_one_sentence(changes, error, message, probabilities, make_volume, tmp_path):
    make_volume("probs", probabilities)
    make_volume("ids", np.zeros(SHAPE, dtype=np.uint32))
    make_volume("channels", np.zeros((2, *SHAPE), dtype=np.float32), axes="czyx")
    make_volume("small", np.ones((6, 9, 4), dtype=np.uint8))
    make_volume("negative", np.full(SHAPE, -1, dtype=np.int8))
    make_volume("zero_one", (probabilities > 0.5).astype(np.uint8))
    make_volume("levels", np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) * 40)
    logits, nan = probabilities.copy(), probabilities.copy()
    logits[-1, -1, -1], nan[2:] = -3, np.nan
    make_volume("logits", logits)
    make_volume("nan", nan)
    make_volume("coarse", np.ones(SHAPE, dtype=np.uint8), voxel_size=(9.2, 8.0, 8.0))
    with pytest.raises(error, match=message):
        segment_as_run(request(tmp_path, **changes), store=None)
    assert not (tmp_path / "cell.zarr/seg").exists()


@pytest.mark.parametrize("levels", [[0, 2], [0, 255], [0, 0]])
def test_uint8_without_a_scale_is_x255_unless_it_holds_only_0_and_1(levels, make_volume, tmp_path):
    stored = np.random.default_rng(3).choice(np.array(levels, np.uint8), SHAPE)
    make_volume("probs", stored)
    segment_as_run(request(tmp_path, threshold=0.5), store=None)
    np.testing.assert_array_equal(open_volume(tmp_path / "cell.zarr", "seg").read(), stored >= 127.5)


def test_what_lies_outside_the_mask_may_hold_anything(probabilities, make_volume, tmp_path):
    mask = np.random.default_rng(4).integers(0, 2, SHAPE).astype(np.uint8)
    make_volume("probs", np.where(mask, probabilities, np.nan).astype(np.float32))
    make_volume("mask", mask)
    segment_as_run(request(tmp_path, mask="mask"), store=None)
    np.testing.assert_array_equal(
        open_volume(tmp_path / "cell.zarr", "seg").read(), (probabilities >= np.float32(0.6)) & (mask == 1)
    )


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_bad_value_met_late_ends_the_work_and_leaves_no_complete_segmentation(
    num_workers, probabilities, make_volume, tmp_path, monkeypatch
):
    monkeypatch.setattr("incasem_like.segmentation.threshold.VOXELS_AT_ONCE", 1)  # a block is looked at beforehand
    probabilities[-1, -1, -1] = 7
    make_volume("probs", probabilities)
    with pytest.raises(DataError, match="probs holds 7 at z 5, y 8, x 6"):
        segment_as_run(request(tmp_path), store=None, num_workers=num_workers)
    assert not open_volume(tmp_path / "cell.zarr", "seg", allow_incomplete=True).complete


def run(*flags, cwd):
    command = [sys.executable, str(SCRIPT), "--runs", "runs", "-n", "1", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


def test_the_script_segments_and_says_when_it_was_done(probabilities, make_volume, tmp_path):
    make_volume("probs", probabilities)
    flags = ["--prediction_filename", "cell.zarr", "-d", "probs", "-o", "volumes/segmentation/er", "-t", 0.5]
    done = run(*flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Next: python scripts/04_postprocessing/20_convert_zarr_to_image_sequence.py" in done.stdout
    written = open_volume(tmp_path / "cell.zarr/volumes/segmentation/er")
    np.testing.assert_array_equal(written.read(), probabilities >= 0.5)
    again = run(*flags, cwd=tmp_path)
    assert (again.returncode, "Already complete" in again.stdout) == (0, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prediction_filename", "cell.zarr", "-d", "none", "-o", "seg", "-t", "0.5"], "none"),
        (["--prediction_filename", "none.zarr", "-d", "probs", "-o", "seg", "-t", "0.5"], "none.zarr"),
        (["--prediction_filename", "cell.zarr", "-d", "probs", "-o", "seg", "-t", "5"], "from 0 to 1"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(flags, message, probabilities, make_volume, tmp_path):
    make_volume("probs", probabilities)
    done = run(*flags, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
