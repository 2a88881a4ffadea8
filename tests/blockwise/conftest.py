"""Functions over blocks that worker processes can import, and volumes for them to work on."""

import importlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from incasem_like.blockwise import BlockTask, create_or_resume_output
from incasem_like.volumes import Volume, create_volume

# A module of its own on the path: what a test module defines cannot be imported by a worker process.
FUNCTIONS = '''
"""Functions over blocks for the tests."""

import errno
import os
import signal
import time
from pathlib import Path

import numpy as np

from incasem_like.errors import CheckpointError, DataError


def smooth(block, parameters):
    """Add up the 27 neighbours of each voxel, mirrored at the edge."""
    note(block, parameters)
    raw = block.inputs[0].read(block.read_roi, outside="reflect").astype(np.uint16)
    windows = np.lib.stride_tricks.sliding_window_view(raw, (3, 3, 3))
    block.output.write(windows.sum((3, 4, 5), dtype=np.uint16), block.write_roi)


def note(block, parameters):
    """Misbehave at the block and in the way that the file beside this one says; note that it came to that."""
    plan = Path(__file__).with_name("accident")
    way, _, number = plan.read_text().partition(":") if plan.exists() else ("", "", "")
    time.sleep({"slow": 0.25, "unhurried": 0.1, "too slow": 5}.get(way, 0))  # the second where there are many blocks
    if number and block.number == int(number):
        plan.with_name("happened").touch()
        accident(way)


def accident(way):
    """Do what was planned."""
    if way == "error":
        raise ValueError("the voxels are out of sorts")
    if way == "data":
        raise DataError("The raw data are not what they should be: mend them.")
    if way == "model":
        raise CheckpointError("The network gives no numbers: choose another.")
    if way == "stop":
        raise KeyboardInterrupt
    if way == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "chunk")
    if way == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "kill_all":
        os.killpg(0, signal.SIGKILL)
    if way == "wait":
        time.sleep(300)
    if way == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)


def thaw(block, parameters):
    """Smooth, but freeze at block 3 where nobody has frozen before."""
    once = Path(__file__).with_name("frozen")
    if block.number == 3 and not once.exists():
        once.touch()
        accident("freeze")
    smooth(block, parameters)


def die_once(block, parameters):
    """Smooth, but die at blocks 3 and 8 where nobody has died before."""
    once = Path(__file__).with_name(f"died-{block.number}")
    if block.number in (3, 8) and not once.exists():
        once.touch()
        accident("kill")
    smooth(block, parameters)


def fail_once(block, parameters):
    """Smooth, but fail at block 3 at the first try."""
    once = Path(__file__).with_name("failed")
    if block.number == 3 and not once.exists():
        once.touch()
        accident("error")
    smooth(block, parameters)


def lay_table(parameters):
    """Set up a worker: note each time that it is done, return who did it."""
    with Path(__file__).with_name("laid").open("a") as file:
        file.write(f"{os.getpid()} ")
    if parameters.get("broken") == "input":
        raise DataError("The checkpoint is not there: name another.")
    if parameters.get("broken"):
        raise RuntimeError("the table has three legs")
    return {"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS"), "gpu": os.environ.get("LOCAL_GPU")}


def serve(block, parameters):
    """Write who prepared this worker, and how many threads it may start, into the block."""
    assert block.prepared["pid"] == os.getpid()
    block.output.write(np.full(block.write_roi.shape, int(block.prepared["threads"]), np.uint16), block.write_roi)


def happen(what, block):
    """Note that something happened to a block, in the order of things."""
    with Path(__file__).with_name("events").open("a") as file:
        file.write(f"{what}:{block.number} ")


def read_raw(block, parameters):
    """Read ahead."""
    happen("read", block)
    if block.number == parameters.get("unreadable"):
        raise DataError("The chunk is torn: mend it.")
    return block.inputs[0].read(block.read_roi, outside="reflect").astype(np.uint16)


def add_up(block, parameters):
    """Add up the 27 neighbours of what was read."""
    time.sleep(0.05)
    windows = np.lib.stride_tricks.sliding_window_view(block.data, (3, 3, 3))
    return windows.sum((3, 4, 5), dtype=np.uint16)


def add_up_or_not(block, parameters):
    """Add up, or misbehave."""
    note(block, {})
    return add_up(block, parameters)


def put(block, result):
    """Write behind, without an accident."""
    block.output.write(result, block.write_roi)


def write_sum(block, result):
    """Write behind."""
    time.sleep(0.02)
    note(block, {})
    block.output.write(result, block.write_roi)
    happen("written", block)


def both(block, parameters):
    """Smooth into the first output, and write what the block was made of into the second."""
    smooth(block, parameters)
    block.outputs[1].write(block.inputs[0].read(block.write_roi), block.write_roi)
'''

