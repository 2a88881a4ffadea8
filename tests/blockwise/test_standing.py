"""A Dask cluster that stands already does the blocks, beside the work of others; what is wrong with it is said."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client

from incasem_like.blockwise import BlockTask, run_blockwise, try_blockwise
from incasem_like.blockwise.check_workers import usable_workers
from incasem_like.blockwise.workers_file import load_workers
from incasem_like.errors import ConfigError, IncasemError, InputError
from incasem_like.volumes import open_volume

Smoothing = Callable[..., BlockTask]
BLOCKS = 27


class Standing:
    """A scheduler and workers, started as their owner would."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self.file))
        deadline = time.monotonic() + 120
        while not self.file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self.address = str(json.loads(self.file.read_text())["address"])

    def start(self, kind: str, *words: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *words, "--no-dashboard"]
        command += ["--dashboard-address", "127.0.0.1:0"]
        process = subprocess.Popen(command, cwd=self._folder, stderr=subprocess.DEVNULL)
        self._processes.append(process)
        return process

    def add_worker(self) -> None:
        """Start a worker with a nanny, which replaces it when it dies."""
        self.start("worker", self.address, "--nthreads", "1", "--host", "127.0.0.1")

    def end(self) -> None:
        while self._processes:
            process = self._processes.pop()
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            process.wait()


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    cluster = Standing(tmp_path)
    try:
        yield cluster
    finally:
        cluster.end()


def test_it_does_the_blocks_beside_another_client_and_a_block_that_kills_its_worker(
    smoothing: Smoothing, functions: ModuleType, smoothed: np.ndarray, standing: Standing, accident: Any, jobs: Path
) -> None:
    standing.add_worker()
    standing.add_worker()
    with Client(standing.address, set_as_default=False) as other:
        others = other.map(lambda number: time.sleep(0.05) or number, range(100), pure=False)
        task = smoothing()
        assert run_blockwise(task, workers=load_workers(standing.file)).done == BLOCKS
        assert np.array_equal(open_volume(task.output.address).read(), smoothed)
        assert other.gather(others) == list(range(100))
        accident("kill:9")
        killed = try_blockwise(smoothing("killed"), workers=load_workers(standing.address))
        assert (killed.done, [block.number for block in killed.failed]) == (BLOCKS - 1, [9])
        accident("")
        staged = smoothing("staged", function=functions.add_up, read=functions.read_raw, write=functions.write_sum)
        assert run_blockwise(staged, workers=load_workers(standing.address)).done == BLOCKS
        assert np.array_equal(open_volume(staged.output.address).read(), smoothed)
        assert other.submit(sum, [1, 2]).result() == 3
        left = other.run(lambda dask_worker: [name for name in dask_worker.plugins if "incasem" in name])
        assert not any(left.values())


def test_a_cluster_without_workers_is_said_in_time(
    smoothing: Smoothing, standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    from incasem_like.blockwise import engine

    monkeypatch.setattr(engine, "SECONDS_FOR_A_STANDING_WORKER", 1.0)
    with pytest.raises(InputError, match="No worker has come within 1 s"):
        run_blockwise(smoothing(), workers=load_workers(standing.address))


def test_workers_with_other_versions_or_without_the_package_are_said(
    smoothing: Smoothing, standing: Standing, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import incasem_like\nincasem_like.__version__ = '0.0.1'\n")
    standing.add_worker()  # from a folder where Python finds that
    with Client(standing.address, set_as_default=False) as other:
        other.wait_for_workers(1, timeout=120)

        def forget_package() -> None:  # a local function is sent by value: workers cannot import the tests
            import sys

            for name in [name for name in sys.modules if name.startswith("incasem_like")]:
                del sys.modules[name]
            sys.modules["incasem_like"] = None  # type: ignore[assignment]

        other.run(forget_package)
    with pytest.raises(InputError, match=r"cannot import incasem_like .*install incasem-like"):
        run_blockwise(smoothing(), workers=load_workers(standing.address))


def test_a_cluster_that_is_lost_ends_the_call(
    smoothing: Smoothing, standing: Standing, accident: Any, tmp_path: Path
) -> None:
    accident("slow")
    standing.add_worker()

    def kill() -> None:
        log = tmp_path / "cell.zarr/smoothed/.blocks.jsonl"
        deadline = time.monotonic() + 120
        while (not log.exists() or len(log.read_text().splitlines()) < 3) and time.monotonic() < deadline:
            time.sleep(0.05)
        standing.end()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(IncasemError, match="Dask cluster was lost"):
        run_blockwise(smoothing(), workers=load_workers(standing.address))
    killer.join()
    accident("")
    assert 2 <= run_blockwise(smoothing()).skipped < BLOCKS


@pytest.mark.parametrize(
    ("source", "kind", "sentence"),
    [
        ("tcp://127.0.0.1:1", InputError, r"no Dask scheduler at tcp://127\.0\.0\.1:1 \(Connection refused\)"),
        ("tcp://no.such.host.invalid:8786", InputError, r"no Dask scheduler at tcp://no\.such\.host"),
        ("http://127.0.0.1:8787", ConfigError, "is not the address of a Dask scheduler: expected"),
        ("tcp://127.0.0.1", ConfigError, "is not the address of a Dask scheduler: expected"),
    ],
)
def test_an_address_that_cannot_be_is_said_before_anything_begins(source: str, kind: type, sentence: str) -> None:
    with pytest.raises(kind, match=sentence) as error:
        usable_workers(source)
    assert error.value.exit_status == 2
