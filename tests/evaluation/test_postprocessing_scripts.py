"""The scripts of stage 04: ``-h`` loads nothing heavy, and a place that cannot be written is one sentence."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts/04_postprocessing").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_shows_defaults_and_loads_nothing_heavy(script, tmp_path):
    command = [sys.executable, "-X", "importtime", str(script), "-h"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"numpy", "torch", "tensorstore", "gunpowder", "pydantic", "sacred"}
    assert "default:" in done.stdout


def without_rights_to_write_everywhere():
    """Root may write to read-only folders; this takes that right from a command."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, or a user who is not root")
    return ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("00_", ["--prediction_filename", "cell.zarr", "-d", "probs", "-o", "new/seg", "-t", "0.5", "-u"]),
        ("05_", ["-l", "cell.zarr/labels", "-p", "cell.zarr/probs", "--runs_directory", "cell.zarr/runs"]),
        ("20_", ["-f", "cell.zarr", "-d", "probs", "-o", "cell.zarr/out"]),
    ],
)
def test_a_place_that_cannot_be_written_is_one_sentence_and_exit_2(script, flags, make_volume, tmp_path):
    make_volume("probs", np.zeros((4, 4, 4), dtype=np.float32))
    make_volume("labels", np.zeros((4, 4, 4), dtype=np.uint8))
    path = next(path for path in SCRIPTS if path.name.startswith(script))
    command = [*without_rights_to_write_everywhere(), sys.executable, str(path), *flags]
    (tmp_path / "cell.zarr").chmod(0o555)
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    finally:
        (tmp_path / "cell.zarr").chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: Not permitted")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("12_", ["filter", "-s", "a.zarr/seg", "--block_shape", "0", "8", "8"]),
        ("18_", ["-p", "a.zarr/affs", "-s", "a.zarr/seg", "--block_shape", "8", "-8", "8"]),
        ("25_", ["-s", "a.zarr/seg", "-o", "out", "--block_shape", "8", "8", "0"]),
        ("30_", ["-s", "a.zarr/seg", "-o", "out", "--ids", "0"]),
        ("35_", ["-s", "a.zarr/seg", "-o", "out", "--min_size", "-1"]),
    ],
)
def test_a_size_or_an_id_below_the_lowest_is_one_sentence_and_exit_2(script, flags, tmp_path):
    path = next(path for path in SCRIPTS if path.name.startswith(script))
    done = subprocess.run([sys.executable, path, *flags], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "is not a whole number of at least" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
