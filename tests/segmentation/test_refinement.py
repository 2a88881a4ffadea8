"""Refinement, blockwise, against scipy and numpy on the whole array."""

import csv
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from incasem_like.errors import DataError, InputError
from incasem_like.formatting.operations import dilate_labels
from incasem_like.segmentation.morphology import close_labels, erode_labels, open_labels
from incasem_like.segmentation.refinement import filtered, read_merges, read_remap
from incasem_like.segmentation.refinement_run import Refinement, refine_as_run
from incasem_like.tracking import open_store
from incasem_like.volumes import create_volume, open_volume

SCRIPT = Path(__file__).parents[2] / "scripts/04_postprocessing/12_refine_segmentation.py"
SHAPE = (12, 13, 14)
fuzz = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
blocks = st.tuples(*(st.integers(4, size + 2) for size in SHAPE))


@pytest.fixture
def write(tmp_path):
    numbers = itertools.count()

    def written(labels):
        name = f"data_{next(numbers)}"
        volume = create_volume(
            tmp_path / "cell.zarr", name, shape=labels.shape, dtype=labels.dtype, voxel_size=(8, 4, 4),
            offset=(16, 4, 0), chunk_shape=(5, 4, 6),
        )  # fmt: skip
        volume.write(labels)
        volume.mark_complete()
        return str(open_volume(tmp_path / "cell.zarr", name).address)

    return written


