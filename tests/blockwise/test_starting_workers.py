"""Workers that cannot start, or go by another shell, or are left behind by their launcher."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from incasem_like.blockwise import BlockTask, run_blockwise, try_blockwise
from incasem_like.blockwise.check_workers import usable_workers
from incasem_like.blockwise.workers_file import Workers, load_workers
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


def test_a_worker_whose_scheduler_has_ended_by_itself_ends_too(
    smoothing: Smoothing, tmp_path: Path, jobs: Path
) -> None:
    text = "{launcher: command, count: 1, command: '{command} & disown; sleep 0.5', scheduler: {reconnect: 300}}"
    assert run_blockwise(smoothing(), workers=workers(tmp_path, text)).done == BLOCKS
    deadline = time.monotonic() + 20
    while left := [one for one in psutil.process_iter(["cmdline"]) if str(jobs) in " ".join(one.info["cmdline"] or ())]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{launcher: slurm, scheduler: {listen: 127.0.0.1}}", r"there is no program sbatch here"),
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
        usable_workers(tmp_path / "workers.yaml")
