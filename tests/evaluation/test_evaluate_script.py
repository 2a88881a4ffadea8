"""The evaluation script as a person runs it: a table, a tracked run, one sentence for what is wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from incasem_like.evaluation.threshold_run import ThresholdEvaluation, best_sentence, evaluate_as_run
from incasem_like.tracking import open_store

SCRIPT = Path(__file__).parents[2] / "scripts/04_postprocessing/05_evaluate_metric.py"
SHAPE = (6, 7, 8)


@pytest.fixture
def scene(make_volume, tmp_path):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, SHAPE).astype(np.uint32) * 9
    foreground = np.clip(0.3 * (labels != 0) + generator.random(SHAPE) * 0.7, 0, 1).astype(np.float32)
    make_volume("labels", labels, voxel_size=(4.6, 4.0, 4.0))
    make_volume("probs", foreground, voxel_size=(4.6, 4.0, 4.0), provenance={"tool": "predict", "run_id": 17})
    make_volume("elsewhere", labels, begin=(500, 0, 0), voxel_size=(4.6, 4.0, 4.0))
    return labels, foreground


def run(*arguments, cwd):
    command = [sys.executable, str(SCRIPT), "--runs_directory", str(cwd / "runs"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


def test_a_sweep_is_printed_and_kept_as_a_run(scene, tmp_path):
    labels, foreground = scene
    flags = ["-l", "cell.zarr/labels", "-p", "cell.zarr/probs", "--metric", "dice", "--name", "first"]
    done = run(*flags, "--threshold_start", 0.3, "--threshold_stop", 0.7, "--threshold_step", 0.2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = open_store(None, kind="evaluations", runs_directory=tmp_path / "runs").get(1)
    assert (record.status, record.name) == ("COMPLETED", "first")
    assert record.config["metric"] == "dice"
    assert record.info["prediction_run_id"] == 17
    assert [entry["address"].endswith(name) for entry, name in zip(record.inputs, ("probs", "labels"), strict=True)]
    expected = {}
    for threshold in ("0.3", "0.5", "0.7"):
        predicted, labelled = foreground >= np.float32(threshold), labels != 0
        expected[threshold] = 2 * (predicted & labelled).sum() / (predicted.sum() + labelled.sum())
        assert f"{expected[threshold]:.4f}" in done.stdout
    assert record.result["dice"] == pytest.approx(expected)
    best = max(expected, key=expected.get)
    assert record.result["best"]["threshold"] == float(best)
    assert f"Best dice: {expected[best]:.4f} at threshold {best}" in done.stdout
    assert record.metrics["dice"].values == pytest.approx(tuple(expected.values()))


def test_unobserved_keeps_no_run(scene, tmp_path):
    done = run("-l", "cell.zarr/labels", "-p", "cell.zarr/probs", "-u", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Best jaccard" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-l", "cell.zarr/none", "-p", "cell.zarr/probs"], "none"),
        (["-l", "cell.zarr/elsewhere", "-p", "cell.zarr/probs"], "no voxel in common"),
        (["-l", "cell.zarr/labels", "-p", "cell.zarr/probs", "--threshold_step", "0"], "--threshold_step is 0"),
        (["-l", "cell.zarr/labels", "-p", "cell.zarr/probs", "--roi_padding", "1", "2"], "one number or three"),
        (["-l", "cell.zarr/labels", "-p", "cell.zarr/probs", "--roi_padding", "46"], "leaves nothing"),
    ],
)
def test_bad_input_is_one_sentence_exit_2_and_no_run(flags, message, scene, tmp_path):
    done = run(*flags, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs/tracking/incasem_evaluations/1").exists()


def test_the_result_is_plain_json_even_when_undefined(make_volume, tmp_path):
    empty = np.zeros(SHAPE, dtype=np.float32)
    make_volume("probs", empty)
    make_volume("labels", empty.astype(np.uint8))
    container = tmp_path / "cell.zarr"
    request = ThresholdEvaluation(labels=f"{container}/labels", prediction_probas=f"{container}/probs")
    result = evaluate_as_run(request, store=None)
    assert json.loads(json.dumps(result, allow_nan=False))["best"] is None
    assert best_sentence(result).startswith("Nothing to score over")
    make_volume("mask", empty.astype(np.uint8))
    masked = evaluate_as_run(replace(request, mask=f"{container}/mask"), store=None)
    assert best_sentence(masked) == "Nothing to score: mask and metric mask leave no voxel."
