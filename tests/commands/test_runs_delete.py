"""``runs delete``: it asks, refuses, frees and says what it freed."""

from pathlib import Path

import pytest
from commands.lab import Lab

from incasem_like.tracking.stores.mongo import MongoStore

PARENT = {"parent": {"training_run_id": 1, "iteration": 30, "sha256": "c" * 64}}


@pytest.fixture
def family(lab: Lab) -> Lab:
    """A training, its fine-tuned child, a prediction with either, and an evaluation of the second."""
    lab.add(1, name="base")
    lab.add(2, name="tuned", info=PARENT)
    lab.add(1, "predictions", name="early", info=PARENT)
    lab.add(2, "predictions", info={"parent": {"training_run_id": 2}})
    lab.add(1, "evaluations", info={"prediction_run_id": 2})
    return lab


def answer_with(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """Sit at the terminal and type a word."""
    import click

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(click.termui, "visible_prompt_func", lambda prompt: word)


def test_a_run_that_others_came_from_stays_unless_they_go_too(family: Lab) -> None:
    refused = family.refused("runs", "delete", 1, "--yes")
    assert "has runs derived from it (training 2, prediction 1)" in refused
    assert "(prediction 2)" in family.refused("runs", "delete", 1, 2, "predictions/1", "--yes")
    assert family.store().ids() == [1, 2]
    everything = ["1", "2", "predictions/1", "predictions/2", "evaluations/1"]
    shown = family.ask("runs", "delete", *everything, "--yes")
    assert shown.status == 0
    order = [line.split(":")[0] for line in shown.output.splitlines() if line.startswith("Deleted")]
    assert order.index("Deleted training run 1 (base)") == len(order) - 1
    assert order[0].startswith("Deleted evaluation run 1") or order[0].startswith("Deleted evaluation")
    for kind in ("trainings", "predictions", "evaluations"):
        assert family.store(kind).ids() == []


def test_force_deletes_a_parent_alone(family: Lab) -> None:
    assert family.ask("runs", "delete", 1, "--yes", "--force").status == 0
    assert family.store().ids() == [2]


def test_one_run_that_must_stay_keeps_all_of_them(family: Lab) -> None:
    assert "There is no training run 7" in family.refused("runs", "delete", "evaluations/1", 7, "--yes")
    assert family.store("evaluations").ids() == [1]


def test_nothing_goes_without_a_yes(family: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert "add --yes" in family.refused("runs", "delete", "evaluations/1")
    answer_with(monkeypatch, "n")
    shown = family.ask("runs", "delete", "evaluations/1")
    assert (shown.status, "Nothing was deleted." in shown.output) == (0, True)
    assert family.store("evaluations").ids() == [1]
    answer_with(monkeypatch, "y")
    assert "Deleted evaluation run 1" in family.ask("runs", "delete", "evaluations/1").output
    assert family.store("evaluations").ids() == []


def test_checkpoints_are_freed_and_the_sum_is_told(lab: Lab) -> None:
    import hashlib

    folder = lab.directory / "models" / "0005"
    folder.mkdir(parents=True)
    (folder / "model_checkpoint_10").write_bytes(b"w" * 5000)
    (folder / "training_state_10").write_bytes(b"s" * 3000)
    entry = {
        "iteration": 10,
        "path": "models/0005/model_checkpoint_10",
        "sha256": hashlib.sha256(b"w" * 5000).hexdigest(),
        "bytes": 5000,
    }
    lab.add(5, name="heavy", info={"checkpoints": [entry]})
    shown = lab.ask("runs", "delete", 5, "--yes").output
    assert shown.splitlines()[1].split()[:3] == ["training", "5", "heavy"]
    assert "freed 8" in shown
    assert "models/0005" in shown
    assert not folder.exists()


def test_a_run_that_goes_on_is_refused(lab: Lab) -> None:
    import os
    import socket

    import psutil

    from incasem_like.tracking.liveness import boot_id, pid_namespace

    me = {
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "boot_id": boot_id(),
        "pid_namespace": pid_namespace(),
        "process_start": psutil.Process().create_time(),
    }
    lab.add(1, name="busy", status="RUNNING", stop_time=None, host=me)
    assert "Training run 1 (busy) is still running: stop it first" in lab.refused("runs", "delete", 1, "--yes")
    assert lab.store().ids() == [1]


def test_what_a_prediction_wrote_into_a_volume_stays(lab: Lab, tmp_path: Path) -> None:
    written = tmp_path / "cell.zarr" / "segmentation"
    written.mkdir(parents=True)
    lab.add(1, "predictions", result={"outputs": {"cell": str(written)}})
    assert lab.ask("runs", "delete", "predictions/1", "--yes").status == 0
    assert written.is_dir()


def test_a_run_whose_clock_is_behind_keeps_all_of_them(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from incasem_like.tracking import liveness as watching

    lab.add(1)
    lab.add(2, name="ER, cell 2", status="RUNNING", stop_time=None)
    monkeypatch.setattr(watching, "watch", lambda look, who: {2})
    assert "Training run 2 (ER, cell 2) is still running" in lab.refused("runs", "delete", 1, 2, "--yes")
    assert lab.store().ids() == [1, 2]


def test_a_damaged_record_can_be_deleted_once_somebody_agrees(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.add(1)
    lab.add(2)
    store = lab.store()
    if isinstance(store, MongoStore):
        odd = {"status": "RUNNING", "heartbeat": "yesterday", "start_time": [3], "artifacts": 5, "session": 7}
        store.database["runs"].replace_one({"_id": 1}, {**odd, "info": {"checkpoints": [{}, 5], "sessions": [1]}})
    else:
        (lab.directory / "tracking" / "incasem_trainings" / "1" / "run.json").write_text('{"status": ')
    answer_with(monkeypatch, "n")
    shown = lab.ask("runs", "delete", 1)
    assert "Nothing was deleted." in shown.output, shown
    if not isinstance(store, MongoStore):
        assert "is damaged" in shown.error
        assert "DAMAGED" in shown.output
    answer_with(monkeypatch, "y")
    shown = lab.ask("runs", "delete", 1, 2)
    assert (shown.status, lab.store().ids(), lab.store().unfinished("deleting")) == (0, [], {}), shown
    assert "Deleted training run 1: freed" in shown.output


def test_a_damaged_record_that_others_came_from_stays_as_any_other(family: Lab) -> None:
    if family.url is not None:
        pytest.skip("only a file can be so damaged that nothing of it can be read")
    (family.directory / "tracking" / "incasem_trainings" / "1" / "info.json").write_bytes(b"\xff")
    assert "has runs derived from it" in family.refused("runs", "delete", 1, "--yes")
