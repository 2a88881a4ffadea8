"""What is said of workers that cannot start."""

from pathlib import Path

import pytest

from incasem_like.blockwise.launchers.base import CommandLauncher, WorkerGroup
from incasem_like.blockwise.workers_file import usable_workers
from incasem_like.errors import InputError


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{count: 1000}", r"1000 workers are to run on this machine, but it has \d+ cores: reduce count"),
        ("{python: /no/such/python}", r"the workers file is /no/such/python, but this program does not exist"),
        (
            "{launcher: command, command: 'srunn -p gpu {command}'}",
            r"command in the workers file begins with srunn, but this program does not exist here: correct it",
        ),
        (
            "{launcher: command, command: '/no/such/ssh node7 {command}'}",
            r"command in the workers file begins with /no/such/ssh, but this program does not exist here",
        ),
        (
            "{launcher: command, command: '{command}', scheduler: {listen: 203.0.113.9}}",
            r"on 203\.0\.113\.9 port 0 \(Cannot assign requested address\): set scheduler\.listen",
        ),
    ],
)
def test_what_is_in_their_way_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "workers.yaml").write_text(text)
    with pytest.raises(InputError, match=sentence):
        usable_workers(tmp_path / "workers.yaml")


@pytest.mark.parametrize(
    "command", ["{command}", "exec {command}", "A=1 nice {command}", "'nice' {command}", "$RUN {command}"]
)
def test_commands_that_a_shell_understands_are_not_in_their_way(tmp_path: Path, command: str) -> None:
    (tmp_path / "workers.yaml").write_text(f'{{launcher: command, command: "{command}"}}')
    assert usable_workers(tmp_path / "workers.yaml") is not None


def test_workers_elsewhere_need_a_folder_of_jobs_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("INCASEM_JOBS", str(tmp_path / "file" / "jobs"))
    (tmp_path / "workers.yaml").write_text("{launcher: command, command: '{command}'}")
    with pytest.raises(
        InputError, match=r"by a file in .*/file/jobs, but nothing can be written there: set INCASEM_JOBS"
    ):
        usable_workers(tmp_path / "workers.yaml")
    (tmp_path / "workers.yaml").write_text("{launcher: local}")
    assert usable_workers(tmp_path / "workers.yaml") is not None


def test_last_words_that_each_attempt_repeats_are_said_once(tmp_path: Path) -> None:
    group = WorkerGroup(launcher="command", command="echo the partition is closed; echo ask the office; : {command}")
    launcher = CommandLauncher(group, tmp_path)
    for _ in range(3):
        started = launcher.start("command-1", 0)
        started.process.wait(20)
    assert started.last_words() == "the partition is closed / ask the office"
