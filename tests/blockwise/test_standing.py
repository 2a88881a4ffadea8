"""A Dask cluster that stands already does the blocks, beside the work of others; what is wrong with it is said."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from dask_cluster import Standing
from distributed import Client

from incasem_like.blockwise import BlockTask, run_blockwise, try_blockwise
from incasem_like.blockwise.workers_file import check_workers, load_workers
from incasem_like.errors import ConfigError, IncasemError, InputError
from incasem_like.volumes import open_volume

Smoothing = Callable[..., BlockTask]
BLOCKS = 27


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    cluster = Standing(tmp_path)
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.mark.slow
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
    from incasem_like.blockwise import cluster

    monkeypatch.setattr(cluster, "SECONDS_FOR_A_WORKER", 1.0)
    with pytest.raises(InputError, match="No worker has come within 1 s"):
        run_blockwise(smoothing(), workers=load_workers(standing.address))


@pytest.mark.parametrize(
    ("at_start", "sentence"),
    [
        ("import incasem_like; incasem_like.__version__ = '0.0.1'", r"has incasem-like 0\.0\.1, but here is \d"),
        ("import distributed; distributed.__version__ = '1.2.3'", r"has distributed 1\.2\.3, but here is \d"),
        (
            "import sys; sys.modules['incasem_like'] = None",
            r"cannot import incasem_like \(.*\): install incasem-like \d",
        ),
    ],
)
def test_workers_with_other_versions_or_without_the_package_are_said(
    smoothing: Smoothing, standing: Standing, tmp_path: Path, at_start: str, sentence: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/sitecustomize.py").write_text(at_start + "\n")  # Python imports it when it starts
    standing.add_worker(PYTHONPATH=os.pathsep.join([str(tmp_path / "there"), os.environ.get("PYTHONPATH", "")]))
    with Client(standing.address, set_as_default=False) as other:
        other.wait_for_workers(1, timeout=120)
    with pytest.raises(InputError, match=rf"^The worker tcp://\S+ of the Dask cluster {standing.address} {sentence}"):
        run_blockwise(smoothing(), workers=load_workers(standing.address))


@pytest.mark.slow
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
        check_workers(load_workers(source))
    assert error.value.exit_status == 2
