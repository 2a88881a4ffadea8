"""10_segment.py, from a prediction's id and from a path, and the evaluation of what it writes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from instances import NEIGHBOURS, affinities_of, same_partition

from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.segmentation.segment_run import predicted_dataset
from incasem_like.tracking import open_store, run_experiment
from incasem_like.volumes import create_volume, open_volume

SCRIPTS = Path(__file__).parents[2] / "scripts/04_postprocessing"
GROUP = "volumes/predictions/train_0003/predict_0001"


@pytest.fixture
def cubes():
    return np.kron(np.arange(1, 28).reshape(3, 3, 3), np.ones((6, 6, 6), int))


@pytest.fixture
def prediction(tmp_path, cubes):
    """A prediction run with a dataset of affinities, in a store of files."""
    values = (affinities_of(cubes, NEIGHBOURS) * 255).astype(np.uint8)
    volume = create_volume(
        tmp_path / "cell.zarr", f"{GROUP}/affinities", shape=values.shape, dtype="uint8", voxel_size=(8, 8, 8),
        axes="czyx", chunk_shape=(8, 8, 8), attributes={"offsets": NEIGHBOURS, "scale": 255},
    )  # fmt: skip
    volume.write(values)
    volume.mark_complete()
    store = open_store(None, kind="predictions", runs_directory=tmp_path / "runs")
    result = {"outputs": {"cell": str(volume.address)}}
    run_experiment(name="predict", config={}, main=lambda run: result, store=store)
    return store.get(1)


def call(script, *words, runs):
    environment = {**os.environ, "INCASEM_RUNS": str(runs)}
    command = [sys.executable, SCRIPTS / script, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_prediction_s_id_becomes_objects_and_the_run_names_its_parent(prediction, cubes, tmp_path):
    options = ["with", "segmentation.method=connected_components", "segmentation.block_shape=[9,9,9]"]
    done = call("10_segment.py", "--run_id", 1, "--num_workers", 1, *options, runs=tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    address = f"{tmp_path}/cell.zarr/{GROUP}/affinities_connected_components/segmentation"
    assert f"Wrote segmentation (27 objects): {address}" in done.stdout
    segmentation = open_volume(address)
    assert same_partition(segmentation.read(), cubes)
    assert segmentation.provenance["run_id"] == 1
    record = open_store(None, kind="segmentations", runs_directory=tmp_path / "runs").get(1)
    assert record.status == "COMPLETED"
    assert record.info["prediction_run_id"] == 1
    assert record.config["segmentation"]["method"] == "connected_components"
    again = call("10_segment.py", "--run_id", 1, *options, runs=tmp_path / "runs")
    assert (again.returncode, f"Already there: segmentation: {address}" in again.stdout) == (0, True)
    evaluated = call("15_evaluate_segmentation.py", "-p", address, "-l", address, "-n", 1, "-u", runs=tmp_path / "runs")
    assert "Lowest VOI: 0.0000" in evaluated.stdout, evaluated.stderr


def test_of_several_targets_the_affinities_are_segmented(prediction, tmp_path):
    container = str(tmp_path / "cell.zarr")
    lsd = create_volume(
        container, f"{GROUP}/lsd", shape=(10, 18, 18, 18), dtype="uint8", voxel_size=(8, 8, 8), axes="czyx",
        attributes={"target": "lsd", "scale": 255},
    )  # fmt: skip
    lsd.mark_complete()
    result = {"outputs": {"cell": str(lsd.address)}}
    run_experiment(name="predict", config={}, main=lambda run: result, store=prediction.store)
    assert predicted_dataset(prediction.store.get(2)).dataset == f"{GROUP}/affinities"


def test_mistakes_end_in_one_sentence(prediction, tmp_path):
    for words, message in (
        ((), "--run_id ID, or -f CONTAINER"),
        (("--run_id", 7), "7"),
        (("--run_id", 1, "with", "segmentation.method=voronoi"), "is not a method"),
        (("-f", tmp_path / "cell.zarr", "-d", "missing"), "missing"),
    ):
        done = call("10_segment.py", *words, runs=tmp_path / "runs")
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_a_region_and_a_dataset_of_the_prediction_can_be_chosen(prediction, tmp_path):
    assert predicted_dataset(prediction).dataset == f"{GROUP}/affinities"
    assert predicted_dataset(prediction, "cell", "affinities").dataset == f"{GROUP}/affinities"
    with pytest.raises(InputError, match="no region nucleus"):
        predicted_dataset(prediction, "nucleus")
    store = open_store(None, kind="predictions", runs_directory=tmp_path / "runs")
    run_experiment(name="predict", config={}, main=lambda run: {"outputs": {"a": "x", "b": "y"}}, store=store)
    with pytest.raises(InputError, match="several regions: add --region, one of a, b"):
        predicted_dataset(store.get(2))
    run_experiment(name="predict", config={}, main=lambda run: None, store=store)
    with pytest.raises(RunNotFoundError, match="has no result"):
        predicted_dataset(store.get(3))
