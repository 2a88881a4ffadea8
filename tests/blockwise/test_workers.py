"""Workers that hang, die, fail, set themselves up, are cancelled; several outputs; the record that others read."""

import contextlib
import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
from killing import works

from incasem_like.blockwise import BlockTask, create_or_resume_output, list_jobs, run_blockwise, try_blockwise
from incasem_like.blockwise.done_log import LOG_NAME
from incasem_like.blockwise.job import RECORD
from incasem_like.blockwise.workers_file import load_workers
from incasem_like.errors import DataError, IncasemError, InputError
from incasem_like.volumes import Volume, open_volume

Smoothing = Callable[..., BlockTask]
BLOCKS = 27


def written(task: BlockTask) -> np.ndarray:
    return np.asarray(open_volume(task.output.address).read())


@pytest.mark.parametrize("function", ["thaw", "die_once", "fail_once"])
def test_a_worker_that_hangs_dies_or_fails_is_replaced_and_nothing_is_missing(
    smoothing: Smoothing, functions: ModuleType, smoothed: np.ndarray, function: str
) -> None:
    task = smoothing(function=getattr(functions, function), time_limit=1.5)
    summary = run_blockwise(task, num_workers=2)
    assert summary
    assert (summary.done, summary.failed) == (BLOCKS, ())
    assert np.array_equal(written(task), smoothed)
    assert not any(map(works, psutil.Process().children(recursive=True)))


def test_a_block_that_always_hangs_is_named_and_the_others_finish(
    smoothing: Smoothing, accident: Callable[[str], None]
) -> None:
    accident("wait:5")
    summary = try_blockwise(smoothing(time_limit=1.0), num_workers=2)
    assert not summary
    assert (summary.done, [block.number for block in summary.failed]) == (BLOCKS - 1, [5])
    assert "time limit of 1 s" in str(summary.failed[0].last.error)


def test_a_time_limit_that_every_block_exceeds_ends_the_call(
    smoothing: Smoothing, accident: Callable[[str], None]
) -> None:
    accident("too slow")
    with pytest.raises(InputError, match=r"No block was done within the time limit of 0\.1 s: set scheduler") as error:
        run_blockwise(smoothing(time_limit=0.1, block_shape=(24, 24, 24)), num_workers=2)
    assert error.value.exit_status == 2


def test_failed_blocks_are_kept_with_their_errors_until_they_are_done(
    smoothing: Smoothing, accident: Callable[[str], None]
) -> None:
    accident("error:4")
    summary = try_blockwise(smoothing(), num_workers=2)
    assert not summary
    assert (summary.done, summary.skipped) == (BLOCKS - 1, 0)
    (job,) = list_jobs()
    assert (job.state, job.total, job.done, job.failed) == ("failed", BLOCKS, BLOCKS - 1, 1)
    assert "out of sorts" in job.error
    about = job.failed_blocks()[4]
    assert about["error"] == "ValueError: the voxels are out of sorts"
    assert (about["kind"], about["attempts"], about["roi"][1]) == ("IncasemError", 3, [8, 8, 8])
    assert 'raise ValueError("the voxels' in about["trace"]
    accident("")
    assert try_blockwise(smoothing(), num_workers=2)
    (job,) = list_jobs()
    assert (job.state, job.failed_blocks()) == ("finished", {})


