"""Self-consistency in blocks, against whole arrays and definitions written out voxel by voxel."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from instances import NEIGHBOURS, affinities_of

from incasem_like.disk import only_writer
from incasem_like.errors import DataError, InputError
from incasem_like.evaluation.self_consistency import SelfConsistency, self_consistency_as_run
from incasem_like.targets import DESCRIPTOR_NAMES, local_shape_descriptors
from incasem_like.tracking import open_store
from incasem_like.volumes import open_volume

SCRIPT = Path(__file__).parents[2] / "scripts/04_postprocessing/18_self_consistency.py"
OFFSETS = [*NEIGHBOURS, (0, 0, -3)]
BLOCKS = {"block_shape": (4, 8, 8)}


@pytest.fixture
def slabs():
    """Three objects behind one another along x, with a hole of background."""
    labels = np.repeat(np.arange(1, 4), 5)[None, None] * np.ones((8, 9, 1), int)
    labels[2:5, 3:6, 6:9] = 0
    return labels.astype(np.uint32)


def predicted(make_volume, values, **attributes):
    return make_volume("prediction", values, axes="czyx", chunk_shape=(4, 4, 4), attributes=attributes)


def compare(volumes, tmp_path=None, **options):
    prediction, *segmentations = (str(volume.address) for volume in volumes)
    store = open_store(None, kind="evaluations", runs_directory=tmp_path / "runs") if tmp_path else None
    request = SelfConsistency(prediction=prediction, segmentations=tuple(segmentations), **BLOCKS | options)
    return self_consistency_as_run(request, store=store)


def brute_force(predicted, labels, offsets):
    """The root of the mean squared difference over those offsets that stay in the array, voxel by voxel."""
    errors = np.zeros(labels.shape)
    for voxel in np.ndindex(labels.shape):
        squares = []
        for channel, offset in enumerate(offsets):
            other = tuple(np.add(voxel, offset))
            if all(0 <= at < size for at, size in zip(other, labels.shape, strict=True)):
                same = labels[voxel] == labels[other] != 0
                squares.append((predicted[(channel, *voxel)] - same) ** 2)
        errors[voxel] = np.sqrt(np.mean(squares)) if squares else 0
    return errors


def test_errors_of_affinities_are_those_of_the_whole_array(make_volume, slabs):
    values = np.random.default_rng(0).random((4, *slabs.shape)).astype(np.float32)
    volumes = predicted(make_volume, values, offsets=OFFSETS, scale=1), make_volume("objects", slabs)
    found = compare(volumes)["scores"][str(volumes[1].address)]
    expected = brute_force(values, slabs, OFFSETS)
    stored = open_volume(f"{found['group']}/error_map").read()
    np.testing.assert_allclose(stored / 255, expected, atol=0.5 / 255 + 1e-6)
    assert found["error"] == pytest.approx(np.sqrt(np.mean((stored / 255) ** 2)))
    with np.load(Path(found["group"]) / "objects.npz") as table:
        assert table["id"].tolist() == [0, 1, 2, 3]
        assert table["voxels"].tolist() == np.bincount(slabs.ravel()).tolist()
        means = [np.sqrt(np.mean((stored[slabs == one] / 255) ** 2)) for one in range(4)]
        np.testing.assert_allclose(table["error"], means)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2)])
def test_errors_of_descriptors_are_those_of_the_whole_array(make_volume, slabs, axes):
    names = DESCRIPTOR_NAMES[len(axes)]
    values = np.random.default_rng(1).random((len(names), *slabs.shape)).astype(np.float32)
    known = {"sigma": [10.0] * len(axes), "mode": "gaussian", "downsample": 1, "axes": axes, "channel_names": names}
    volumes = predicted(make_volume, values, scale=1, **known), make_volume("objects", slabs)
    found = compare(volumes, trusted_share=1.0)["scores"][str(volumes[1].address)]
    described = local_shape_descriptors(slabs, 10.0, 5.0, axes=axes)
    expected = np.sqrt(np.mean((values - described) ** 2, axis=0)) * (slabs > 0)
    stored = open_volume(f"{found['group']}/error_map").read()
    np.testing.assert_allclose(stored / 255, expected, atol=0.5 / 255 + 1e-5)
    assert np.array_equal(open_volume(f"{found['group']}/trusted").read(), slabs > 0)


def test_the_segmentation_that_made_the_affinities_has_no_error_and_is_chosen(make_volume, slabs, tmp_path):
    values = (affinities_of(slabs, OFFSETS) * 255).astype(np.uint8)
    merged, split = np.where(slabs == 2, 1, slabs), slabs + 3 * (np.arange(8)[:, None, None] > 4) * (slabs > 0)
    volumes = [
        predicted(make_volume, values, offsets=OFFSETS, scale=255),
        make_volume("merged", merged), make_volume("right", slabs), make_volume("split", split.astype(np.uint32)),
    ]  # fmt: skip
    result = compare(volumes, tmp_path)
    errors = [found["error"] for found in result["scores"].values()]
    assert errors[1] == 0
    assert min(errors[0], errors[2]) > 0.01
    assert result["best"] == str(volumes[2].address)
    record = open_store(None, kind="evaluations", runs_directory=tmp_path / "runs").get(1)
    assert record.status == "COMPLETED"
    assert record.metrics["error"].values == pytest.approx(errors)


def test_voxels_and_objects_with_large_errors_are_not_trusted(make_volume, slabs):
    values = affinities_of(slabs, OFFSETS)
    values[:, :, :, 10:] = 0  # nothing of object 3 agrees
    mask = np.ones(slabs.shape, np.uint8)
    mask[0] = 0
    volumes = predicted(make_volume, values, offsets=OFFSETS, scale=1), make_volume("objects", slabs)
    masked = str(make_volume("mask", mask).address)
    found = compare(volumes, largest_error=0.6, largest_object_error=0.5, mask=masked)["scores"]
    group = next(iter(found.values()))["group"]
    errors, trusted = (open_volume(f"{group}/{name}").read() for name in ("error_map", "trusted"))
    assert not errors[0].any()
    assert np.array_equal(trusted, mask * (errors <= 0.6 * 255) * (slabs != 3))
    assert np.array_equal(open_volume(f"{group}/weight").read(), trusted * (255 - errors))


def test_weights_by_object_are_one_minus_the_error_of_the_object(make_volume, slabs):
    values = np.random.default_rng(2).random((4, *slabs.shape)).astype(np.float32)
    values[..., 5:10] = affinities_of(slabs, OFFSETS)[..., 5:10]
    volumes = predicted(make_volume, values, offsets=OFFSETS, scale=1), make_volume("objects", slabs)
    found = compare(volumes, largest_error=0.7, weight_by="objects")["scores"]
    group = next(iter(found.values()))["group"]
    trusted, weight = (open_volume(f"{group}/{name}").read() for name in ("trusted", "weight"))
    errors = open_volume(f"{group}/error_map").read() / 255
    for one in range(4):
        expected = 1 - np.sqrt((errors[slabs == one] ** 2).mean())
        found = weight[(slabs == one) & (trusted > 0)] / 255
        assert found.size
        assert np.allclose(found, expected, atol=0.5 / 255 + 1e-9)
    assert not weight[trusted == 0].any()


def test_a_share_is_that_of_the_volume_not_of_blocks(make_volume, slabs):
    values = np.random.default_rng(2).random((4, *slabs.shape)).astype(np.float32)
    values[:, :4] = affinities_of(slabs, OFFSETS)[:, :4]  # in the first blocks nothing is wrong
    volumes = predicted(make_volume, values, offsets=OFFSETS, scale=1), make_volume("objects", slabs)
    found = compare(volumes, trusted_share=0.5)["scores"]
    group = next(iter(found.values()))["group"]
    errors, trusted = (open_volume(f"{group}/{name}").read() for name in ("error_map", "trusted"))
    assert trusted[:4].all()
    assert np.array_equal(trusted, errors <= np.quantile(errors, 0.5, method="inverted_cdf"))


def test_bad_input_is_one_sentence(make_volume, slabs):
    segmentation = make_volume("objects", slabs)
    unknown = make_volume("unknown", np.zeros((3, 8, 9, 15), np.float32), axes="czyx")
    with pytest.raises(DataError, match="neither affinities nor local shape descriptors"):
        compare([unknown, segmentation])
    good = predicted(make_volume, affinities_of(slabs, OFFSETS), offsets=OFFSETS, scale=1)
    with pytest.raises(DataError, match="give a segmentation of that prediction"):
        compare([good, make_volume("small", slabs[:4])])
    with pytest.raises(InputError, match="give a number from 0 to 1"):
        compare([good, segmentation], largest_error=2.0)
    with pytest.raises(InputError, match="named twice"):
        compare([good, segmentation, segmentation])
    with pytest.raises(DataError, match="holds the label -1"):
        compare([good, make_volume("negative", slabs.astype(np.int32) - 1)])
    nowhere = make_volume("nowhere", np.zeros(slabs.shape, np.uint8))
    with pytest.raises(DataError, match="the mask is 0 everywhere"):
        compare([good, make_volume("masked", slabs)], mask=str(nowhere.address))
    assert not Path(f"{segmentation.container}/masked_errors_prediction").exists()  # nothing is written


def test_a_refused_job_leaves_the_table_of_objects_as_it_was(make_volume, slabs, monkeypatch):
    values = affinities_of(slabs, OFFSETS)
    values[:, slabs == 2] = 0.5
    volumes = predicted(make_volume, values, offsets=OFFSETS, scale=1), make_volume("objects", slabs)
    group = compare(volumes)["scores"][str(volumes[1].address)]["group"]
    table = Path(group) / "objects.npz"
    before = table.read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        compare(volumes, largest_object_error=0.2)
    assert table.read_bytes() == before
    with only_writer(Path(group)), pytest.raises(InputError, match="Another process is writing"):
        compare(volumes)


def test_the_script_writes_a_run_and_refuses_other_options_in_its_place(make_volume, slabs, tmp_path):
    volumes = [
        predicted(make_volume, affinities_of(slabs, OFFSETS), offsets=OFFSETS, scale=1), make_volume("objects", slabs)
    ]  # fmt: skip
    words = ["-p", volumes[0].address, "-s", volumes[1].address, "--runs_directory", tmp_path / "runs", "-n", "1"]
    command = [sys.executable, SCRIPT, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Lowest error" in done.stdout
    other = subprocess.run([*command, "--largest_error", "0.5"], capture_output=True, text=True, check=False)
    assert other.returncode == 2, other.stderr
    assert "Traceback" not in other.stderr
