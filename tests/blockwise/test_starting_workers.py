"""Workers that cannot start, or go by another shell, or are left behind by their launcher."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from incasem_like.blockwise import BlockTask, run_blockwise, try_blockwise
from incasem_like.blockwise import fleet as blockwise_fleet
from incasem_like.blockwise.fleet import Fleet
from incasem_like.blockwise.launchers import WorkerGroup
from incasem_like.blockwise.worker import LOST
from incasem_like.blockwise.workers_file import Workers, check_workers, load_workers
from incasem_like.errors import IncasemError, InputError
from incasem_like.volumes import open_volume

Smoothing = Callable[..., BlockTask]
BLOCKS = 27


def workers(tmp_path: Path, text: str) -> Workers:
    (tmp_path / "workers.yaml").write_text(text)
    return load_workers(tmp_path / "workers.yaml")


def test_a_set_up_that_fails_is_named_and_not_tried_for_ever(smoothing: Smoothing, tmp_path: Path) -> None:
    text = "{count: 2, set_up: ['export A=1', 'ls /nowhere/at/all', 'export B=2']}"
    with pytest.raises(
        IncasemError,
        match=r"Workers end before they can begin, .*set_up .* failed with status 2 at: ls /nowhere/at/all",
    ):
        run_blockwise(smoothing(), workers=workers(tmp_path, text))


def test_a_command_may_pass_through_another_shell(smoothing: Smoothing, smoothed: np.ndarray, tmp_path: Path) -> None:
    """As ssh does, which joins its words and hands them to a shell there."""
    (tmp_path / "ssh").write_text('#!/bin/bash\nshift\nexec env -i HOME="$HOME" PATH="$PATH" bash -c "$*"\n')
    (tmp_path / "ssh").chmod(0o755)
    task = smoothing()
    text = f"{{launcher: command, count: 2, command: '{tmp_path}/ssh node7 {{command}}'}}"
    assert try_blockwise(task, workers=workers(tmp_path, text))
    assert np.array_equal(open_volume(task.output.address).read(), smoothed)


def test_a_worker_out_of_reach_ends_when_its_scheduler_was_interrupted(
    script: Callable[..., Any], accident: Callable[[str], None], tmp_path: Path, jobs: Path
) -> None:
    accident("slow")
    (tmp_path / "workers.yaml").write_text("{launcher: command, count: 1, command: 'setsid {command} & sleep 1000'}")
    running = script("left", tmp_path / "workers.yaml")
    log, deadline = tmp_path / "cell.zarr/left/.blocks.jsonl", time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=90)
    assert running.returncode == 130
    deadline = time.monotonic() + 60
    while any(str(jobs) in " ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{launcher: slurm, scheduler: {listen: 127.0.0.1}}", r"the program sbatch is missing here"),
        ("{gpus: 1, count: 2}", r"2 workers with 1 GPUs each are asked for, but this machine shows 0"),
        (
            "{launcher: command, command: '{command}', scheduler: {listen: 203.0.113.9}}",
            r"cannot listen on 203\.0\.113\.9",
        ),
    ],
)
def test_what_keeps_workers_from_starting_is_said_before_anything_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "workers.yaml").write_text(text)
    with pytest.raises(InputError, match=sentence):
        check_workers(load_workers(tmp_path / "workers.yaml"))


def test_a_worker_that_is_known_to_have_worked_is_replaced_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that becomes known after its end, as when a block killed it."""
    monkeypatch.setattr(blockwise_fleet, "FIRST_WAIT", 3600.0)
    monkeypatch.setattr(blockwise_fleet, "LONGEST_WAIT", 3600.0)
    fleet = Fleet([WorkerGroup(launcher="command", count=1, command="echo started; : {command}")], tmp_path)

    def starts_within(seconds: float, number: int) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            fleet.tend(1, 1)
            logs = list(tmp_path.glob("*.log"))
            if logs and logs[0].read_text().count("started") >= number:
                return True
            time.sleep(0.02)
        return False

    try:
        assert starts_within(60, 2)
        assert not starts_within(2, 3)  # it has ended twice without having worked
        fleet.worked("command-1")
        assert starts_within(60, 3)
    finally:
        fleet.end()


def test_a_worker_that_cannot_reach_the_scheduler_says_where_and_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    connection = tmp_path / "connection.json"
    connection.write_text(json.dumps({"host": "127.0.0.1", "port": port, "key": "", "certificate": "", "threads": 1}))
    words = [sys.executable, "-m", "incasem_like.blockwise.worker_process", "--name", "lsf-1", "--patience", "2.5"]
    ended = subprocess.run([*words, "--connection", connection], capture_output=True, text=True, timeout=60)
    assert ended.returncode == LOST
    first, last = ended.stderr.splitlines()
    assert first == (
        f"The scheduler cannot be reached, tried again for 2.5 s: 127.0.0.1 port {port}, Connection refused."
    )
    assert re.match(r"The scheduler was not reached for \d+ s, so this worker ends: 127\.0\.0\.1 port", last)


def test_a_worker_ends_whose_parent_was_killed_before_it_looked(tmp_path: Path) -> None:
    (tmp_path / "connection.json").touch()  # as a scheduler leaves it that was killed while it started
    words = [sys.executable, "-m", "incasem_like.blockwise.worker_process", "--name", "local-1"]
    words += ["--connection", str(tmp_path / "connection.json"), "--parent", str(os.getppid())]
    assert subprocess.run(words, timeout=60).returncode == LOST
