"""Affinities that are predicted while they are segmented, against those that were stored before."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tracked_networks import track_network

from incasem_like.blockwise.workers_file import Workers
from incasem_like.errors import InputError
from incasem_like.prediction.experiment import predict_data
from incasem_like.segmentation.pipeline import segment
from incasem_like.segmentation.planning import plan_segmentation
from incasem_like.segmentation.predicted import predicted_volume
from incasem_like.segmentation.settings import SegmentationSection
from incasem_like.volumes import Roi, open_volume

NEIGHBOURS = [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
GROUPS = [
    {"name": "kinds", "channels": 2, "activation": "softmax"},
    {"name": "affinities", "channels": 3, "activation": "sigmoid", "attributes": {"offsets": NEIGHBOURS}},
]
SCRIPT = Path(__file__).parents[2] / "scripts/04_postprocessing/10_segment.py"
TILES = ("prediction.input_size_voxels=[30,30,30]",)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def training(laboratory, enliven):
    return track_network(laboratory, enliven, outputs=GROUPS, num_fmaps_out=5)


def stored(laboratory, training, dtype):
    config = laboratory.config(None, f"prediction.output_dtype={dtype}", *TILES)
    done = predict_data(config, training, store=lambda: laboratory.store)
    place = done.locations["cell_er"]
    return config, open_volume(place.container, f"{place.group}/affinities")


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_is_read_is_what_a_prediction_stores(laboratory, training, dtype):
    config, volume = stored(laboratory, training, dtype)
    virtual = predicted_volume(config, [training])
    assert (virtual.roi, virtual.shape, virtual.dtype) == (volume.roi, volume.shape, volume.dtype)
    assert (virtual.voxel_size, virtual.offset) == (volume.voxel_size, volume.offset)
    assert virtual.attributes["offsets"] == volume.attributes["offsets"]
    begin = volume.roi.begin
    for roi in (volume.roi, Roi([one + 3 for one in begin], (9, 17, 11))):
        np.testing.assert_array_equal(virtual.read(roi), volume.read(roi))
    around = volume.roi.grow((2, 0, 1), (0, 3, 0))
    np.testing.assert_array_equal(virtual.read(around, outside="constant"), volume.read(around, outside="constant"))


@pytest.mark.parametrize("method", ["watershed", "connected_components"])
@pytest.mark.slow
def test_one_pass_segments_as_two_passes_do(laboratory, training, method):
    config, volume = stored(laboratory, training, "uint8")
    threshold = float(np.quantile(volume.read() / 255, 0.5))
    options = {
        "watershed": {"boundary_threshold": threshold, "seed_distance": 30},
        "connected_components": {"threshold": threshold},
    }
    section = SegmentationSection.model_validate(
        {"method": method, method: options[method], "block_shape": (12, 16, 20)}
    )
    results = []
    for source, workers in (
        (volume, None),
        (predicted_volume(config, [training]), Workers.local(2) if method == "watershed" else None),
    ):
        made = segment(plan_segmentation(source, section), workers=workers)
        labels = open_volume(made["segmentations"][0]["address"]).read()
        results.append(({name: made.get(name) for name in ("fragments", "edges")}, labels))
    (counts, labels), (counts_in_one_pass, labels_in_one_pass) = results
    assert counts == counts_in_one_pass
    assert len(np.unique(labels)) > 3
    np.testing.assert_array_equal(labels, labels_in_one_pass)
    assert not list(Path(laboratory.container).glob("**/not_stored/**/affinities"))


def test_a_region_and_a_target_must_exist(laboratory, training):
    config = laboratory.config(None, *TILES)
    with pytest.raises(InputError, match="add --region, one of them"):
        predicted_volume(config, [training], region="nucleus")
    with pytest.raises(InputError, match="has no target lsd: choose one of kinds, affinities"):
        predicted_volume(config, [training], target="lsd")
    with pytest.raises(InputError, match="predicts classes"):
        predicted_volume(config, [laboratory.training])


def test_the_script_predicts_and_segments(laboratory, training, tmp_path):
    laboratory.config()  # writes the data configuration
    config = tmp_path / "predict.yaml"
    config.write_text(
        f"prediction: {{data: {laboratory.folder / 'predict.json'}, input_size_voxels: [30, 30, 30]}}\n"
        f"directories: {{runs: {laboratory.runs}, data: {laboratory.folder / 'data'}}}\ntorch: {{device: cpu}}\n"
    )
    environment = {**os.environ, "INCASEM_RUNS": str(laboratory.runs)}

    def call(*words):
        command = [sys.executable, SCRIPT, "--predict", config, *map(str, words), "--num_workers", "1", "-u"]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    done = call("--training", training.id, "with", "segmentation.method=connected_components")
    assert done.returncode == 0, done.stderr
    assert "not_stored/cell_er/affinities_connected_components/segmentation" in done.stdout
    wrong = call()
    assert (wrong.returncode, "--predict needs --training" in wrong.stderr) == (2, True)