SCRIPT = '''
"""Smooth a volume in blocks, as a script of a person would."""

import sys
from pathlib import Path

from block_functions import smooth

from incasem_like.blockwise import BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.workers_file import load_workers
from incasem_like.terminal import run_guarded
from incasem_like.volumes import open_volume


def main():
    raw = open_volume(sys.argv[1])
    output = create_or_resume_output(
        sys.argv[2], shape=raw.shape, dtype="uint16", voxel_size=raw.voxel_size, offset=raw.offset,
        chunk_shape=(8, 8, 8), overwrite="--overwrite" in sys.argv,
    )
    task = BlockTask("smooth", output, (sys.argv[1],), smooth, {}, (8, 8, 8), (1, 1, 1))
    if sys.argv[3].isdigit():
        summary = run_blockwise(task, num_workers=int(sys.argv[3]))
    else:
        summary = run_blockwise(task, workers=load_workers(Path(sys.argv[3])))
    print(f"done {summary.done} skipped {summary.skipped} already {summary.already_complete}")


if __name__ == "__main__":
    run_guarded(main)
'''


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module of functions, importable in worker processes too."""
    (tmp_path / "block_functions.py").write_text(textwrap.dedent(FUNCTIONS))
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("block_functions", None)
    return importlib.import_module("block_functions")


@pytest.fixture
def accident(tmp_path: Path) -> Callable[[str], None]:
    """Return a function that plans an accident, such as ``"error:4"`` at block 4, or none (``""``)."""

    def plan(text: str) -> None:
        (tmp_path / "accident").write_text(text)

    return plan


@pytest.fixture(autouse=True)
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the records of jobs in a folder of the test's own and return it."""
    monkeypatch.setenv("INCASEM_JOBS", str(tmp_path / "jobs"))
    return tmp_path / "jobs"


@pytest.fixture
def raw(tmp_path: Path) -> Volume:
    """Return a complete random volume of 20 x 18 x 22 voxels of 4.6 nm, 3, 5 and 7 voxels off the origin."""
    volume = create_volume(
        tmp_path / "cell.zarr/raw",
        shape=(20, 18, 22),
        dtype="uint8",
        voxel_size=(4.6, 4, 4),
        offset=(13.8, 20, 28),
        chunk_shape=(8, 8, 8),
    )
    volume.write(np.random.default_rng(0).integers(0, 255, volume.shape, dtype=np.uint8))
    volume.mark_complete()
    return volume


@pytest.fixture
def smoothing(functions: ModuleType, raw: Volume, tmp_path: Path) -> Callable[..., BlockTask]:
    """Return a function that makes the task of smoothing ``raw`` into an output of its own."""

    def make(name: str = "smoothed", **changes: Any) -> BlockTask:
        output = create_or_resume_output(
            str(tmp_path / "cell.zarr"), name, shape=raw.shape, dtype="uint16", voxel_size=raw.voxel_size,
            offset=raw.offset, chunk_shape=(8, 8, 8),
        )  # fmt: skip
        settings: dict[str, Any] = {
            "name": "smooth", "output": output, "inputs": (str(raw.address),), "function": functions.smooth,
            "block_shape": (8, 8, 8), "context": (1, 1, 1), **changes,
        }  # fmt: skip
        return BlockTask(**settings)

    return make


@pytest.fixture
def smoothed(raw: Volume) -> np.ndarray:
    """Return what smoothing must give, computed at once."""
    from scipy.ndimage import correlate

    result: np.ndarray = correlate(raw.read().astype(np.uint16), np.ones((3, 3, 3), np.uint16), mode="mirror")
    return result


@pytest.fixture
def script(functions: ModuleType, raw: Volume, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts the smoothing script in a process group of its own."""
    path = tmp_path / "smooth_script.py"
    path.write_text(SCRIPT)

    def start(output: str, workers: int | Path, *flags: str) -> subprocess.Popen[str]:
        words = [
            sys.executable,
            str(path),
            str(raw.address),
            str(tmp_path / "cell.zarr" / output),
            str(workers),
            *flags,
        ]
        return subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return start
