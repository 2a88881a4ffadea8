"""05_evaluate_metric.py on workers: killed in the middle, with blocks that fail, with workers files that are wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest
from killing import run_killed

from incasem_like.tracking import open_store

SCRIPT = Path(__file__).parents[2] / "scripts/04_postprocessing/05_evaluate_metric.py"
# The script with smaller blocks, so that there are enough of them for accidents.
SMALL_BLOCKS = f"""
import runpy, sys
from incasem_like.evaluation import evaluate
evaluate.VOXELS_AT_ONCE = 512
sys.argv[0] = {str(SCRIPT)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SHAPE = (64, 64, 64)


@pytest.fixture
def scene(make_volume, tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_JOBS", str(tmp_path / "jobs"))
    generator = np.random.default_rng(3)
    arrays = {"probs": generator.random(SHAPE).astype(np.float32)}
    arrays["labels"] = (generator.random(SHAPE) < arrays["probs"]).astype(np.uint8)
    arrays["mask"] = (generator.random(SHAPE) < 0.8).astype(np.uint8)
    for name, array in arrays.items():
        make_volume(name, array, chunk_shape=(8, 8, 8) if name == "probs" else (32, 32, 32))
    (tmp_path / "w.yaml").write_text("count: 2")
    (tmp_path / "small_blocks.py").write_text(SMALL_BLOCKS)
    return arrays


def command(*flags):
    given = ["-l", "cell.zarr/labels", "-p", "cell.zarr/probs", "--mask", "cell.zarr/mask", "--runs_directory", "runs"]
    return [sys.executable, "small_blocks.py", *given, "--workers", "w.yaml", *flags]


def result_of(tmp_path, run_id):
    return open_store(None, kind="evaluations", runs_directory=tmp_path / "runs").get(run_id).result


@pytest.mark.slow
def test_kills_of_workers_and_scheduler_do_not_show_in_the_counts(scene, tmp_path):
    flags = ("--threshold_start", "0.25", "--threshold_stop", "0.75", "--threshold_step", "0.25")
    done = run_killed(command(*flags), ["worker", "scheduler", "both"], tmp_path / "jobs", tmp_path, progress=20)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path, 3)
    valid, labelled = scene["mask"] != 0, scene["labels"] != 0
    for threshold in (0.25, 0.5, 0.75):
        predicted = scene["probs"] >= np.float32(threshold)
        found = [result["counts"][name][str(threshold)] for name in ("tp", "fp", "fn", "tn")]
        pairs = ((predicted, labelled), (predicted, ~labelled), (~predicted, labelled), (~predicted, ~labelled))
        assert found == [np.count_nonzero(one & other & valid) for one, other in pairs]
    assert result["voxels"] == np.count_nonzero(valid)
    assert not list((tmp_path / "jobs/ledgers").iterdir())


def test_a_block_that_fails_is_named_and_the_others_are_kept(scene, tmp_path):
    chunk = tmp_path / "cell.zarr/probs/3/2/1"
    good = chunk.read_bytes()
    chunk.write_bytes(good[:-9])
    done = run_killed(command(), [], tmp_path / "jobs", tmp_path)
    assert done.returncode == 2, done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "1 of 512 blocks failed, the first one at z 24-31, y 16-23, x 8-15" in sentence
    assert "The others are done" in sentence
    assert open_store(None, kind="evaluations", runs_directory=tmp_path / "runs").get(1).status == "FAILED"


@pytest.mark.parametrize(
    ("text", "message"), [("count: 0", "count"), ("cuont: 2", "did you mean 'count'"), (None, "w.yaml")]
)
def test_a_workers_file_that_is_wrong_is_one_sentence_and_no_run(text, message, scene, tmp_path):
    (tmp_path / "w.yaml").unlink()
    if text is not None:
        (tmp_path / "w.yaml").write_text(text)
    done = run_killed(command(), [], tmp_path / "jobs", tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
