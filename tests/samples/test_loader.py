"""The loader under stress: workers that die, a training that is killed, little shared memory."""

import os
import pickle
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from incasem_like.errors import IncasemError
from incasem_like.samples import TrainingSamples, loader, make_loader

TRAINING = """
import pickle, sys, time
from incasem_like.samples import make_loader

if __name__ == "__main__":
    batches = make_loader(pickle.load(open(sys.argv[1], "rb")), num_workers=2, stop=1000)
    next(iter(batches))
    print(*[worker.pid for worker in batches._iterator._workers], flush=True)
    time.sleep(60)
"""


@pytest.fixture
def samples(cell, make_settings):
    return TrainingSamples(cell.config(cell.entry(offset=(8, 8, 8), shape=(16, 16, 16))), make_settings(), seed=1)


def test_a_worker_that_dies_is_one_sentence(samples):
    batches = make_loader(samples, num_workers=1, stop=1000)
    iterator = iter(batches)
    next(iterator)
    os.kill(batches._iterator._workers[0].pid, 9)
    with pytest.raises(IncasemError, match=r"^One of the 1 processes that make samples died"):
        for _ in iterator:
            pass


def test_workers_end_with_a_training_that_is_killed(samples, tmp_path):
    script, pickled = tmp_path / "training.py", tmp_path / "samples.pickle"
    script.write_text(TRAINING)
    pickled.write_bytes(pickle.dumps(samples))
    training = subprocess.Popen([sys.executable, script, pickled], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in training.stdout.readline().split()]
    assert len(workers) == 2
    training.kill()
    training.wait()
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("room_for", "workers", "ahead"), [(1000, 8, 20), (20, 8, 11), (12, 5, 6), (3, 1, 1), (1, 0, 0)]
)
def test_workers_and_batches_ahead_are_as_many_as_shared_memory_takes(monkeypatch, caplog, room_for, workers, ahead):
    free = SimpleNamespace(f_bavail=room_for * 10, f_frsize=1)
    monkeypatch.setattr(loader.os, "statvfs", lambda path: free)
    monkeypatch.setattr(loader.os.path, "isdir", lambda path: True)
    monkeypatch.setattr(loader, "SHARED_MEMORY_SHARE", 1.0)
    assert loader._fit_shared_memory(8, 20, 10) == (workers, ahead)
    assert ("docker" in caplog.text) == (workers < 8)
