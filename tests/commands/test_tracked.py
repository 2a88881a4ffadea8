"""What both tracked commands do alike, seen through a command of the test's own."""

import argparse
import sys
from pathlib import Path

import pytest

from incasem_like.commands.tracked import Resumable, run_tracked, script_folder
from incasem_like.config import load_prediction_config
from incasem_like.errors import InputError, RunTakenError


def run(monkeypatch, *argv, work=lambda config, line: None) -> int:
    monkeypatch.setattr(sys, "argv", ["command.py", *argv])
    with pytest.raises(SystemExit) as stopped:
        run_tracked(
            argparse.ArgumentParser(),
            "with CONFIG.yaml",
            lambda line: load_prediction_config(line.files, line.updates, Path("nowhere")),
            work,
        )
    return stopped.value.code


def test_the_work_gets_the_validated_configuration_and_the_line(monkeypatch):
    seen = []
    status = run(
        monkeypatch,
        *("--name", "x", "with", "torch.device=cpu"),
        work=lambda config, line: seen.append((config.torch.device, line.name)),
    )
    assert status == 0
    assert seen == [("cpu", "x")]


def test_print_config_prints_and_does_not_work(monkeypatch, capsys):
    assert (
        run(monkeypatch, "print_config", "with", "torch.device=cpu", work=lambda config, line: pytest.fail("it worked"))
        == 0
    )
    assert "device: cpu" in capsys.readouterr().out


def test_an_unknown_key_is_one_sentence_and_status_2(monkeypatch, capsys):
    assert run(monkeypatch, "with", "torch.devise=cpu", work=lambda config, line: pytest.fail("it worked")) == 2
    shown = capsys.readouterr().err
    assert "torch.device" in shown
    assert "Traceback" not in shown


def test_debug_lets_the_traceback_through(monkeypatch):
    def work(config, line):
        raise InputError("wrong")

    assert run(monkeypatch, "with", "torch.device=cpu", work=work) == 2
    monkeypatch.setattr(sys, "argv", ["command.py", "--debug", "with", "torch.device=cpu"])
    with pytest.raises(InputError, match="wrong"):
        run_tracked(argparse.ArgumentParser(), "", lambda line: load_prediction_config((), (), Path("x")), work)


def test_files_are_looked_for_beside_the_script(tmp_path):
    link = tmp_path / "train.py"
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "train.py").touch()
    link.symlink_to(tmp_path / "real" / "train.py")
    assert script_folder(link) == tmp_path / "real"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "Resume with: again\n"),
        (OSError("the disk is full"), "Resume with: again\n"),
        (InputError("a key is wrong"), ""),
        (RunTakenError("another process has it"), ""),
    ],
)
def test_the_command_that_resumes_is_printed_unless_the_error_would_occur_again(capsys, error, said):
    def begin_and_fail():
        with Resumable() as work:
            work.command = "again"
            raise error

    with pytest.raises(type(error)):
        begin_and_fail()
    assert capsys.readouterr().err == said


def test_work_that_did_not_begin_or_ended_well_has_nothing_to_resume(capsys):
    with pytest.raises(OSError, match="early"), Resumable():
        raise OSError("early")
    with Resumable() as work:
        work.command = "again"
    assert capsys.readouterr().err == ""
