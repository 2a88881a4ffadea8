"""bootstrap.py with its real scripts on a tiny volume: one command, kill -9, another round."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from bootstrapping_laboratory import SCRIPT, call, make_round, neurites, steps, store

from incasem_like.volumes import open_volume


def compared(folder, run_id):
    """What a round came to, without ids of runs and addresses, which differ."""
    found = {}
    for name, entry in steps(folder, run_id).items():
        found[name] = {
            key: value for key, value in entry["result"].items() if isinstance(value, int | float) and key != "run_id"
        }
    final = steps(folder, run_id)["errors"]["result"]["segmentation"]
    return found, open_volume(final).read()


@pytest.mark.slow
def test_one_command_goes_from_painting_to_a_segmentation_and_the_next_round(tmp_path):
    path = make_round(tmp_path)
    done = call(path)
    assert "Wrote segmentation: " in done.stdout
    found, segmentation = compared(tmp_path, 1)
    assert segmentation.shape == neurites().shape
    assert found["painting"]["voxels"] == 432
    assert 0 < found["painting"]["held_out"] < 100
    for model in ("sparse_model", "model"):
        assert found[model]["best_iteration"] in (50, 100, 150)
        assert 0 <= found[model]["best_value"] <= 1
    record = store(tmp_path).get(1)
    assert record.status == "COMPLETED"
    assert record.result["voi"] == pytest.approx(found["evaluation"]["voi"])
    for kind, count in {"trainings": 3, "predictions": 3, "segmentations": 2, "evaluations": 3}.items():
        assert len(store(tmp_path, kind).ids()) == count
    assert "has done all of this already" in call(path).stdout
    changed = call(path, "where_to_paint.count=1", "where_to_paint.disagreement=true")
    assert "where_to_paint: to run: count is 1 (was 2)" in changed.stdout
    assert len(store(tmp_path, "trainings").ids()) == 3
    sources = [store(tmp_path, "predictions").get(run_id).info["parent"] for run_id in (3, 4)]
    assert sources[0]["training_run_id"] == sources[1]["training_run_id"]
    assert sources[0]["checkpoint"] != sources[1]["checkpoint"]
    folder = steps(tmp_path, 1)["where_to_paint"]["result"]["folder"]
    crop = open_volume(f"{folder}/crops.zarr/place_01/labels", writable=True)
    crop.write(neurites()[crop.roi.to_slices()])
    planned = call(path, flags=["--continue", "1", "--dry_run"]).stdout
    assert "affinities_model" in planned
    assert "done by round 1" in planned
    call(path, flags=["--continue", "1", "--stop_after", "painting"])
    assert steps(tmp_path, 3)["painting"]["result"]["voxels"] > 432


@pytest.mark.slow
def test_a_round_killed_at_random_moments_comes_to_the_same(tmp_path):
    kills = int(os.environ.get("INCASEM_TEST_KILLS", "4"))
    for name in ("calm", "killed"):
        (tmp_path / name).mkdir()
    calm, killed = (make_round(tmp_path / name) for name in ("calm", "killed"))
    begun = time.monotonic()
    call(calm)
    whole = time.monotonic() - begun
    moments = random.Random(1)
    command = [sys.executable, str(SCRIPT), "--num_workers", "1", "with", str(killed)]
    for _ in range(kills):
        with open(tmp_path / "output", "ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=killed.parent)
            try:
                process.wait(moments.uniform(0.02, 0.3) * whole)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
    call(killed)
    (expected, segmentation), (found, other) = compared(tmp_path / "calm", 1), compared(tmp_path / "killed", 1)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name
    assert np.array_equal(segmentation, other)
    assert store(tmp_path / "killed").ids() == [1]


@pytest.mark.parametrize(
    ("words", "flags", "message"),
    [
        (["round.raw=null"], [], "round.raw is null"),
        (["round.labels=[]"], [], "round.labels is empty"),
        ([], ["--continue", "7"], "7"),
        ([], ["--from", "nothing"], "is not a step"),
        (["pseudo_truth.corrections=missing.json"], [], "missing.json"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, words, flags, message):
    done = call(make_round(tmp_path), *words, flags=flags, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not store(tmp_path).ids()
