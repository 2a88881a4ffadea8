"""Predictions that are killed, cancelled, blocked or out of disk, and gone on with: the bytes of an undisturbed one."""

import contextlib
import os
import random
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from disks import tmpfs
from killing import works

from incasem_like.blockwise import list_jobs
from incasem_like.blockwise.done_log import read_log
from incasem_like.prediction.outputs import OutputLocation

SHAPE = (40, 510, 510)
BLOCKS = 2 * 15 * 15


class Predictions:
    """Starts predict.py on a wide volume, in one process or by two workers."""

    def __init__(self, laboratory, start_predict, folder):
        self.laboratory, self.start = laboratory, start_predict
        self.workers = folder / "workers.yaml"
        self.workers.write_text("count: 2\ncores: 1\n")
        laboratory.config({"cell_er": laboratory.wide_entry(SHAPE)})

    def begin(self, *flags, by_workers):
        how = ("--workers", str(self.workers)) if by_workers else ()
        return self.start("--run_id", "1", *flags, *how)

    def finish(self, *flags, by_workers=True):
        process = self.begin(*flags, by_workers=by_workers)
        said = process.communicate(timeout=300)[1]
        return process.returncode, said

    def place(self, number):
        return OutputLocation(self.laboratory.container, f"volumes/predictions/train_0001/predict_{number:04d}")

    def done(self, number):
        log = read_log(self.place(number).container / self.place(number).segmentation)
        return 0 if log is None else len(log.done)

    def wait_for(self, process, number, blocks):
        while process.poll() is None and self.done(number) < blocks:
            time.sleep(0.01)

    def chunks(self, number):
        return chunks(self.place(number).folder)


def chunks(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def predictions(laboratory, start_predict, tmp_path):
    return Predictions(laboratory, start_predict, tmp_path)


def workers_of(process):
    with contextlib.suppress(psutil.Error):
        return [one for one in psutil.Process(process.pid).children(recursive=True) if works(one)]
    return []


@pytest.mark.slow
def test_kills_at_random_moments_do_not_show_in_the_bytes_whoever_predicts(predictions):
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    chance = random.Random(seed)
    running = predictions.begin(by_workers=True)
    for kill in range(4):
        predictions.wait_for(running, 1, predictions.done(1) + chance.choice([1, 6, 15]))
        time.sleep(chance.uniform(0, 0.2))
        assert running.poll() is None, "it was done before it was killed often enough"
        victims = workers_of(running)
        if victims and chance.random() < 0.5:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(victims).kill()
        running.kill()
        running.wait(60)
        assert not psutil.wait_procs(victims, timeout=60)[1]
        # What workers began, one process goes on with, and the other way round.
        running = predictions.begin("--resume", "1", by_workers=kill % 2 == 1)
    said = running.communicate(timeout=300)[1]
    assert running.returncode == 0, said
    assert predictions.finish()[0] == 0
    undisturbed = predictions.laboratory.store.ids()[-1]
    assert len(predictions.chunks(1)) == 3 * BLOCKS
    assert predictions.chunks(1) == predictions.chunks(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("by_workers", [True, False])
def test_a_block_that_cannot_be_written_is_named_and_the_job_is_retried(predictions, by_workers):
    running = predictions.begin(by_workers=by_workers)
    predictions.wait_for(running, 1, 5)
    obstacle = predictions.place(1).folder / "prob_maps/class_1/1/14/14"
    obstacle.mkdir(parents=True)
    said = running.communicate(timeout=300)[1]
    assert running.returncode == 2, said
    assert f"1 of {BLOCKS} blocks failed, the first one at" in said
    assert "The others are done" in said
    assert predictions.done(1) == BLOCKS - 1
    (job,) = (job for job in list_jobs() if str(predictions.place(1).folder) in str(job.output))
    assert (job.state, job.done, list(job.failed_blocks())) == ("failed", BLOCKS - 1, [BLOCKS - 1])
    assert job.command.endswith("--resume 1")
    obstacle.rmdir()
    retried = subprocess.run(job.command, shell=True, cwd=job.directory, capture_output=True, text=True, check=False)
    assert retried.returncode == 0, retried.stderr
    assert predictions.laboratory.store.get(2).result["voxels_predicted"] < 34**3


@pytest.mark.slow
@pytest.mark.parametrize("by_workers", [True, False])
def test_a_job_that_is_cancelled_ends_soon_is_interrupted_and_goes_on(predictions, by_workers):
    running = predictions.begin(by_workers=by_workers)
    predictions.wait_for(running, 1, 5)
    at_work = workers_of(running)
    assert bool(at_work) is by_workers
    (job,) = (job for job in list_jobs() if str(predictions.place(1).folder) in str(job.output))
    job.cancel()
    said = running.communicate(timeout=90)[1]
    assert running.returncode == 130, said
    assert not psutil.wait_procs(at_work, timeout=30)[1]
    assert predictions.laboratory.store.get(1).status == "INTERRUPTED"
    done = predictions.done(1)
    assert 5 <= done < BLOCKS
    assert predictions.finish("--resume", "1", by_workers=not by_workers)[0] == 0
    assert predictions.laboratory.store.get(2).result["voxels_predicted"] <= (BLOCKS - done) * 34**3


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MiB, most of which is taken."""
    with tmpfs(tmp_path / "disk", "size=16m") as place:
        (place / "filler").write_bytes(bytes(14 * 2**20))
        yield place


@pytest.mark.slow
@pytest.mark.parametrize("by_workers", [True, False])
def test_a_full_disk_that_is_freed_is_gone_on_with(laboratory, run_predict, small_disk, tmp_path, by_workers):
    (tmp_path / "workers.yaml").write_text("count: 2\ncores: 1\n")
    flags = ("--workers", str(tmp_path / "workers.yaml")) if by_workers else ()
    laboratory.config({"cell_er": laboratory.wide_entry((80, 120, 120))})
    there = (f"prediction.directories.prefix={small_disk}", "prediction.input_size_voxels=[52,52,52]")
    full = run_predict("--run_id", "1", *flags, updates=there)
    assert full.returncode == 1, full.stderr
    assert "No space is left on the disk" in full.stderr
    (small_disk / "filler").unlink()
    freed = run_predict("--run_id", "1", "--resume", "1", *flags, updates=there)
    assert freed.returncode == 0, freed.stderr
    assert run_predict("--run_id", "1", *flags, updates=there[1:]).returncode == 0
    group = Path("volumes/predictions/train_0001")
    found = chunks(small_disk / "cell.zarr" / group / "predict_0001")
    assert len(found) == 3 * 4 * 4 * 3
    assert found == chunks(laboratory.container / group / "predict_0003")
