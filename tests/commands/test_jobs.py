"""``incasem-like jobs`` on jobs that ran, fail, run and are cancelled, as a person sees them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from incasem_like.blockwise import list_jobs
from incasem_like.commands.cli import answer
from incasem_like.errors import InputError
from incasem_like.volumes import open_volume

SCRIPT = '''
"""Writes ones, block by block; block 3 needs a file named mended; with one named slow they take their time."""
import time
from pathlib import Path

import numpy as np

from incasem_like.blockwise import BlockTask, create_or_resume_output, run_blockwise
from incasem_like.errors import DataError
from incasem_like.terminal import run_guarded

HERE = Path(__file__).parent


def fill(block, parameters):
    if (HERE / "slow").exists():
        time.sleep(1.2)
    if block.number == 3 and not (HERE / "mended").exists():
        raise DataError("Section 3 is torn: mend it.")
    block.output.write(np.ones(block.write_roi.shape, np.uint8), block.write_roi)


def main():
    output = create_or_resume_output(
        str(HERE / "out.zarr" / "ones"), shape=(8, 4, 4), dtype="uint8", voxel_size=(1, 1, 1), chunk_shape=(2, 4, 4)
    )
    task = BlockTask("fill", output, (), fill, block_shape=(2, 4, 4), retries=1)
    run_blockwise(task)


run_guarded(main)
'''


@pytest.fixture(autouse=True)
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INCASEM_JOBS", str(tmp_path / "jobs"))
    (tmp_path / "fill.py").write_text(SCRIPT)
    return tmp_path / "jobs"


def test_while_no_worker_comes_what_was_said_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = ["sleep 1000; : {command}", "echo the partition is full; sleep 1000; : {command}"]
    groups = [{"launcher": "command", "command": command} for command in commands]
    (tmp_path / "workers.yaml").write_text(json.dumps({"workers": groups}))
    script = SCRIPT.replace("run_blockwise(task)", "run_blockwise(task, workers=load_workers(HERE / 'workers.yaml'))")
    impatient = """
from incasem_like import terminal
from incasem_like.blockwise import call
from incasem_like.blockwise.workers_file import load_workers