def test_each_worker_is_set_up_once_with_the_threads_it_may_start(
    smoothing: Smoothing, functions: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "workers.yaml"
    path.write_text("{count: 2, cores: 3}")
    task = smoothing(function=functions.serve, set_up=functions.lay_table)
    run_blockwise(task, workers=load_workers(path))
    laid = (tmp_path / "laid").read_text().split()
    assert len(laid) == len(set(laid))
    assert 1 <= len(laid) <= 2
    assert (written(task) == 3).all()


def test_a_set_up_that_finds_bad_input_ends_the_call(smoothing: Smoothing, functions: ModuleType) -> None:
    task = smoothing(function=functions.serve, set_up=functions.lay_table, parameters={"broken": "input"})
    with pytest.raises(DataError, match="The checkpoint is not there"):
        run_blockwise(task, num_workers=2)


def test_workers_that_never_begin_are_not_started_for_ever(
    smoothing: Smoothing, functions: ModuleType, tmp_path: Path
) -> None:
    task = smoothing(function=functions.serve, set_up=functions.lay_table, parameters={"broken": "leg"})
    with pytest.raises(IncasemError, match=r"end before they can begin, status 6, .*the table has three legs"):
        run_blockwise(task, num_workers=2)
    assert 3 <= len((tmp_path / "laid").read_text().split()) <= 8


def test_several_outputs_are_filled_by_the_same_blocks(
    smoothing: Smoothing, functions: ModuleType, raw: Volume, smoothed: np.ndarray, tmp_path: Path
) -> None:
    copy = create_or_resume_output(
        str(tmp_path / "cell.zarr"), "copy", shape=raw.shape, dtype="uint8", voxel_size=raw.voxel_size,
        offset=raw.offset, chunk_shape=(4, 16, 8),
    )  # fmt: skip
    task = smoothing(function=functions.both, further_outputs=(copy,))
    assert list(task.grid.step) == [8, 16, 8]
    run_blockwise(task, num_workers=2)
    assert np.array_equal(written(task), smoothed)
    assert np.array_equal(open_volume(copy.address).read(), raw.read())


def staged(smoothing: Smoothing, functions: ModuleType, **changes: Any) -> BlockTask:
    return smoothing(function=functions.add_up, read=functions.read_raw, write=functions.write_sum, **changes)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_reading_ahead_and_writing_behind_give_the_same(
    smoothing: Smoothing, functions: ModuleType, smoothed: np.ndarray, num_workers: int
) -> None:
    task = staged(smoothing, functions)
    assert run_blockwise(task, num_workers=num_workers).done == BLOCKS
    assert np.array_equal(written(task), smoothed)


def test_a_worker_reads_the_next_blocks_while_it_computes(
    smoothing: Smoothing, functions: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "workers.yaml"
    path.write_text("count: 1")
    run_blockwise(staged(smoothing, functions), workers=load_workers(path))
    events = (tmp_path / "events").read_text().split()
    assert len(events) == 2 * BLOCKS
    ahead = []
    for index, event in enumerate(events):
        if event.startswith("written"):
            ahead.append(sum(one.startswith("read") for one in events[:index]) - len(ahead) >= 2)
    assert sum(ahead) > BLOCKS // 2


def test_an_error_in_reading_or_writing_belongs_to_its_block(
    smoothing: Smoothing, functions: ModuleType, accident: Callable[[str], None]
) -> None:
    accident("error:7")
    summary = try_blockwise(staged(smoothing, functions, parameters={"unreadable": 3}), num_workers=2)
    assert [(block.number, str(block.last.error), block.attempts) for block in summary.failed] == [
        (3, "The chunk is torn: mend it.", 3),
        (7, "ValueError: the voxels are out of sorts", 3),
    ]
    assert summary.done == BLOCKS - 2


def test_another_model_is_refused(smoothing: Smoothing) -> None:
    run_blockwise(smoothing(model_hash="aa11"))
    with pytest.raises(InputError, match=r'begun with model "aa11", but now it is "bb22": .* --overwrite'):
        run_blockwise(smoothing(model_hash="bb22"))


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_a_job_can_be_watched_and_cancelled_and_goes_on(
    script: Callable[..., Any], accident: Callable[[str], None], jobs: Path
) -> None:
    accident("wait:20")
    running = script("watched", 2)
    job = wait_for(lambda: next((job for job in list_jobs(jobs) if job.done and job.workers), None))
    assert (job.name, job.state, job.total) == ("smooth", "running", BLOCKS)
    assert job.host["pid"] == running.pid
    assert {worker["name"] for worker in job.workers} <= {"local-1", "local-2"}
    assert job.rate > 0
    assert job.seconds_left > 0
    assert job.command.endswith("/watched 2")
    job.cancel()
    _, said = running.communicate(timeout=90)
    assert running.returncode == 130
    assert "Interrupted" in said
    (job,) = list_jobs(jobs)
    assert (job.state, job.workers) == ("cancelled", [])
    with pytest.raises(InputError, match="is cancelled, so there is nothing to cancel"):
        job.cancel()
    accident("")
    told, said = script("watched", 2).communicate(timeout=120)
    assert f"skipped {job.done}" in told
    assert "distributed" not in said
    assert "INFO" not in said
    assert not "".join(log.read_text() for log in jobs.glob("*/*.log"))  # of workers, whose last words are shown


def test_a_job_whose_process_is_gone_has_died(
    script: Callable[..., Any], accident: Callable[[str], None], jobs: Path
) -> None:
    accident("wait:0")
    running = script("gone", 2)
    assert wait_for(lambda: [job for job in list_jobs(jobs) if job.state == "running"])
    os.killpg(running.pid, signal.SIGKILL)
    running.wait(60)
    assert [job.state for job in list_jobs(jobs)] == ["died"]


def test_a_damaged_record_is_passed_over_and_folders_are_private(smoothing: Smoothing, jobs: Path) -> None:
    run_blockwise(smoothing(), num_workers=2)
    (job,) = list_jobs(jobs)
    assert stat.S_IMODE(job.folder.stat().st_mode) == 0o700
    (jobs / "half").mkdir()
    (jobs / "half" / RECORD).write_text('{"id": "ha')
    (jobs / "other").mkdir()
    (jobs / "other" / RECORD).write_text(json.dumps({"id": "x"}))
    assert [one.id for one in list_jobs(jobs)] == [job.id]


def test_a_local_run_listens_on_loopback_alone_and_shows_no_secret(
    script: Callable[..., Any], accident: Callable[[str], None], tmp_path: Path, jobs: Path
) -> None:
    accident("wait:5")
    running = script("quiet", 2)
    assert wait_for((tmp_path / "happened").exists)
    looked_at, listening, words = 0, [], []
    for process in [psutil.Process(running.pid), *psutil.Process(running.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that was only there for a moment
            listening += [one for one in process.net_connections() if one.status == "LISTEN"]
            words += [*process.cmdline(), *process.environ().values()]
            looked_at += 1
    (connection,) = jobs.glob("*/connection.json")
    assert stat.S_IMODE(connection.stat().st_mode) == 0o600
    key = json.loads(connection.read_text())["key"]
    os.killpg(running.pid, signal.SIGKILL)
    running.wait(60)
    assert looked_at >= 3
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}
    assert "PRIVATE KEY" in key
    assert not [word for word in words if key.splitlines()[2] in word]


def test_a_preempted_worker_that_reads_ahead_hands_back_what_it_has_not_written(
    smoothing: Smoothing, functions: ModuleType, accident: Callable[[str], None], smoothed: np.ndarray, tmp_path: Path
) -> None:
    accident("slow")
    events, ended = tmp_path / "events", []

    def preempt() -> None:
        if wait_for(lambda: events.exists() and events.read_text().count("written") >= 3):
            for worker in filter(works, psutil.Process().children()):
                worker.terminate()
                ended.append(worker)
        accident("")

    watcher = threading.Thread(target=preempt)
    watcher.start()
    task = staged(smoothing, functions)
    summary = run_blockwise(task, num_workers=2)
    watcher.join()
    assert len(ended) == 2
    assert (summary.done, summary.failed) == (BLOCKS, ())
    assert np.array_equal(written(task), smoothed)
    noted = [json.loads(line) for line in (Path(str(task.output.address)) / LOG_NAME).read_text().splitlines()[1:]]
    assert sorted(line["done"] for line in noted) == list(range(BLOCKS))
