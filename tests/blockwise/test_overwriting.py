"""The command that goes on with work that a command with --overwrite began."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from incasem_like.blockwise import BlockTask, run_blockwise
from incasem_like.blockwise.job import list_jobs
from incasem_like.volumes import make_provenance

Smoothing = Callable[..., BlockTask]


@pytest.fixture(autouse=True)
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let it look as if that command was typed."""
    monkeypatch.setattr(sys, "argv", ["smooth.py", "-f", "cell.zarr", "--overwrite", "-n", "2"])


def test_a_job_is_retried_without_it_and_so_keeps_the_blocks_that_are_done(smoothing: Smoothing, jobs: Path) -> None:
    run_blockwise(smoothing())
    assert list_jobs(jobs)[0].command == f"{sys.executable} smooth.py -f cell.zarr -n 2"


def test_pieces_that_replace_files_of_their_own_are_retried_with_it(smoothing: Smoothing, jobs: Path) -> None:
    task = smoothing()
    run_blockwise(smoothing(names=tuple(f"piece {number}" for number in range(len(task.grid)))))
    assert list_jobs(jobs)[0].command == f"{sys.executable} smooth.py -f cell.zarr --overwrite -n 2"


def test_who_reads_an_incomplete_dataset_is_told_to_finish_it_without() -> None:
    assert make_provenance("smooth", {})["command"] == "python smooth.py -f cell.zarr -n 2"