call.SECONDS_UNTIL_TOLD, terminal.SECONDS_BETWEEN_LINES = 1, 0.5
HERE = """
    (tmp_path / "fill.py").write_text(script.replace("\nHERE = ", impatient, 1))
    running = start(tmp_path)
    try:
        assert running.stderr is not None
        told = running.stderr.readline()
        (job,) = list_jobs()
        assert told.endswith(f"no worker yet, incasem-like jobs show {job.id} tells more\n")
        (job.folder / "command2-1.out").touch()  # as a queue makes it before the worker has said anything
        answer(["jobs", "show", job.id])
        said = "no worker is connected; last messages:\n  command2-1: the partition is full\n"
        assert capsys.readouterr().out.endswith(said)
    finally:
        running.terminate()
        running.communicate(timeout=60)


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "fill.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_failed_blocks_are_named_and_done_by_a_retry(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    failing = start(tmp_path)
    assert "1 of 4 blocks failed" in failing.communicate(timeout=60)[1]
    assert failing.returncode == 2
    (job,) = list_jobs()

    assert answer(["jobs", "list"]) == 0
    heading, row = capfd.readouterr().out.splitlines()
    assert heading.split()[:5] == ["id", "state", "job", "done", "failed"]
    assert row.split()[:5] == [job.id, "failed", "fill", "75", "%"]

    assert answer(["jobs", "show", job.id[:4]]) == 0
    shown = capfd.readouterr().out
    assert "3 of 4 blocks, 1 failed" in shown
    assert "block 3 at 6-7, 0-3, 0-3, 2 attempts: Section 3 is torn: mend it." in shown
    assert f"incasem-like jobs retry {job.id}" in shown
    assert answer(["jobs", "show", job.id, "--json"]) == 0
    assert [entry["block"] for entry in json.loads(capfd.readouterr().out)["failed_blocks"]] == [3]

    assert answer(["jobs", "retry", job.id]) == 2  # of the command, which fails again
    (tmp_path / "mended").touch()
    assert answer(["jobs", "retry", job.id]) == 0
    output = open_volume(tmp_path / "out.zarr" / "ones")
    assert output.complete
    assert output.read().all()
    with pytest.raises(InputError, match="is finished, so there is nothing to retry"):
        answer(["jobs", "retry", job.id])
    with pytest.raises(InputError, match="is finished, so there is nothing to cancel"):
        answer(["jobs", "cancel", job.id])


def test_a_job_is_cancelled_from_outside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "slow").touch()
    (tmp_path / "mended").touch()
    running = start(tmp_path)
    deadline = time.monotonic() + 60
    while not list_jobs() and time.monotonic() < deadline:
        time.sleep(0.05)
    (job,) = list_jobs()
    assert job.state == "running"
    assert answer(["jobs", "cancel", job.id]) == 0
    assert f"resume it with: incasem-like jobs retry {job.id}" in capfd.readouterr().out
    running.communicate(timeout=60)
    assert running.returncode not in (0, None)
    assert [job.state for job in list_jobs()] == ["cancelled"]
    (tmp_path / "slow").unlink()
    assert answer(["jobs", "retry", job.id]) == 0
    assert open_volume(tmp_path / "out.zarr" / "ones").complete


def test_what_is_no_job_is_said_in_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert answer(["jobs", "list"]) == 0
    assert capfd.readouterr().out.startswith("No jobs yet in ")
    with pytest.raises(InputError, match="Unknown job 'abc'"):
        answer(["jobs", "show", "abc"])
    with pytest.raises(InputError, match=r"The folder .*nowhere does not exist"):
        answer(["jobs", "list", "--jobs_directory", str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match="'lst' is not a command of incasem-like jobs; did you mean 'list'"):
        answer(["jobs", "lst"])


def record(jobs: Path, job_id: str) -> None:
    """Leave the record of a job whose machine went down days ago."""
    (jobs / job_id).mkdir(parents=True)
    long_ago = "2026-01-01T00:00:00+00:00"
    worker = {"name": "slurm-1", "host": "node7", "pid": 5, "block": 3, "seconds": 2.0}
    known = {
        "id": job_id, "name": "fill", "output": "/gone", "state": "running", "total": 4, "done": 1, "failed": 0,
        "rate": 1.0, "seconds_left": 3.0, "started": long_ago, "updated": long_ago, "host": {"hostname": "gone"},
        "command": "python fill.py", "directory": "/", "error": "", "workers": [worker],
    }  # fmt: skip
    (jobs / job_id / "job.json").write_text(json.dumps(known))


def test_the_workers_of_a_job_that_died_are_said_to_be_of_the_past(
    jobs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    record(jobs, "ab12")
    assert answer(["jobs", "show", "ab12"]) == 0
    shown = capfd.readouterr().out.splitlines()
    assert shown[1].split() == ["state", "died"]
    assert shown[shown.index("at the last update:") + 2].split()[:2] == ["slurm-1", "node7"]


def test_jobs_of_some_states_are_listed_the_latest_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ids(*words: str) -> list[str]:
        answer(["jobs", "list", *words, "--json"])
        return [job["id"] for job in json.loads(capsys.readouterr().out)]

    for output in ("first", "second"):
        (tmp_path / "fill.py").write_text(SCRIPT.replace('"ones"', f'"{output}"'))
        (tmp_path / "mended").touch()
        with start(tmp_path) as ended:
            ended.communicate()
    (tmp_path / "mended").unlink()
    (tmp_path / "fill.py").write_text(SCRIPT)
    with start(tmp_path) as ended:
        ended.communicate()
    failed, second, first = ids()
    assert ids("finished") == [second, first]
    assert ids("finished", "--limit", "1") == [second]
    assert ids("failed", "running") == [failed]
    answer(["jobs", "list", "died"])
    assert capsys.readouterr().out.startswith("No jobs of that state in ")
    with pytest.raises(InputError, match="'done' is not one of 'running', 'finished'"):
        answer(["jobs", "list", "done"])


def test_of_many_jobs_that_begin_alike_some_are_named(jobs: Path) -> None:
    for number in range(7):
        record(jobs, f"ab{number}")
    with pytest.raises(InputError, match=r"7 jobs begin with 'ab': choose ab\d(, ab\d){4}, \.\.\.\."):
        answer(["jobs", "show", "ab"])
