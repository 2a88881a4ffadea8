"""What the upload of checkpoints into MongoDB costs a training, against stock Sacred's artifacts."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mongo import mongo_url, run_stock, stock_mongo_observer

from incasem_like.config import UnetModel
from incasem_like.networks import build_network
from incasem_like.tracking import Run, RunStore, open_store, run_experiment

RESULTS = Path(__file__).parent / "results" / "checkpoint_upload.json"
CHECKPOINT_BYTES = 32 << 20
STEPS = 100
UPLOADS = 5


def write_checkpoint(folder: Path, iteration: int) -> Path:
    path = folder / f"model_checkpoint_{iteration}"
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for _ in range(CHECKPOINT_BYTES >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return path


def training_step() -> Callable[[], float]:
    """Make a training step of a small U-Net on one thread; it gives its own duration in seconds."""
    torch.set_num_threads(1)
    cubes = [[3, 3, 3]] * 2
    network = build_network(
        UnetModel(num_fmaps=4, downsample_factors=[[2, 2, 2]], kernel_size_down=[cubes] * 2, kernel_size_up=[cubes])
    )
    optimizer = torch.optim.Adam(network.parameters())
    raw = torch.rand(1, 1, 32, 32, 32)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        network(raw).square().mean().backward()
        optimizer.step()
        return time.perf_counter() - started

    for _ in range(5):
        step()
    return step


def measure_upload(store: RunStore, observer: Any, url: str) -> dict[str, float]:
    """Measure steps alone and beside uploads by the run and by another process, and what holds the training up."""
    step, elsewhere = training_step(), UploadElsewhere(url)
    folder = store.runs_directory / "models"
    folder.mkdir(parents=True, exist_ok=True)
    alone: list[float] = []
    beside: list[float] = []
    beside_other: list[float] = []
    held_up, upload, upload_cpu, stock_held_up = [], [], [], []

    def ours(run: Run) -> None:
        for number in range(UPLOADS):
            alone.extend(step() for _ in range(STEPS))
            path = write_checkpoint(folder, number)
            started = time.perf_counter()
            run.register_checkpoint(path, number)
            held_up.append(time.perf_counter() - started)
            cpu = time.process_time() - time.thread_time()
            assert run._uploader is not None
            while run._uploader.missing:
                beside.append(step())
            upload.append(time.perf_counter() - started)
            upload_cpu.append(time.process_time() - time.thread_time() - cpu)
            beside_other.extend(elsewhere.steps_beside(write_checkpoint(folder, number), step))

    def stock(run: Any) -> None:
        for number in range(UPLOADS):
            path = write_checkpoint(folder, UPLOADS + number)
            started = time.perf_counter()
            run.add_artifact(str(path))
            stock_held_up.append(time.perf_counter() - started)

    config = {"tracking": {"store_checkpoints": "last"}}
    run_experiment(name="bench", config=config, main=ours, store=store)
    run_stock(observer, stock)
    elsewhere.close()
    return {
        "step_alone_s": quiet(alone),
        "step_beside_upload_s": quiet(beside),
        "step_beside_upload_elsewhere_s": quiet(beside_other),
        "held_up_s": statistics.median(held_up),
        "upload_s": statistics.median(upload),
        "upload_cpu_s": statistics.median(upload_cpu),
        "stock_held_up_s": statistics.median(stock_held_up),
    }


class UploadElsewhere:
    """Uploads files from a process of its own: what a step then loses, it loses to the server and the machine.

    Args:
        url: Of the server.
        database: Where to.
    """

    PROGRAM = """
import sys
from pathlib import Path
from incasem_like.tracking import file_sha256, open_store
files = open_store(sys.argv[1], "trainings", Path("/")).checkpoint_files
for line in sys.stdin:
    path = Path(line.rstrip("\\n"))
    files.upload(path, 999, file_sha256(path))
    print("done", flush=True)
"""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-c", self.PROGRAM, url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def steps_beside(self, path: Path, step: Callable[[], float]) -> list[float]:
        """Train until the file is uploaded; gives the durations of the steps."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        done = threading.Thread(target=self._process.stdout.readline)
        done.start()
        found = []
        while done.is_alive():
            found.append(step())
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def quiet(seconds: list[float]) -> float:
    """Give the lower quartile: other work on the machine makes steps longer, never shorter."""
    return statistics.quantiles(seconds, n=4)[0]


def main() -> None:
    database = f"bench_{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as name, mongo_url(Path(name)) as url:
        if url is None:
            return
        address = f"{url.rstrip('/')}/{database}_trainings"
        store = open_store(address, "trainings", Path(name) / "runs")
        found = measure_upload(store, stock_mongo_observer(url, f"{database}_stock"), address)
        for used in (f"{database}_trainings", f"{database}_stock"):
            store.database.client.drop_database(used)
    alone, beside, other = (found[f"step_{when}_s"] for when in ("alone", "beside_upload", "beside_upload_elsewhere"))
    ours, stock = found["held_up_s"], found["stock_held_up_s"]
    print(
        f"A checkpoint of {CHECKPOINT_BYTES >> 20} MiB holds the training up for {ours:.2f} s, stock Sacred's "
        f"add_artifact for {stock:.2f} s: 1/{stock / ours:.0f}. Its upload takes {found['upload_s']:.1f} s and "
        f"{found['upload_cpu_s']:.2f} s of this process's CPU."
    )
    print(
        f"A training step takes {beside / alone:.2f} times as long beside the upload, {other / alone:.2f} times beside "
        "one by another process: the server is on this machine too."
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": platform.machine(), **found}, indent=2))


if __name__ == "__main__":
    main()
