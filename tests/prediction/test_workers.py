"""predict.py with workers: the same bytes as in one process, whatever happens to the workers, and one model only."""

import contextlib
import hashlib
import math
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from dask_cluster import Standing
from killing import works

from incasem_like.errors import CheckpointError
from incasem_like.prediction.blocks import block_shape
from incasem_like.prediction.computing.loading import NetworkSource
from incasem_like.tracking import file_sha256
from incasem_like.tracking.stores.records import ChosenCheckpoint
from incasem_like.volumes import Coordinate

# Of this network a tile then gives 34 voxels along each axis, which is a chunk too.
WIDE_TILES = "prediction.input_size_voxels=[52,52,52]"
SHAPE = (40, 190, 190)


@pytest.fixture
def workers_file(tmp_path):
    path = tmp_path / "workers.yaml"
    path.write_text("count: 2\ncores: 1\n")
    return path


@pytest.fixture
def start(laboratory, start_predict):
    laboratory.config({"cell_er": laboratory.wide_entry(SHAPE)})
    return lambda *flags, updates=(WIDE_TILES,): start_predict("--run_id", "1", *flags, updates=updates)


@pytest.fixture
def call(start):
    def called(*flags, updates=(WIDE_TILES,)):
        with start(*flags, updates=updates) as process:
            out, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    return called


def place(laboratory, number):
    return laboratory.container / f"volumes/predictions/train_0001/predict_{number:04d}"


def chunks(folder):
    """Hash of every chunk below a prediction, by its name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.slow
def test_workers_write_the_bytes_that_one_process_writes_whoever_is_killed(laboratory, call, start, workers_file):
    assert call().returncode == 0
    with start("--workers", str(workers_file)) as process:
        log = place(laboratory, 2) / "segmentation" / ".blocks.jsonl"
        killed = 0
        while process.poll() is None and killed < 2:
            done = log.read_bytes().count(b"\n") if log.exists() else 0
            members = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            at_work = [one for one in members if works(one)]
            if at_work and done > 2 + 5 * killed:
                with contextlib.suppress(psutil.NoSuchProcess):
                    at_work[killed % len(at_work)].send_signal(signal.SIGKILL)
                    killed += 1
            time.sleep(0.01)
        out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert killed == 2
    assert "predict_0002" in out
    one, many = chunks(place(laboratory, 1)), chunks(place(laboratory, 2))
    assert len(one) > 20
    assert {name: digest for name, digest in many.items() if one.get(name) != digest} == {}
    assert one.keys() == many.keys()
    assert laboratory.store.get(2).result["voxels_predicted"] == math.prod(SHAPE)
    again = call("--resume", "2", "--workers", str(workers_file))
    assert again.returncode == 0, again.stderr
    assert "already complete" in again.stdout


@pytest.mark.slow
def test_a_killed_scheduler_is_gone_on_with_and_another_checkpoint_or_way_is_refused(
    laboratory, call, start, workers_file
):
    with start("--workers", str(workers_file)) as process:
        log = place(laboratory, 1) / "segmentation" / ".blocks.jsonl"
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 5):
            time.sleep(0.01)
        process.kill()
        process.communicate()
    noted = log.read_text().splitlines()
    assert 5 <= len(noted) < 73  # a line for each of 72 blocks, and one before them
    assert laboratory.training.checkpoint("best").sha256 in noted[0]

    refused = call("--resume", "1", "--workers", str(workers_file), "--checkpoint", "last")
    assert refused.returncode == 2
    assert "was begun with checkpoint" in refused.stderr
    resumed = call("--resume", "1")  # what workers began, one process may finish
    assert resumed.returncode == 0, resumed.stderr
    assert call().returncode == 0
    resumed, undisturbed = chunks(place(laboratory, 1)), chunks(place(laboratory, 3))
    assert {name for name in undisturbed if resumed.get(name) != undisturbed[name]} == set()


@pytest.mark.slow
def test_scores_come_from_what_the_workers_stored(laboratory, call, workers_file):
    alone = call(updates=("prediction.log_metrics=true", WIDE_TILES))
    done = call("--workers", str(workers_file), updates=("prediction.log_metrics=true", WIDE_TILES))
    assert done.returncode == 0, done.stderr
    scores = [line for line in done.stdout.splitlines() if "_ds_0: " in line]
    assert scores
    assert scores == [line for line in alone.stdout.splitlines() if "_ds_0: " in line]


def test_a_worker_fetches_the_weights_by_their_hash(laboratory, tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))
    tracked = laboratory.training.checkpoint("best")

    def source(path, sha256=tracked.sha256):
        checkpoint = ChosenCheckpoint(path, sha256, tracked.iteration)
        model, torch = laboratory.training_config.model, laboratory.config().torch
        return NetworkSource(model, torch, checkpoint, training_run_id=1, store=None, runs_directory=laboratory.runs)

    assert source(tracked.path).fetch() == tracked.path
    # Another machine, where the file lies elsewhere: the run store knows it.
    assert source(Path("/elsewhere") / tracked.path.name).fetch() == tracked.path
    changed = tmp_path / "changed"
    changed.write_bytes(tracked.path.read_bytes() + b"x")
    assert file_sha256(source(changed).fetch()) == tracked.sha256
    with pytest.raises(CheckpointError, match="not on this worker's machine"):
        source(changed, "0" * 64).fetch()


@pytest.mark.parametrize(
    ("tile", "chunk", "whole", "expected"),
    [
        ((96, 200, 64), (96, 100, 64), (500, 500, 500), (96, 200, 64)),
        ((8, 131, 600), (128, 128, 128), (1000, 200, 500), (128, 256, 512)),
    ],
)
def test_blocks_are_whole_tiles_and_whole_chunks_or_all_there_is(tile, chunk, whole, expected):
    assert block_shape(Coordinate(tile), chunk, Coordinate(whole)) == expected


@pytest.mark.slow
def test_a_cluster_that_stands_writes_the_bytes_that_one_process_writes(laboratory, call, tmp_path):
    assert call().returncode == 0
    cluster = Standing(tmp_path)
    try:
        for threads in (1, 2):
            cluster.add_worker(threads, OMP_NUM_THREADS="1")
        examined = call("--workers", cluster.address, "--dry_run")
        done = call("--workers", cluster.address)
    finally:
        cluster.end()
    assert (examined.returncode, "Expected time: " in examined.stdout) == (0, True), examined.stderr
    assert done.returncode == 0, done.stderr
    written = chunks(place(laboratory, 2))
    assert len(written) > 20
    assert written == chunks(place(laboratory, 1))
