"""``runs doctor``: it finds, explains, asks, repairs, and leaves alone what takes a person's judgement."""

import hashlib
import os
from pathlib import Path

import pytest
from commands.lab import Lab


def age(*paths: Path) -> None:
    """Make files and folders look older than what may be in the making."""
    for path in paths:
        os.utime(path, (1_700_000_000, 1_700_000_000))


def entry_of(content: bytes, path: str) -> dict[str, object]:
    return {"iteration": 20, "path": path, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


@pytest.fixture
def disorder(lab: Lab) -> Lab:
    """A run that died, one whose checkpoint is gone, and a folder of checkpoints that belongs to no run."""
    lab.add(1, name="dead", status="RUNNING", stop_time=None)
    gone = {"iteration": 10, "path": "models/0002/model_checkpoint_10", "sha256": "a" * 64, "bytes": 3}
    kept = {
        **gone,
        "iteration": 20,
        "path": "models/0002/model_checkpoint_20",
        "sha256": hashlib.sha256(b"abc").hexdigest(),
    }
    lab.add(2, name="loser", info={"checkpoints": [gone, kept]})
    for folder in ("0002", "0009"):
        (lab.directory / "models" / folder).mkdir(parents=True)
        (lab.directory / "models" / folder / "model_checkpoint_20").write_bytes(b"abc")
    (lab.directory / "models/0002/training_state_20").write_bytes(b"state")
    age(*(lab.directory / "models/0009").iterdir(), lab.directory / "models/0009")
    return lab


def test_a_store_in_order_is_called_so(lab: Lab) -> None:
    lab.add(1)
    shown = lab.ask("runs", "doctor")
    assert (shown.status, shown.output.startswith("All is consistent in")) == (0, True)


def test_what_is_wrong_is_listed_with_its_repair_and_nothing_is_changed(disorder: Lab) -> None:
    shown = disorder.ask("runs", "doctor")
    assert shown.status == 1
    assert "Training run 1 is recorded as RUNNING, but its process has ended" in shown.output
    assert "models/0002/model_checkpoint_10, which is missing; no other copy was found." in shown.output
    assert "models/0009 belongs to no run in" in shown.output
    assert "2 of 3 can be repaired: add --repair." in shown.output
    assert disorder.store().get(1).recorded_status == "RUNNING"


def test_what_can_be_repaired_is_repaired_and_the_rest_stays(disorder: Lab) -> None:
    shown = disorder.ask("runs", "doctor", "--repair", "--yes")
    assert shown.status == 1
    assert "2 of 3 repaired." in shown.output
    assert disorder.store().get(1).recorded_status == "KILLED"
    assert [checkpoint.iteration for checkpoint in disorder.store().get(2).checkpoints] == [20]
    assert (disorder.directory / "models/0009/model_checkpoint_20").is_file()
    again = disorder.ask("runs", "doctor")
    assert "1. " in again.output
    assert "models/0009" in again.output
    assert "2. " not in again.output


def test_nothing_is_repaired_without_a_yes(disorder: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import click

    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert "add --yes" in disorder.refused("runs", "doctor", "--repair")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(click.termui, "visible_prompt_func", lambda prompt: "n")
    assert "Nothing was repaired." in disorder.ask("runs", "doctor", "--repair").output
    assert disorder.store().get(1).recorded_status == "RUNNING"


def test_a_folder_of_a_run_in_another_store_is_known_when_that_is_named(disorder: Lab, tmp_path: Path) -> None:
    kept = {"checkpoints": [entry_of(b"abc", "models/0009/model_checkpoint_20")]}
    if disorder.url:  # the files in the same runs directory are looked into without being named
        Lab(disorder.directory, None, disorder.read_output).add(9, info=kept)
        assert "models/0009" not in disorder.ask("runs", "doctor").output
        return
    other = tmp_path / "elsewhere"
    assert "models/0009 belongs to no run" in disorder.ask("runs", "doctor", "--also", other).output
    disorder.add(9, info=kept)
    assert disorder.ask("runs", "copy", 9, "--to", other).status == 0
    assert disorder.ask("runs", "delete", 9, "--yes").status == 0
    folder = disorder.directory / "models/0009"
    age(*folder.iterdir(), folder)
    assert "models/0009 belongs to no run" in disorder.ask("runs", "doctor").output
    assert "models/0009" not in disorder.ask("runs", "doctor", "--also", other).output


def test_a_checkpoint_of_the_right_length_is_only_read_when_asked_to(lab: Lab) -> None:
    folder = lab.directory / "models/0001"
    folder.mkdir(parents=True)
    (folder / "model_checkpoint_20").write_bytes(b"xyz")
    (folder / "training_state_20").write_bytes(b"state")
    lab.add(1, info={"checkpoints": [entry_of(b"abc", "models/0001/model_checkpoint_20")]})
    assert lab.ask("runs", "doctor").status == 0
    assert "which is changed" in lab.ask("runs", "doctor", "--thorough").output
