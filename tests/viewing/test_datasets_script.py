"""The script with the flags of incasem's command ``neuroglancer``."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from incasem_like.volumes import create_volume

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "05_visualization" / "view_datasets.py"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, words), "--no-browser"]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give --file, or --graphs"),
        (["-f", "a.zarr", "-d", "raw", "-d", "labels"], "--datasets is given 2 times, but --file 1 times"),
    ],
)
def test_flags_that_do_not_fit_are_explained(words: list[str], sentence: str) -> None:
    done = run(*words)
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    raw = create_volume(tmp_path / "a.zarr", "raw", shape=(2, 4, 4), dtype="uint8", voxel_size=(1, 1, 1))
    raw.write(np.ones((2, 4, 4), np.uint8))
    done = run("-f", tmp_path / "a.zarr", "-d", "raw", "labels")
    assert (done.returncode, "labels" in done.stderr) == (2, True), done.stderr
