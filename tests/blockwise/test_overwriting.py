"""Outputs that are replaced while others write them, and the command that goes on with what --overwrite began."""

import fcntl
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from incasem_like.blockwise import BlockTask, WorkItem, create_or_resume_output, run_blockwise
from incasem_like.blockwise.done_log import LOG_NAME, DoneLog
from incasem_like.blockwise.job import list_jobs
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import InputError
from incasem_like.volumes import make_provenance

Smoothing = Callable[..., BlockTask]


def write_file(item: WorkItem, parameters: Mapping[str, Any]) -> None:
    (item.folder.parent / f"{item.number}.txt").touch()


@pytest.fixture(autouse=True)
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it look as if that command was typed."""
    monkeypatch.setattr(sys, "argv", ["smooth.py", "-f", "cell.zarr", "--overwrite", "-n", "2"])


def test_a_job_is_retried_without_it_and_so_keeps_the_blocks_that_are_done(smoothing: Smoothing, jobs: Path) -> None:
    run_blockwise(smoothing())
    assert list_jobs(jobs)[0].command == f"{sys.executable} smooth.py -f cell.zarr -n 2"


def test_items_that_replace_files_of_their_own_are_retried_with_it(jobs: Path, tmp_path: Path) -> None:
    LedgerTask("write files", ("a", "b"), (), write_file, place=tmp_path / "work").run()
    assert list_jobs(jobs)[0].command == f"{sys.executable} smooth.py -f cell.zarr --overwrite -n 2"


def test_who_reads_an_incomplete_dataset_is_told_to_finish_it_without() -> None:
    assert make_provenance("smooth", {})["command"] == "python smooth.py -f cell.zarr -n 2"


def test_what_another_process_writes_is_not_replaced(smoothing: Smoothing, tmp_path: Path) -> None:
    def replace() -> None:
        create_or_resume_output(
            str(tmp_path / "cell.zarr"),
            "smoothed",
            shape=(4, 4, 4),
            dtype="uint8",
            voxel_size=(1, 1, 1),
            overwrite=True,
        )

    task = smoothing()
    with (
        DoneLog(task.folder, task.fingerprint()),
        pytest.raises(InputError, match="Another process is writing"),
    ):
        replace()
    assert run_blockwise(smoothing()), "it is as it was"
    replace()


def test_a_log_that_was_replaced_while_it_was_opened_is_not_written(
    smoothing: Smoothing, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = smoothing()
    flock = fcntl.flock

    def too_late(log: int, operation: int) -> None:
        (Path(str(task.output.address)) / LOG_NAME).unlink()  # as another process does between opening and locking
        flock(log, operation)

    monkeypatch.setattr(fcntl, "flock", too_late)
    with pytest.raises(InputError, match="Another process has just replaced"):
        DoneLog(task.folder, task.fingerprint())
