"""The search of segmentation parameters: every threshold scored as the segmentation itself, the best used by its id."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from instances import NEIGHBOURS, affinities_of
from scipy import ndimage

from incasem_like.errors import ConfigError, InputError
from incasem_like.evaluation.decode_search import search_as_run, validation_blocks
from incasem_like.evaluation.instance_run import score
from incasem_like.evaluation.instances import Contingency
from incasem_like.evaluation.search_config import load_search_config
from incasem_like.segmentation.pipeline import segment
from incasem_like.segmentation.planning import plan_segmentation
from incasem_like.segmentation.settings import SegmentationSection
from incasem_like.tracking import open_store, run_experiment
from incasem_like.viewing.error_figure import draw_errors
from incasem_like.viewing.run_report import report_of_run
from incasem_like.viewing.search_figure import search_figure
from incasem_like.volumes import Roi, create_volume, open_volume

SCRIPTS = Path(__file__).parents[2] / "scripts/04_postprocessing"
SHAPE = (12, 30, 30)


@pytest.fixture
def volumes(tmp_path):
    """Noisy affinities of neurons, and their labels, of which a part is missing."""
    rng = np.random.default_rng(4)
    distance = ndimage.gaussian_filter(rng.random(SHAPE), 3)
    peaks = ndimage.maximum_filter(distance, 9) == distance
    markers = ndimage.label(peaks)[0]
    nearest = ndimage.distance_transform_edt(markers == 0, return_distances=False, return_indices=True)
    labels = markers[tuple(nearest)].astype(np.uint32)
    affinities = affinities_of(labels, NEIGHBOURS).astype(np.float32)
    blurred = np.stack([ndimage.gaussian_filter(channel, 0.6) for channel in affinities])
    noisy = np.clip(blurred + rng.normal(0, 0.05, blurred.shape), 0, 1).astype(np.float32)
    made = {}
    for name, array, axes in (("affs", noisy, "czyx"), ("labels", labels, "zyx")):
        volume = create_volume(
            tmp_path / "cell.zarr", name, shape=array.shape, dtype=array.dtype, voxel_size=(8, 8, 8), axes=axes,
            offset=(16, 0, 8), chunk_shape=(8, 8, 8),
            attributes={"offsets": [list(offset) for offset in NEIGHBOURS]} if name == "affs" else None,
        )  # fmt: skip
        volume.write(array)
        volume.mark_complete()
        made[name] = open_volume(volume.address)
    return made["affs"], made["labels"]


def config_of(tmp_path, *updates):
    return load_search_config([], [f"directories.runs={tmp_path}/runs", *updates])


def test_each_threshold_is_scored_like_the_segmentation_that_it_makes(volumes, tmp_path):
    affinities, labels = volumes
    config = config_of(
        tmp_path,
        "search.space.segmentation.watershed.scoring=[mean,hist_quant_25]",
        "search.space.segmentation.min_size=[0,40]",
        "search.thresholds=[0.2,0.5,0.8]",
        "segmentation.block_shape=[8,16,16]",
    )
    rois = [Roi((2, 0, 1), (12, 16, 16)), Roi((4, 16, 1), (8, 14, 30))]
    blocks = validation_blocks(affinities, labels, rois, None, "refuse")
    store = open_store(None, kind="evaluations", runs_directory=tmp_path / "runs")
    result = search_as_run(config, blocks, store=store, draw=search_figure, draw_errors=draw_errors, num_workers=1)
    assert len(result["trials"]) == 4
    assert result["best"]["value"] == min(value for trial in result["trials"] for value in trial["values"])
    assert not list((tmp_path / "runs/searches").iterdir())
    # an independent segmentation of one block in memory
    config = config_of(tmp_path, "search.thresholds=[0.2,0.5,0.8]", "search.metric=rand_index",
                       "segmentation.watershed.scoring=hist_quant_25")  # fmt: skip
    one = search_as_run(config, blocks[:1], store=None, num_workers=1)
    crop = blocks[0].copy(tmp_path, 7)
    section = SegmentationSection.model_validate(
        {"watershed": {"scoring": "hist_quant_25", "threshold": [0.2, 0.5, 0.8]}}
    )
    made = segment(plan_segmentation(crop, section))["segmentations"]
    truth = labels.read(rois[0])
    expected = [score(Contingency.of(truth, open_volume(found["address"]).read()))["rand_index"] for found in made]
    assert one["trials"][0]["values"] == pytest.approx(expected)
    assert one["best"]["threshold"] == [0.2, 0.5, 0.8][int(np.argmax(expected))]
    record = store.get(1)
    assert record.info["searched_on"][0]["begin"] == [16, 0, 8]
    rows = list(csv.reader(io.StringIO(record.artifact("trials.csv").decode())))
    assert len(rows) == 5
    assert {picture.heading for picture in report_of_run(record).pictures} >= {"Search"}


def test_methods_without_a_cut_are_searched_by_their_own_options_one_search_at_a_time(volumes, tmp_path):
    affinities, labels = volumes
    config = config_of(
        tmp_path, "segmentation.method=connected_components", "search.method=optuna", "search.trials=4",
        "search.space.segmentation.connected_components.threshold={low: 0.3, high: 0.9}", "search.metric=f1",
    )  # fmt: skip
    blocks = validation_blocks(affinities, labels, [], None, "refuse")
    refused = []

    def search_beside(candidate):
        with pytest.raises(InputError, match="Another process is writing"):
            search_as_run(config, blocks, store=None, num_workers=1)
        refused.append(candidate)

    result = search_as_run(config, blocks, store=None, report=search_beside, num_workers=1)
    assert len(result["trials"]) == len(refused) == 4
    best = result["best"]
    assert best["threshold"] is None
    assert best["value"] == max(trial["value"] for trial in result["trials"])
    chosen = best["segmentation"]["connected_components"]["threshold"]
    assert chosen in [trial["parameters"]["segmentation.connected_components.threshold"] for trial in result["trials"]]


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ("search.metric=voy", "Unknown search.metric 'voy'; did you mean 'voi'"),
        ("search.space.training.lr=[1]", "not a key of the segmentation"),
        ("search.thresholds=[1.5]", "thresholds"),
        ("search.space.segmentation.watershed.scoring=[]", "search.space.segmentation.watershed.scoring is empty"),
    ],
)
def test_wrong_configurations_are_refused(tmp_path, update, message):
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, update)


def test_wrong_keys_and_values_are_refused_before_the_run(volumes, tmp_path):
    blocks = validation_blocks(*volumes, [], None, "refuse")
    store = open_store(None, kind="evaluations", runs_directory=tmp_path / "runs")
    for update, message in (
        ("search.space.segmentation.watershed.scorings=[mean]", "scorings is not a key"),
        ("search.space.segmentation.watershed.scoring=[mean,median]", "trial 1 of the search"),
    ):
        with pytest.raises(ConfigError, match=message):
            search_as_run(config_of(tmp_path, update), blocks, store=store)
    assert not store.summaries()
    with pytest.raises(InputError, match="above 0"):
        validation_blocks(*volumes, [Roi((2, 0, 1), (0, 4, 4))], None, "refuse")


def call(script, *words, runs):
    environment = {**os.environ, "INCASEM_RUNS": str(runs)}
    command = [sys.executable, SCRIPTS / script, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
def test_the_best_parameters_are_used_by_the_id_of_the_run(volumes, tmp_path):
    affinities, labels = volumes
    runs = tmp_path / "runs"
    store = open_store(None, kind="predictions", runs_directory=runs)
    outputs = {"outputs": {"cell": str(affinities.address)}}
    run_experiment(name="predict", config={}, main=lambda run: outputs, store=store)
    done = call("11_search_parameters.py", "--run_id", 1, "--labels", labels.address, "--num_workers", 1, "--block",
                2, 0, 1, 12, 16, 30, "with", "search.space.segmentation.watershed.scoring=[mean,hist_quant_75]",
                "search.thresholds=[0.1,0.3,0.6]", runs=runs)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Best voi: " in done.stdout
    outside = call("11_search_parameters.py", "--run_id", 1, "--labels", labels.address, "--num_workers", 1, "--block",
                   2, 0, 1, 999, 16, 30, runs=runs)  # fmt: skip
    assert (outside.returncode, "move the --block" in outside.stderr) == (2, True), outside.stderr
    assert "--parameters_of 1" in done.stdout
    evaluations = open_store(None, kind="evaluations", runs_directory=runs)
    best = evaluations.get(1).result["best"]
    segmented = call("10_segment.py", "--run_id", 1, "--parameters_of", 1, "--num_workers", 1, "with",
                     "segmentation.output=best", runs=runs)  # fmt: skip
    assert segmented.returncode == 0, segmented.stderr
    record = open_store(None, kind="segmentations", runs_directory=runs).get(1)
    assert record.info["evaluation_run_id"] == 1
    used = record.config["segmentation"]
    assert used["watershed"]["scoring"] == best["segmentation"]["watershed"]["scoring"]
    assert used["watershed"]["threshold"] == best["threshold"]
    # the block that was searched is seen, the rest is not
    address = f"{tmp_path}/cell.zarr/best/segmentation"
    refused = call("15_evaluate_segmentation.py", "-l", labels.address, "-p", address, "-n", 1, runs=runs)
    assert refused.returncode == 2
    assert "its segmentation parameters were searched on" in refused.stderr
    rest = call("15_evaluate_segmentation.py", "-l", labels.address, "-p", address, "-n", 1, "--seen", "leave_out",
                runs=runs)  # fmt: skip
    assert rest.returncode == 0, rest.stderr
    assert "yes, rest left out" in rest.stdout
    wrong = call("10_segment.py", "--run_id", 1, "--parameters_of", 2, runs=runs)
    assert wrong.returncode == 2
    assert "not a finished search" in wrong.stderr