def objects_of(seed, share=0.15):
    """Compact objects of different sizes with holes, and some background between."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random(SHAPE), 1)
    labels = ndimage.label(smooth > np.quantile(smooth, 0.45), ndimage.generate_binary_structure(3, 1))[0]
    halves = np.indices(SHAPE)[2] // 5
    labels = np.where(labels > 0, labels * 10 + halves, 0)
    labels[rng.random(SHAPE) < share / 10] = 0
    return labels.astype(np.uint32)


def refine(source, tmp_path, operation, block=(12, 13, 14), **options):
    output = f"{tmp_path}/cell.zarr/out_{len(list((tmp_path / 'cell.zarr').iterdir()))}"
    request = Refinement(
        operation=operation, segmentation=source, output=output, block_shape=block, most_removed=1, **options
    )
    dry = refine_as_run(Refinement(**{**request.__dict__, "output": None}), store=None)
    assert not Path(output).exists()
    result = refine_as_run(request, store=None)
    assert result["report"] == dry["report"]
    made = open_volume(result["address"])
    before = open_volume(source)
    assert (made.dtype, made.roi, made.voxel_size) == (before.dtype, before.roi, before.voxel_size)
    return made.read(), result["report"]


@fuzz
@given(block=blocks, seed=st.integers(0, 99))
def test_filters_judge_whole_objects_whatever_the_blocks(write, tmp_path, block, seed):
    labels = objects_of(seed)
    ids, sizes = np.unique(labels[labels > 0], return_counts=True)
    least, most = np.quantile(sizes, [0.3, 0.95]).astype(int).tolist()
    least, most = max(1, least), max(2, most)
    found, report = refine(
        write(labels), tmp_path, "filter", block, min_size=least, max_size=most, outliers=2.0, min_sections=4
    )
    kept = (sizes >= least) & (sizes <= most)
    mean, deviation = sizes[kept].mean(), sizes[kept].std()
    kept &= np.abs(sizes - mean) <= 2 * deviation
    kept &= np.array([np.ptp(np.nonzero(labels == one)[0]) + 1 >= 4 for one in ids])
    np.testing.assert_array_equal(found, np.where(np.isin(labels, ids[kept]), labels, 0))
    assert report["removed_objects"] == np.count_nonzero(~kept)
    assert report["removed_voxels"] == sizes[~kept].sum()
    assert report["objects_after"] == np.count_nonzero(kept)


STEPS = {"erode": erode_labels, "dilate": dilate_labels, "open": open_labels, "close": close_labels}


@fuzz
@given(blocks, st.integers(0, 99), st.sampled_from(list(STEPS)), st.integers(1, 2), st.booleans())
def test_morphology_does_not_depend_on_blocks(write, tmp_path, block, seed, operation, steps, in_plane):
    labels = objects_of(seed)
    found, report = refine(write(labels), tmp_path, operation, block, steps=steps, in_plane=in_plane)
    np.testing.assert_array_equal(found, STEPS[operation](labels, steps, in_plane))
    assert report["removed_objects"] == len(set(np.unique(labels)) - set(np.unique(found)))
    changes = np.bincount(found.ravel(), minlength=10_000) - np.bincount(labels.ravel(), minlength=10_000)
    assert report["added_voxels"] == changes[1:][changes[1:] > 0].sum()
    assert report["removed_voxels"] == -changes[1:][changes[1:] < 0].sum()


@pytest.mark.parametrize("in_plane", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_morphology_of_each_object_is_that_of_scipy(steps, in_plane):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (4, 4, 4)).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    labels[rng.random(labels.shape) < 0.02] = 0
    structure = ndimage.generate_binary_structure(3, 1)
    structure[[0, 2]] &= not in_plane
    eroded, opened = erode_labels(labels, steps, in_plane), open_labels(labels, steps, in_plane)
    for one in (1, 2, 3):
        alone = labels == one
        expected = ndimage.binary_erosion(alone, structure, steps, border_value=1)
        np.testing.assert_array_equal(eroded == one, expected)
        np.testing.assert_array_equal(opened == one, ndimage.binary_dilation(expected, structure, steps))
        around = np.pad(alone, 9)
        closed = ndimage.binary_closing(around, structure, steps)[9:-9, 9:-9, 9:-9] | alone
        np.testing.assert_array_equal(close_labels(alone.astype(np.uint8), steps, in_plane) > 0, closed)


def test_closing_leaves_the_gap_between_two_objects():
    labels = np.zeros((5, 9, 11), np.uint8)
    labels[:, :, :5], labels[:, :, 6:] = 1, 2
    labels[2, 4, 2] = 0
    closed = close_labels(labels, 1)
    assert closed[2, 4, 2] == 1
    assert not closed[:, :, 5].any()


@fuzz
@given(block=blocks, seed=st.integers(0, 99))
def test_holes_of_any_size_are_filled_whatever_the_blocks(write, tmp_path, block, seed):
    labels = objects_of(seed)
    background, count = ndimage.label(labels == 0)
    expected, filled = labels.copy(), 0
    for hole in range(1, count + 1):
        inside = background == hole
        around = np.unique(labels[ndimage.binary_dilation(inside) & ~inside])
        if len(around) == 1 and inside.sum() == inside[1:-1, 1:-1, 1:-1].sum():
            expected[inside] = around[0]
            filled += 1
    assume(filled > 0)
    found, report = refine(write(labels), tmp_path, "fill_holes", block)
    np.testing.assert_array_equal(found, expected)
    assert report["holes"] == filled
    assert report["added_voxels"] == (found != labels).sum()


def test_lists_give_objects_other_ids_and_merge_them(write, tmp_path):
    labels = objects_of(1)
    ids = np.unique(labels[labels > 0])
    source = write(labels)
    path = tmp_path / "remap.csv"
    path.write_text(f"id,new_id\n{ids[0]},0\n{ids[1]},77777\n123456,5\n")
    found, report = refine(source, tmp_path, "remap", remap=str(path))
    expected = labels.copy()
    expected[labels == ids[0]], expected[labels == ids[1]] = 0, 77777
    np.testing.assert_array_equal(found, expected)
    assert (report["removed_objects"], report["unknown_ids"]) == (1, 1)
    path.write_text(f"{ids[3]},{ids[2]}\n{ids[5]},{ids[4]}\n{ids[2]},{ids[1]}\n")
    assert read_merges(path) == {ids[3]: ids[3], ids[2]: ids[3], ids[1]: ids[3], ids[5]: ids[5], ids[4]: ids[5]}
    found, report = refine(source, tmp_path, "remap", merge=str(path))
    for new, olds in ((ids[3], ids[1:4]), (ids[5], ids[4:6])):
        np.testing.assert_array_equal(found == new, np.isin(labels, olds))
    assert report["objects_after"] == len(ids) - 3


def test_filters_of_no_objects_and_of_equal_objects_remove_nothing():
    nothing = {name: np.zeros(0, np.int64) for name in ("id", "size", "z_first", "z_last")}
    assert not len(filtered(nothing, min_size=3, outliers=1.0).ids)
    equal = {"id": np.arange(1, 5), "size": np.full(4, 9), "z_first": np.zeros(4), "z_last": np.zeros(4)}
    assert not filtered(equal, outliers=0.5).removed.any()


@pytest.mark.parametrize(
    ("operation", "options", "message"),
    [
        ("filter", {}, "needs a limit"),
        ("filter", {"min_size": -1}, "give more than 0"),
        ("erode", {"steps": 0}, "--steps is 0: give more than 0"),
        ("fill_holes", {"min_sections": 0}, "fill_holes has no --min_sections"),
        ("filter", {"steps": 2, "min_size": 4}, "filter has no --steps"),
        ("remap", {}, "needs one list"),
        ("erode", {"steps": 30, "most_removed": 0.9}, "more than the share --most_removed 0.9"),
        ("filter", {"min_size": 10**6}, "change the options, or raise it"),
        ("filter", {"min_size": 2, "most_removed": 2.0}, "give a share from 0 to 1"),
        ("filter", {"min_size": 9, "max_size": 8}, "--min_size 9 is above --max_size 8"),
        ("filter", {"outliers": float("nan")}, "--outliers is nan"),
    ],
)
def test_options_that_do_not_suit_are_refused_before_anything_is_written(write, tmp_path, operation, options, message):
    output = f"{tmp_path}/cell.zarr/refined"
    request = Refinement(operation=operation, segmentation=write(objects_of(0)), output=output, **options)
    with pytest.raises(InputError, match=message):
        refine_as_run(request, store=None)
    assert not Path(output).exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n", "3 values in row 1"),
        ("id,new_id\n", "has no ids"),
        ("1,2\n1,3\n", "the id 1 twice"),
        ("1,2\na,b\n", "in row 2"),
        ("1,99999999999999999999999\n", "2\\^64"),
    ],
)
def test_a_list_that_is_not_of_ids_is_refused(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_remap(path)


def test_negative_labels_are_refused(write, tmp_path):
    with pytest.raises(DataError, match="holds the label -1 at z"):
        refine(write(objects_of(0).astype(np.int32) - 1), tmp_path, "fill_holes")


def test_lists_of_another_segmentation_and_ids_beyond_the_data_type_are_refused(write, tmp_path):
    labels = objects_of(0).astype(np.uint16)
    source, path = write(labels), tmp_path / "list.csv"
    path.write_text("54321,1\n")
    with pytest.raises(DataError, match="None of the 1 ids"):
        refine(source, tmp_path, "remap", remap=str(path))
    path.write_text(f"{labels.max()},70000\n")
    with pytest.raises(InputError, match="70000 does not fit into uint16"):
        refine(source, tmp_path, "remap", remap=str(path))


def test_the_script_reports_and_its_run_keeps_the_list(write, tmp_path):
    source = write(objects_of(2))
    environment = {**os.environ, "INCASEM_RUNS": str(tmp_path / "runs")}

    def call(*words):
        command = [sys.executable, SCRIPT, "filter", "-s", source, "--min_size", "30", "-n", "1", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    output = f"{tmp_path}/cell.zarr/refined"
    dry = call("--dry_run", "-o", output, "--removed", tmp_path / "removed.csv")
    assert dry.returncode == 0, dry.stderr
    assert not Path(output).exists()
    removed = list(csv.DictReader((tmp_path / "removed.csv").open()))
    assert f"removed objects: {len(removed)}\n" in dry.stdout
    assert {row["reason"] for row in removed} == {"too small"}
    done = call("-o", output)
    assert done.returncode == 0, done.stderr
    assert f"Wrote segmentation: {output}" in done.stdout
    record = open_store(None, kind="segmentations", runs_directory=tmp_path / "runs").get(1)
    assert record.document["result"]["report"]["removed_objects"] == len(removed)
    assert open_volume(output).provenance["run_id"] == 1
    assert f"Already there: segmentation: {output}" in call("-o", output).stdout
    assert [path.name for path in (tmp_path / "cell.zarr").iterdir() if "table" in path.name] == []
    wrong = call()
    assert (wrong.returncode, len(wrong.stderr.strip().splitlines())) == (2, 1)
