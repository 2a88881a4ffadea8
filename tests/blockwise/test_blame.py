"""Beside blocks that kill their worker, the others are done and none of them is blamed."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incasem_like.blockwise import BlockTask, create_or_resume_output, try_blockwise
from incasem_like.volumes import open_volume

FUNCTIONS = '''
import os
import signal
import time

import numpy as np


def fill_or_die(block, parameters):
    """Write ones; at some blocks kill the process instead."""
    time.sleep(parameters["seconds"])
    if block.number in parameters["killers"]:
        os.kill(os.getpid(), signal.SIGKILL)
    block.output.write(np.ones(block.write_roi.shape, np.uint8), block.write_roi)


def read_slowly(block, parameters):
    """Read ahead."""
    time.sleep(parameters["seconds"])


def compute_or_die(block, parameters):
    """Compute; at some blocks kill the process instead, while others are read and written."""
    time.sleep(parameters["seconds"])
    if block.number in parameters["killers"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.ones(block.write_roi.shape, np.uint8)


def write_slowly(block, result):
    """Write behind."""
    time.sleep(0.005)
    block.output.write(result, block.write_roi)
'''


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "killing_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("killing_functions", None)
    return importlib.import_module("killing_functions")


def task(tmp_path: Path, blocks: int, killers: list[int], **changes: Any) -> BlockTask:
    output = create_or_resume_output(
        str(tmp_path / "out.zarr"), "ones", shape=(blocks, 4, 4), dtype="uint8", voxel_size=(1, 1, 1),
        chunk_shape=(1, 4, 4),
    )  # fmt: skip
    parameters = {"killers": killers, "seconds": 0.005}
    return BlockTask("fill", output, (), parameters=parameters, block_shape=(1, 4, 4), **changes)


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize(
    ("blocks", "killers"),
    [(100, [7, 50]), pytest.param(1000, list(range(30, 1000, 50)), marks=pytest.mark.slow)],
)
def test_no_good_block_is_blamed(tmp_path: Path, functions: Any, blocks: int, killers: list[int], staged: bool) -> None:
    stages = {"read": functions.read_slowly, "write": functions.write_slowly, "function": functions.compute_or_die}
    filling = task(tmp_path, blocks, killers, **(stages if staged else {"function": functions.fill_or_die}))
    summary = try_blockwise(filling, num_workers=2)
    assert [block.number for block in summary.failed] == killers
    assert all("died by signal 9" in str(block.last.error) for block in summary.failed)
    assert summary.done == blocks - len(killers)
    written = open_volume(filling.output.address, allow_incomplete=True).read()
    assert np.array_equal(written.any((1, 2)), [number not in killers for number in range(blocks)])


def test_blocks_are_blamed_where_all_kill_their_worker_at_once(tmp_path: Path, functions: Any) -> None:
    """Such a worker dies before its first event is sent, but it did begin: its marks say so."""
    filling = task(tmp_path, 3, [0, 1, 2], function=functions.fill_or_die)
    filling.parameters["seconds"] = 0
    summary = try_blockwise(filling, num_workers=2)
    assert [block.number for block in summary.failed] == [0, 1, 2]
    assert all("died by signal 9" in str(block.last.error) for block in summary.failed)
