"""Running, failing, being killed and going on."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from incasem_like.blockwise import BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.done_log import LOG_NAME
from incasem_like.errors import DataError, DiskFullError, IncasemError, InputError
from incasem_like.volumes import Coordinate, Roi, Volume, open_volume

Smoothing = Callable[..., BlockTask]
Accident = Callable[[str], None]
Script = Callable[..., "subprocess.Popen[str]"]
BLOCKS = 3 * 3 * 3


def chunk_bytes(volume: Volume) -> dict[str, bytes]:
    folder = Path(str(volume.address))
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_blocks_together_are_the_whole(smoothing: Smoothing, smoothed: np.ndarray, num_workers: int) -> None:
    task = smoothing()
    summary = run_blockwise(task, num_workers=num_workers)
    assert (summary.total, summary.done, summary.skipped, summary.already_complete) == (BLOCKS, BLOCKS, 0, False)
    output = open_volume(task.output.address)
    assert np.array_equal(output.read(), smoothed)
    assert output.complete


def test_a_second_run_says_already_complete(smoothing: Smoothing) -> None:
    run_blockwise(smoothing())
    again = run_blockwise(smoothing(), num_workers=2)
    assert (again.done, again.skipped, again.already_complete) == (0, BLOCKS, True)


def test_a_region_alone_is_written(smoothing: Smoothing, smoothed: np.ndarray, raw: Volume) -> None:
    roi = Roi(raw.roi.begin + Coordinate(3, 4, 5), (10, 9, 8))
    task = smoothing(roi=roi)
    run_blockwise(task)
    expected = np.zeros_like(smoothed)
    expected[3:13, 4:13, 5:13] = smoothed[3:13, 4:13, 5:13]
    assert np.array_equal(open_volume(task.output.address).read(), expected)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_failing_block_is_reported_and_the_others_finish(
    smoothing: Smoothing, smoothed: np.ndarray, accident: Accident, num_workers: int
) -> None:
    accident("error:4")
    with pytest.raises(IncasemError, match=r"1 of 27 blocks failed, the first one at z 3-10, .*out of sorts") as error:
        run_blockwise(smoothing(), num_workers=num_workers)
    accident("")
    assert error.value.exit_status == 1
    assert 'raise ValueError("the voxels' in error.value.__notes__[0]
    assert "The others are done. To retry the failed ones, run the same command again." in str(error.value)
    with pytest.raises(DataError, match="incomplete"):
        open_volume(smoothing().output.address)
    again = run_blockwise(smoothing())
    assert (again.done, again.skipped) == (1, BLOCKS - 1)
    assert np.array_equal(open_volume(smoothing().output.address).read(), smoothed)


def test_a_block_that_finds_bad_data_blames_the_data(smoothing: Smoothing, accident: Accident) -> None:
    accident("data:0")
    with pytest.raises(DataError, match="not what they should be") as error:
        run_blockwise(smoothing())
    assert error.value.exit_status == 2
    assert "again" not in str(error.value)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_full_disk_stops_at_once_and_keeps_what_is_done(
    smoothing: Smoothing, smoothed: np.ndarray, accident: Accident, num_workers: int
) -> None:
    accident("full:4")
    with pytest.raises(DiskFullError, match="No space is left on the disk"):
        run_blockwise(smoothing(), num_workers=num_workers)
    accident("")
    again = run_blockwise(smoothing(), num_workers=num_workers)
    assert 0 < again.skipped < BLOCKS - 1
    assert np.array_equal(open_volume(smoothing().output.address).read(), smoothed)


def test_a_block_that_kills_every_worker_fails_and_the_others_finish(
    smoothing: Smoothing, smoothed: np.ndarray, accident: Accident
) -> None:
    accident("kill:9")
    with pytest.raises(IncasemError, match=r"1 of 27 blocks failed, .* at z 11-18, .* died by signal 9, .* memory"):
        run_blockwise(smoothing(), num_workers=2)
    accident("")
    again = run_blockwise(smoothing(), num_workers=2)
    assert (again.done, again.skipped) == (1, BLOCKS - 1)
    assert np.array_equal(open_volume(smoothing().output.address).read(), smoothed)


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_and_going_on_gives_the_bytes_of_an_undisturbed_run(
    smoothing: Smoothing, script: Script, raw: Volume, accident: Accident, workers: int
) -> None:
    accident("kill_all:13")
    assert script("killed", workers).wait(120) == -signal.SIGKILL
    accident("")
    killed = open_volume(str(raw.address.container), "killed", allow_incomplete=True)
    assert not killed.complete
    recorded = (Path(str(killed.address)) / LOG_NAME).read_text().splitlines()[1:]
    # Workers tell of blocks that take no time together, 20 ms later at most; what they had not told is done again.
    assert len(recorded) == 13 if workers == 1 else 1 <= len(recorded) < BLOCKS
    resumed = script("killed", workers)
    told, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    assert told.strip() == f"done {BLOCKS - len(recorded)} skipped {len(recorded)} already False"
    undisturbed = smoothing("undisturbed")
    run_blockwise(undisturbed)
    assert chunk_bytes(killed) == chunk_bytes(undisturbed.output)
    assert open_volume(killed.address).complete
    told, _ = script("killed", workers).communicate(timeout=120)
    assert told.strip() == f"done 0 skipped {BLOCKS} already True"


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_ends_workers_and_keeps_what_is_done(
    script: Script, accident: Accident, tmp_path: Path, workers: int
) -> None:
    accident("wait:5")
    running = script("stopped", workers)
    assert within(90, (tmp_path / "happened").exists)
    os.killpg(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=90)  # the block itself would have waited longer
    assert running.returncode == 130
    assert "Interrupted." in said
    assert "Traceback" not in said
    assert within(60, lambda: not group_lives(running.pid))
    accident("")
    resumed = script("stopped", workers)
    told, _ = resumed.communicate(timeout=120)
    assert resumed.returncode == 0
    assert "skipped 0" not in told


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_do_not_outlive_a_killed_parent(script: Script, accident: Accident, tmp_path: Path, end: int) -> None:
    accident("wait:5")
    running = script("orphaned", 2)
    assert within(90, (tmp_path / "happened").exists)
    os.kill(running.pid, end)
    assert running.wait(60) == -end
    assert within(60, lambda: not group_lives(running.pid))


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; tell whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_other_parameters_or_inputs_are_refused(smoothing: Smoothing, raw: Volume) -> None:
    run_blockwise(smoothing(parameters={"sigma": 1}))
    with pytest.raises(InputError, match=r"parameters sigma 1, but now it is 2: .* --overwrite"):
        run_blockwise(smoothing(parameters={"sigma": 2}))
    with pytest.raises(InputError, match=r"layout block shape \[8, 8, 8\], but now it is \[16, 8, 8\]"):
        run_blockwise(smoothing(parameters={"sigma": 1}, block_shape=(9, 8, 8)))
    raw.write(np.zeros((1, 1, 1), np.uint8), Roi(raw.roi.begin, (1, 1, 1)))
    with pytest.raises(InputError, match="has changed since"):
        run_blockwise(smoothing(parameters={"sigma": 1}))


def test_overwrite_starts_again(script: Script) -> None:
    script("out", 1).wait(120)
    told, _ = script("out", 1, "--overwrite").communicate(timeout=120)
    assert told.strip() == f"done {BLOCKS} skipped 0 already False"


def test_an_output_of_another_shape_is_refused(smoothing: Smoothing, tmp_path: Path) -> None:
    smoothing()
    with pytest.raises(
        InputError, match=r"exists already with shape \[20, 18, 22\], but shape \[20, 18, 23\] is needed"
    ):
        create_or_resume_output(
            str(tmp_path / "cell.zarr"),
            "smoothed",
            shape=(20, 18, 23),
            dtype="uint16",
            voxel_size=(4.6, 4, 4),
            offset=(13.8, 20, 28),
        )
    with pytest.raises(InputError, match=r"exists already with dtype uint16, but dtype uint8 is needed"):
        create_or_resume_output(
            str(tmp_path / "cell.zarr"),
            "smoothed",
            shape=(20, 18, 22),
            dtype="uint8",
            voxel_size=(4.6, 4, 4),
            offset=(13.8, 20, 28),
        )


def test_an_incomplete_input_is_refused(smoothing: Smoothing, raw: Volume) -> None:
    raw.update_attributes({"complete": False})
    with pytest.raises(DataError, match="raw is incomplete"):
        run_blockwise(smoothing())


def test_the_log_is_readable_json(smoothing: Smoothing) -> None:
    task = smoothing()
    run_blockwise(task)
    lines = [json.loads(line) for line in (Path(str(task.output.address)) / LOG_NAME).read_text().splitlines()]
    assert lines[0]["task"] == "smooth"
    assert sorted(line["done"] for line in lines[1:]) == list(range(BLOCKS))
