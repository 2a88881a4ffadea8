"""Runs in processes of their own: ids under a race, and every way to die."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from incasem_like.tracking import RunStore, open_store
from incasem_like.tracking.stores.mongo import MongoStore

Start = Callable[..., "subprocess.Popen[str]"]

MANY = """
    import sys
    from pathlib import Path
    from incasem_like.tracking import open_store, run_experiment
    store = open_store(sys.argv[1], "trainings", Path("runs"))
    for _ in range(10):
        print(run_experiment(name="train", config={}, main=lambda run: run.id, store=store), flush=True)
"""

WAITING = """
    import sys, time
    from pathlib import Path
    from incasem_like.terminal import run_guarded
    from incasem_like.tracking import open_store, run_experiment
    def main(run):
        run.log_scalar("loss", 0.5, 1)
        path = Path("runs/checkpoint"); path.write_bytes(b"x")
        run.register_checkpoint(path, 1)
        try:
            for step in range(2, 10000):
                run.log_scalar("loss", 0.5, step)
                if step == 3:
                    print("waiting", flush=True)
                time.sleep(0.01)
        except KeyboardInterrupt:
            print("cleaning up", flush=True)
            raise
    store = open_store(None, "trainings", Path("runs"))
    run_guarded(lambda: run_experiment(name="train", config={"a": 1}, main=main, store=store))
"""


def _ids(process: "subprocess.Popen[str]") -> list[int]:
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    return [int(line) for line in output.splitlines() if line.isdigit()]


def test_two_processes_that_start_ten_runs_each_share_no_id(tmp_path: Path, start_python: Start) -> None:
    processes = [start_python(MANY, tmp_path / "runs" / "tracking") for _ in range(2)]
    first, second = (_ids(process) for process in processes)
    assert first == sorted(first)
    assert second == sorted(second)
    assert sorted(first + second) == list(range(1, 21))
    store = open_store(None, "trainings", tmp_path / "runs")
    assert store.ids() == list(range(1, 21))
    assert all(store.get(run_id).status == "COMPLETED" for run_id in store.ids())


@pytest.mark.mongo
def test_two_processes_share_no_id_on_a_server(
    mongo_url: str, server_store: MongoStore, start_python: Start, tmp_path: Path
) -> None:
    file = tmp_path / "trainings_db.json"
    file.write_text(json.dumps({"url": mongo_url, "db_name": server_store.database.name}))
    first, second = (_ids(process) for process in [start_python(MANY, file) for _ in range(2)])
    assert sorted(first + second) == list(range(1, 21))


def _started(start_python: Start) -> "subprocess.Popen[str]":
    process = start_python(WAITING)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "waiting"
    return process


def _store(tmp_path: Path) -> RunStore:
    return open_store(None, "trainings", tmp_path / "runs")


def test_kill_leaves_a_record_that_can_be_read(tmp_path: Path, start_python: Start) -> None:
    process = _started(start_python)
    process.send_signal(signal.SIGKILL)
    process.wait()
    record = _store(tmp_path).get(1)
    assert (record.status, record.recorded_status, record.config) == ("KILLED", "RUNNING", {"a": 1})
    assert record.checkpoint("last").fetch()
    assert record.metrics["loss"].values[0] == 0.5
    assert record.host["pid"] == process.pid
    assert {"boot_id", "process_start"} <= set(record.host)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_ends_a_run_as_interrupted(
    number: signal.Signals, tmp_path: Path, start_python: Start
) -> None:
    process = _started(start_python)
    process.send_signal(number)
    output, errors = process.communicate(timeout=90)
    assert process.returncode == 128 + number
    assert output.strip() == "cleaning up"
    assert errors == f"Ended by {number.name}: run 1 is recorded as INTERRUPTED.\n"
    record = _store(tmp_path).get(1)
    assert record.status == "INTERRUPTED"
    assert record.stop_time is not None
    assert "cleaning up" in record.captured_output
    assert len(record.metrics["loss"].steps) >= 3


def test_ctrl_c_ends_a_run_as_interrupted_with_status_130(tmp_path: Path, start_python: Start) -> None:
    process = _started(start_python)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.startswith("Interrupted.")
    assert _store(tmp_path).get(1).status == "INTERRUPTED"


def test_ctrl_c_again_and_again_still_closes_the_record(tmp_path: Path, start_python: Start) -> None:
    process = _started(start_python)
    for _ in range(50):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        time.sleep(0.002)
    process.communicate(timeout=90)
    assert _store(tmp_path).get(1).status == "INTERRUPTED"


def test_a_line_cut_off_in_the_metrics_log_is_left_out(tmp_path: Path, start_python: Start) -> None:
    process = _started(start_python)
    process.kill()
    process.wait()
    with open(tmp_path / "runs" / "tracking" / "incasem_trainings" / "1" / "metrics.jsonl", "a") as log:
        log.write('{"name": "loss", "ste')
    assert len(_store(tmp_path).get(1).metrics["loss"].steps) >= 1


def test_an_error_of_a_person_is_one_sentence_and_a_failed_run(tmp_path: Path, start_python: Start) -> None:
    code = """
        from pathlib import Path
        from incasem_like.errors import DataError
        from incasem_like.terminal import run_guarded
        from incasem_like.tracking import open_store, run_experiment
        def main(run):
            raise DataError("volumes/raw is missing: import it.")
        store = open_store(None, "trainings", Path("runs"))
        run_guarded(lambda: run_experiment(name="train", config={}, main=main, store=store))
    """
    process = start_python(code)
    output, errors = process.communicate(timeout=90)
    assert (process.returncode, output, errors) == (2, "", "error: volumes/raw is missing: import it.\n")
    assert _store(tmp_path).get(1).status == "FAILED"


def test_the_script_and_its_commit_are_on_record(tmp_path: Path) -> None:
    repository = tmp_path / "lab"
    repository.mkdir()
    (repository / "train.py").write_text(
        "from pathlib import Path\n"
        "from incasem_like.tracking import open_store, run_experiment\n"
        "store = open_store(None, 'trainings', Path('runs'))\n"
        "run_experiment(name='train', config={}, main=lambda run: None, store=store)\n"
    )
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (
        ["init", "-q"],
        ["remote", "add", "origin", "https://ada:s3cret@example.org/lab.git"],
        ["add", "."],
        ["commit", "-qm", "x"],
    ):
        subprocess.run([*git, *command], check=True)
    subprocess.run([sys.executable, str(repository / "train.py")], check=True, cwd=tmp_path)
    record = _store(tmp_path).get(1)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    found = {entry["url"]: entry for entry in record.experiment["repositories"]}["https://example.org/lab.git"]
    assert found == {"url": "https://example.org/lab.git", "commit": commit, "dirty": False}
    assert Path(record.experiment["mainfile"]).name == "train.py"
    assert "s3cret" not in json.dumps(record.experiment)
