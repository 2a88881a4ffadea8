"""``runs reap`` and ``runs sync``: what became of runs that died, and of an outage."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from commands.lab import Lab

TRAINING = """
import sys, time
from pathlib import Path
from incasem_like.tracking import open_store, run_experiment
url, directory = sys.argv[1] or None, Path(sys.argv[2])
def work(run):
    run.flush()
    print("ready", flush=True)
    time.sleep(60)
run_experiment(name="train", config={}, main=work, store=open_store(url, "trainings", directory), run_name="doomed")
"""


def test_a_killed_run_is_found_and_reaped_once(lab: Lab) -> None:
    command = [sys.executable, "-c", TRAINING, lab.url or "", str(lab.directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert lab.ask("runs", "list").column("status") == ["RUNNING"]
    assert "No run is recorded as RUNNING without a process." in lab.ask("runs", "reap").output
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert lab.ask("runs", "list", "status=KILLED").column("id") == ["1"]
    assert "KILLED (recorded as RUNNING)" in lab.ask("runs", "show", 1).output
    shown = lab.ask("runs", "reap").output
    assert "Training run 1 (doomed) was KILLED, last heartbeat" in shown
    assert "1 run reaped." in shown
    record = lab.store().get(1)
    assert (record.recorded_status, record.stop_time) == ("KILLED", record.heartbeat)
    assert "No run is recorded as RUNNING" in lab.ask("runs", "reap").output


def test_only_the_kind_that_was_asked_for_is_reaped(lab: Lab) -> None:
    for kind in ("trainings", "predictions"):
        lab.add(1, kind, status="RUNNING", stop_time=None)
    assert "Prediction run 1" in lab.ask("runs", "reap", "--kind", "predictions").output
    assert lab.store().get(1).recorded_status == "RUNNING"
    assert "Training run 1" in lab.ask("runs", "reap").output


def test_a_run_of_another_machine_that_was_heard_of_lately_stays(lab: Lab) -> None:
    from datetime import UTC, datetime

    lab.add(
        1, status="RUNNING", stop_time=None, heartbeat=datetime.fromtimestamp(time.time(), UTC).replace(tzinfo=None)
    )
    assert "No run is recorded as RUNNING" in lab.ask("runs", "reap").output
    lab.add(2, status="RUNNING", stop_time=None)
    said = lab.ask("runs", "show", 2).output
    assert "KILLED (recorded as RUNNING, and only the clocks of two machines differ from that)" in said


def test_a_run_whose_clock_is_behind_is_watched_and_stays(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from incasem_like.tracking import liveness as watching

    for run_id in (1, 2):
        lab.add(run_id, name=f"run_{run_id}", status="RUNNING", stop_time=None)
    working = watching.watch

    def watch(look: Any, who: str) -> set[Any]:
        assert "Runs 1, 2 in" in who
        return {*working(look, who), 2}

    monkeypatch.setattr(watching, "watch", watch)
    shown = lab.ask("runs", "reap")
    assert "Training run 2 (run_2) is alive: the clock of elsewhere and that of this machine differ." in shown.output
    assert "Training run 1 (run_1) was KILLED" in shown.output
    assert "1 run reaped." in shown.output
    assert [lab.store().get(run_id).recorded_status for run_id in (1, 2)] == ["KILLED", "RUNNING"]


def test_without_an_outage_there_is_nothing_to_deliver(lab: Lab) -> None:
    lab.add(1)
    shown = lab.ask("runs", "sync")
    assert (shown.status, shown.output) == (0, f"Nothing is pending in {lab.directory}.\n")


def test_a_run_begun_offline_is_delivered(lab: Lab) -> None:
    from incasem_like.tracking import Run, run_experiment
    from incasem_like.tracking.moving.sync import offline_store

    def work(run: Run) -> str:
        run.log_scalar("loss", 0.5, 1)
        return "done"

    run_experiment(
        name="train",
        config={"a": 1},
        main=work,
        store=offline_store("trainings", lab.store().runs_directory),
        run_name="at sea",
    )
    shown = lab.ask("runs", "sync")
    assert shown.status == 0, shown
    assert "Training run 1: run delivered" in shown.output
    record = lab.store().get(lab.store().ids()[0])
    assert (record.name, record.result, record.metrics["loss"].values) == ("at sea", "done", (0.5,))
    assert lab.ask("runs", "sync").output.startswith("Nothing is pending")


@pytest.mark.parametrize("word", ["reap", "sync"])
def test_an_unknown_kind_is_refused(word: str, lab: Lab) -> None:
    assert "Unknown kind of run 'x'" in lab.refused("runs", word, "--kind", "x")
