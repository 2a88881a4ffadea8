"""What ``train.py`` says when a training breaks off."""

import sys
from pathlib import Path
from typing import Any

import pytest

from incasem_like.commands import train as command
from incasem_like.errors import DiskFullError, IncasemError
from incasem_like.tracking.sessions import taken_over
from incasem_like.training import experiment
from incasem_like.training.checkpoints import RunFolders
from incasem_like.training.start import Beginning

SCRIPT = Path(__file__).parents[2] / "scripts" / "02_train" / "train.py"


def broken_off(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Start a training as run 7 that breaks off with an error; gives what was said of it."""

    def train(config: Any, *, started: Any, **options: Any) -> None:
        started(RunFolders.of_run(config.directories.runs, 7), Beginning())
        raise error

    monkeypatch.setattr(experiment, "train", train)
    data = tmp_path / "training.json"
    data.write_text("{}")
    settings = [f"directories.runs={tmp_path}", f"training.data={data}", "validation.data=null"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "with", str(SCRIPT.parent / "config_training.yaml"), *settings])
    with pytest.raises(SystemExit) as stopped:
        command.main(SCRIPT)
    assert stopped.value.code
    return capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DiskFullError("No space."), OSError(28, "No space left")])
def test_the_command_that_goes_on_is_named(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "train.py --continue_run 7" in broken_off(error, tmp_path, monkeypatch, capsys)


def test_a_run_that_another_process_has_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error: IncasemError = taken_over(7, "the store")
    said = broken_off(error, tmp_path, monkeypatch, capsys)
    assert f"error: {error}" in said
    assert "--continue_run" not in said
