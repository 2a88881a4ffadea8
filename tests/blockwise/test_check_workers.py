"""What is said of workers that cannot start."""

from pathlib import Path

import pytest

from incasem_like.blockwise.fleet import Slot
from incasem_like.blockwise.launchers import WorkerGroup
from incasem_like.blockwise.workers_file import check_workers, load_workers
from incasem_like.errors import InputError


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{count: 1000}", r"1000 workers are to run on this machine, but it has \d+ cores: reduce count"),
        (
            "{launcher: command, command: '{command}', scheduler: {listen: 203.0.113.9}}",
            r"on 203\.0\.113\.9 port 0 \(Cannot assign requested address\): set scheduler\.listen",
        ),
    ],
)
def test_what_is_in_their_way_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "workers.yaml").write_text(text)
    with pytest.raises(InputError, match=sentence):
        check_workers(load_workers(tmp_path / "workers.yaml"))


def test_workers_elsewhere_need_a_folder_of_jobs_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("INCASEM_JOBS", str(tmp_path / "file" / "jobs"))
    (tmp_path / "workers.yaml").write_text("{launcher: command, command: '{command}'}")
    with pytest.raises(InputError, match=r"/file is a file, but a folder is needed there .*: set INCASEM_JOBS"):
        check_workers(load_workers(tmp_path / "workers.yaml"))
    (tmp_path / "workers.yaml").write_text("{launcher: local}")
    check_workers(load_workers(tmp_path / "workers.yaml"))


def test_last_words_that_each_attempt_repeats_are_said_once(tmp_path: Path) -> None:
    group = WorkerGroup(launcher="command", command="echo the partition is closed; echo ask the office; : {command}")
    slot = Slot(group, 0, "command-1", tmp_path)
    for _ in range(3):
        slot.start()
        assert slot.process is not None
        slot.process.wait(20)
    assert slot.last_words() == "the partition is closed / ask the office"
