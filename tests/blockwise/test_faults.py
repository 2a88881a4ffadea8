"""Kill -9 of workers, scheduler and both at random moments; a disk that fills; another host; a link that is cut."""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
from disks import tmpfs
from killing import works

from incasem_like.blockwise import BlockTask, create_or_resume_output, run_blockwise, try_blockwise
from incasem_like.blockwise.workers_file import load_workers
from incasem_like.errors import DiskFullError
from incasem_like.volumes import Volume, create_volume, open_volume

Smoothing = Callable[..., BlockTask]
Script = Callable[..., "subprocess.Popen[str]"]
Accident = Callable[[str], None]


def chunk_bytes(volume: Volume) -> dict[str, bytes]:
    folder = Path(str(volume.address))
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    try:
        return [one for one in psutil.Process(process.pid).children(recursive=True) if works(one)]
    except psutil.NoSuchProcess:
        return []


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; tell whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def lines(log: Path) -> int:
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def log_grows(log: Path, by: int) -> Callable[[], bool]:
    wanted = lines(log) + by
    return lambda: lines(log) >= wanted


@pytest.mark.slow
def test_twenty_kills_at_random_moments_do_not_show_in_the_bytes(
    smoothing: Smoothing, script: Script, raw: Volume, accident: Accident, tmp_path: Path
) -> None:
    raw = create_volume(raw.address, shape=(56, 56, 64), dtype="uint8", voxel_size=(4, 4, 4), overwrite=True)
    raw.write(np.random.default_rng(1).integers(0, 255, raw.shape, dtype=np.uint8))
    raw.mark_complete()
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    chance = random.Random(seed)
    accident("unhurried")
    running = script("killed", 2)
    log = tmp_path / "cell.zarr/killed/.blocks.jsonl"
    done_before, kills = set(), 0
    while kills < 20:
        # at some moment after some progress; at times after none, so that starting is met too
        within(20, log_grows(log, by=chance.choice([0, 2, 5, 9])))
        time.sleep(chance.uniform(0, 0.5))
        assert running.poll() is None, "it was done before it was killed often enough"
        whom = chance.choice(["a worker", "scheduler", "both"])
        workers = workers_of(running)
        if whom == "a worker" and not workers:
            continue
        kills += 1
        if whom != "scheduler" and workers:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since
                chance.choice(workers).kill()
        if whom != "a worker":
            running.kill()
            running.wait(60)
            done_before.add(lines(log))
            running = script("killed", 2)
    assert len(done_before) > 3
    accident("")
    told, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert "already False" in told
    killed = open_volume(str(raw.address.container), "killed")
    output = create_or_resume_output(
        str(tmp_path / "cell.zarr"), "undisturbed", shape=raw.shape, dtype="uint16", voxel_size=raw.voxel_size,
        chunk_shape=(8, 8, 8),
    )  # fmt: skip
    run_blockwise(smoothing(output=output))
    assert len(chunk_bytes(output)) == 7 * 7 * 8
    assert chunk_bytes(killed) == chunk_bytes(output)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 400 KiB and return where."""
    with tmpfs(tmp_path / "disk", "size=400k") as place:
        yield place


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_full_disk_that_is_freed_is_gone_on_with(
    smoothing: Smoothing, raw: Volume, smoothed: np.ndarray, small_disk: Path, num_workers: int
) -> None:
    output = create_or_resume_output(
        str(small_disk / "out.zarr"), "out", shape=raw.shape, dtype="uint16", voxel_size=raw.voxel_size,
        offset=raw.offset, chunk_shape=(8, 8, 8),
    )  # fmt: skip
    filler = small_disk / "filler"
    fill(filler)
    os.truncate(filler, filler.stat().st_size - 48 * 1024)
    with pytest.raises(DiskFullError):
        run_blockwise(smoothing(output=output), num_workers=num_workers)
    assert not open_volume(output.address, allow_incomplete=True).complete
    filler.unlink()
    summary = try_blockwise(smoothing(output=output), num_workers=num_workers)
    assert summary
    assert np.array_equal(open_volume(output.address).read(), smoothed)


def fill(filler: Path) -> None:
    """Write a file until the disk is full."""
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


class OtherHost:
    """A network namespace with an address of its own, behind a link that can be cut.

    Names and addresses follow from the process, so that neither tests beside this one nor what a killed one has left
    stand in the way.
    """

    def __init__(self) -> None:
        pid = os.getpid()
        self.name, self.link = f"incasem{pid}", f"v{pid % 10**6}"
        network = f"10.{240 + pid // 2**14 % 8}.{pid // 64 % 256}"
        self.ours, self.theirs = f"{network}.{pid % 64 * 4 + 1}", f"{network}.{pid % 64 * 4 + 2}"

    def __enter__(self) -> "OtherHost":
        if not shutil.which("ip") or os.geteuid():
            pytest.skip("needs root and `ip netns`")
        for left in re.findall(r"^incasem(\d+)", _ip("netns", "list").stdout, re.MULTILINE):
            if not psutil.pid_exists(int(left)):
                _ip("link", "del", f"v{int(left) % 10**6}")
                _ip("netns", "del", f"incasem{left}")
        if _ip("netns", "add", self.name).returncode:
            pytest.skip("needs `ip netns`")
        _ip("link", "add", self.link, "type", "veth", "peer", "name", "eth7", "netns", self.name)
        _ip("addr", "add", f"{self.ours}/30", "dev", self.link)
        _ip("link", "set", self.link, "up")
        for words in (["addr", "add", f"{self.theirs}/30", "dev", "eth7"], ["link", "set", "eth7", "up"],
                      ["link", "set", "lo", "up"]):  # fmt: skip
            _ip("-n", self.name, *words)
        return self

    def __exit__(self, *_: object) -> None:
        for pid in _ip("netns", "pids", self.name).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("link", "del", self.link)
        _ip("netns", "del", self.name)

    def cut(self) -> None:
        _ip("link", "set", self.link, "down")

    def mend(self) -> None:
        _ip("link", "set", self.link, "up")


def _ip(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def other_host() -> Iterator[OtherHost]:
    with OtherHost() as host:
        yield host


def workers_there(host: OtherHost, path: Path, **settings: Any) -> Path:
    scheduler = ", ".join(f"{key}: {value}" for key, value in {"listen": host.ours, **settings}.items())
    path.write_text(
        f"{{launcher: command, count: 2, command: 'ip netns exec {host.name} {{command}}', scheduler: {{{scheduler}}}}}"
    )
    return path


def test_workers_of_another_host_do_the_work(
    smoothing: Smoothing, smoothed: np.ndarray, other_host: OtherHost, tmp_path: Path
) -> None:
    task = smoothing()
    summary = run_blockwise(task, workers=load_workers(workers_there(other_host, tmp_path / "w.yaml")))
    assert summary.done == 27
    assert np.array_equal(open_volume(task.output.address).read(), smoothed)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.0, 12.0])
def test_a_cut_link_loses_nothing(
    smoothing: Smoothing, script: Script, accident: Accident, smoothed: np.ndarray, other_host: OtherHost,
    tmp_path: Path, seconds: float, functions: ModuleType,
) -> None:  # fmt: skip
    """Shorter than the silence that is allowed, so that the connection lasts; and longer: workers are replaced."""
    accident("slow")
    running = script("cut", workers_there(other_host, tmp_path / "w.yaml", silence=4))
    log = tmp_path / "cell.zarr/cut/.blocks.jsonl"
    assert within(90, log_grows(log, by=5))
    there = _ip("netns", "pids", other_host.name).stdout.split()
    other_host.cut()
    time.sleep(seconds)
    other_host.mend()
    accident("")
    told, said = running.communicate(timeout=90)
    assert running.returncode == 0, said
    assert told.startswith("done 27")
    assert np.array_equal(open_volume(str(tmp_path / "cell.zarr"), "cut").read(), smoothed)
    assert len(there) >= 2
