"""Blocks that run in the process that was called: read ahead and written behind, interrupted, with what is at hand."""

import os
import threading
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from incasem_like.blockwise import BlockTask, run_blockwise, try_blockwise
from incasem_like.blockwise.done_log import read_log
from incasem_like.errors import CheckpointError, DiskFullError
from incasem_like.volumes import open_volume

Smoothing = Callable[..., BlockTask]
Accident = Callable[[str], None]
BLOCKS = 27


def staged(smoothing: Smoothing, functions: ModuleType, threads: bool = True) -> BlockTask:
    return smoothing(read=functions.read_raw, function=functions.add_up_or_not, write=functions.put, threads=threads)


def stages_alive() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith(("read_", "write_"))}


@pytest.mark.parametrize("threads", [True, False])
def test_an_interruption_keeps_what_is_written_and_leaves_no_thread(
    smoothing: Smoothing, functions: ModuleType, accident: Accident, smoothed: np.ndarray, threads: bool
) -> None:
    task = staged(smoothing, functions, threads)
    accident("stop:9")
    with pytest.raises(KeyboardInterrupt):
        run_blockwise(task)
    assert not stages_alive()
    log = read_log(str(task.output.address))
    assert log is not None
    assert 6 <= len(log.done) <= 9
    accident("")
    summary = run_blockwise(staged(smoothing, functions, threads))
    assert summary.done == BLOCKS - len(log.done)
    assert np.array_equal(open_volume(task.output.address).read(), smoothed)
    assert not stages_alive()


def test_a_block_is_noted_when_it_is_written_not_when_the_next_is_computed(
    smoothing: Smoothing, functions: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = staged(smoothing, functions)
    seen = []

    def look_first(block, parameters):  # type: ignore[no-untyped-def]
        if block.number == 5:
            deadline = threading.Event()
            for _ in range(2000):
                log = read_log(str(task.output.address))
                if log is not None and 4 in log.done:
                    seen.append(block.number)
                    break
                deadline.wait(0.02)
        return functions.add_up(block, parameters)

    look_first.__qualname__, look_first.__module__ = functions.add_up.__qualname__, functions.add_up.__module__
    run_blockwise(smoothing(read=functions.read_raw, function=look_first, write=functions.put))
    assert seen == [5]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_model_at_fault_ends_the_call_at_the_first_block(
    smoothing: Smoothing, functions: ModuleType, accident: Accident, num_workers: int
) -> None:
    accident("model:0")
    task = staged(smoothing, functions)
    with pytest.raises(CheckpointError, match=r"^The network gives no numbers: choose another\.$"):
        run_blockwise(task, num_workers=num_workers)
    log = read_log(str(task.output.address))
    assert log is not None
    assert len(log.done) < BLOCKS - 1
    assert not log.failed


def test_a_disk_that_fills_behind_the_computing_thread_ends_the_call(
    smoothing: Smoothing, functions: ModuleType, accident: Accident
) -> None:
    accident("full:6")
    task = smoothing(read=functions.read_raw, function=functions.add_up, write=functions.write_sum)
    with pytest.raises(DiskFullError):
        run_blockwise(task)
    assert not stages_alive()


def test_what_the_process_has_prepared_is_not_set_up_again(
    smoothing: Smoothing, functions: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> None:
    task = smoothing(function=functions.serve, set_up=functions.lay_table)
    assert try_blockwise(task, prepared={"pid": os.getpid(), "threads": "7"})
    assert (open_volume(task.output.address).read() == 7).all()


def test_progress_within_blocks_is_counted_once(
    smoothing: Smoothing, functions: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from incasem_like import terminal

    told: list[float] = []
    original = terminal.Progress.advance

    def advance(self: terminal.Progress, amount: float = 1.0, note: str | None = None) -> None:
        told.append(amount)
        original(self, amount, note)

    monkeypatch.setattr(terminal.Progress, "advance", advance)
    monkeypatch.setattr(functions, "add_up", _in_two_steps(functions.add_up))
    task = smoothing(read=functions.read_raw, function=functions.add_up, write=functions.put)
    summary = run_blockwise(task)
    assert sum(told) == task.grid.roi.size == summary.voxels
    assert len([amount for amount in told if amount > 0]) >= 2 * BLOCKS


def _in_two_steps(function):  # type: ignore[no-untyped-def]
    def stepping(block, parameters):  # type: ignore[no-untyped-def]
        half = block.write_roi.size // 2
        block.advance(half)
        result = function(block, parameters)
        block.advance(block.write_roi.size - half)
        return result

    stepping.__qualname__, stepping.__module__ = function.__qualname__, function.__module__
    return stepping
