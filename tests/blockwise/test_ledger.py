"""Work on blocks that leaves arrays instead of voxels: kept, resumed, told apart, forgotten."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from incasem_like.blockwise.job import list_jobs
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import IncasemError, InputError
from incasem_like.volumes import Roi, Volume, create_volume
from incasem_like.volumes.parts import grown_block

COUNTING = '''

def count_values(block, parameters):
    """Count the values of a block; fail where the file beside this one says so."""
    note(block, parameters)
    return np.bincount(block.inputs[0].read(block.write_roi).ravel(), minlength=parameters["bins"])


def leave_nothing(block, parameters):
    """Do something else than counting."""
'''

Counting = Callable[..., LedgerTask]


@pytest.fixture
def counting(functions: ModuleType, raw: Volume, tmp_path: Path) -> Counting:
    exec(COUNTING, functions.__dict__)
    with Path(str(functions.__file__)).open("a") as file:  # for worker processes
        file.write(COUNTING)

    def make(**changes: Any) -> LedgerTask:
        settings: dict[str, Any] = {
            "name": "count values", "items": raw, "inputs": (str(raw.address),),
            "function": functions.__dict__["count_values"], "parameters": {"bins": 256}, "block_shape": (8, 8, 8),
        }  # fmt: skip
        return LedgerTask(**{**settings, **changes})

    return make


@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_blocks_return_adds_up_to_the_whole(counting: Counting, raw: Volume, num_workers: int) -> None:
    task = counting()
    summary = task.run(num_workers=num_workers)
    assert (summary.done, summary.total) == (27, 27)
    assert np.array_equal(sum(task.results()), np.bincount(raw.read().ravel(), minlength=256))
    (job,) = list_jobs()
    assert (job.name, job.state, job.done) == ("count values", "finished", 27)
    assert job.output.name.startswith("count_values_cell_raw-")


def test_blocks_of_a_region_are_those_of_the_whole_clipped(counting: Counting, raw: Volume) -> None:
    roi = Roi((4, 7, 16), (12, 9, 11))  # raw begins at 3, 5, 7
    task = counting(roi=roi)
    assert task.run().total == 2 * 2 * 2
    assert np.array_equal(sum(task.results()), np.bincount(raw.read(roi).ravel(), minlength=256))


def test_the_same_task_goes_on_and_what_was_counted_stays(
    counting: Counting, raw: Volume, accident: Callable[[str], None]
) -> None:
    accident("error:5")
    with pytest.raises(IncasemError, match=r"1 of 27 blocks failed, the first one at .* the voxels are out of sorts"):
        counting().run()
    accident("")
    summary = counting().run()
    assert (summary.done, summary.skipped) == (1, 26)
    assert np.array_equal(sum(counting().results()), np.bincount(raw.read().ravel(), minlength=256))


def test_another_task_has_a_ledger_of_its_own(counting: Counting, raw: Volume, functions: ModuleType) -> None:
    folders = {
        task.folder
        for task in (
            counting(), counting(parameters={"bins": 300}), counting(roi=Roi(raw.roi.begin, (8, 8, 8))),
            counting(name="count again"), counting(function=functions.__dict__["leave_nothing"]),
        )
    }  # fmt: skip
    assert len(folders) == 5
    before = counting().folder
    raw.write(np.zeros(raw.shape, np.uint8))
    assert counting().folder != before


def test_a_place_that_was_begun_otherwise_is_refused_or_begun_again(counting: Counting, tmp_path: Path) -> None:
    place = tmp_path / "work"
    counting(place=place).run()
    with pytest.raises(InputError, match=r"begun with parameters bins 256, but now it is 300.*--overwrite"):
        counting(place=place, parameters={"bins": 300}).run()
    task = counting(place=place, parameters={"bins": 300})
    assert task.run(overwrite=True).done == 27
    assert {counts.size for counts in task.results()} == {300}


def test_a_result_that_is_gone_is_no_zero(counting: Counting) -> None:
    task = counting()
    task.run()
    (task.folder / ".results/7.npy").unlink()
    with pytest.raises(IncasemError, match=r"7\.npy is missing or damaged"):
        sum(task.results())


def test_forgetting_leaves_nothing_and_old_ledgers_go(counting: Counting) -> None:
    old, task = counting(name="old"), counting()
    old.run()
    month_ago = time.time() - 31 * 24 * 3600
    os.utime(old.folder / ".blocks.jsonl", (month_ago, month_ago))
    task.run()
    assert not old.folder.exists()
    task.forget()
    assert not task.folder.exists()


def test_where_no_records_can_be_kept_a_temporary_place_does(
    counting: Counting, raw: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("INCASEM_JOBS", str(tmp_path / "file/jobs"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    task = counting()
    task.run()
    assert task.folder.is_relative_to(tmp_path / "temporary")
    assert sum(task.results()).sum() == raw.read().size


def test_blocks_grow_to_whole_chunks_and_to_no_more_than_a_number(tmp_path: Path) -> None:
    volume = create_volume(
        tmp_path / "v.zarr", shape=(4000, 4000, 4000), dtype="uint8", voxel_size=(1, 1, 1), chunk_shape=(16, 64, 64)
    )
    assert grown_block(volume, volume.roi, 2**18) == (256, 256, 256)
    assert grown_block(volume, Roi((0, 0, 0), (100, 100, 100)), 2**18) == (64, 64, 64)
