"""The living table of methods, on a small volume in the layout of gala's example data."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

SCRIPT = Path(__file__).parents[1] / "benchmarks/living.py"


@pytest.fixture
def data(tmp_path):
    """Twenty-seven cubes with clear boundaries."""
    labels = np.kron(np.arange(1, 28).reshape(3, 3, 3), np.ones((14, 14, 14), np.int64))
    same = ndimage.maximum_filter(labels, 3) == ndimage.minimum_filter(labels, 3)
    boundaries = ndimage.gaussian_filter(np.where(same, 0.05, 0.95), 0.5)
    folder = tmp_path / "data/gala"
    folder.mkdir(parents=True)
    for name, array in (("train-p1.h5", boundaries.astype(np.float32)), ("train-gt.h5", labels.astype(np.uint32))):
        with h5py.File(folder / name, "w") as file:
            file["stack"] = array
    return folder.parent


@pytest.mark.slow
def test_every_method_is_scored_with_its_versions(data, tmp_path):
    command = [sys.executable, SCRIPT, "--data", data, "--output", tmp_path / "made"]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    rows = json.loads((tmp_path / "made/living.json").read_text())["rows"]
    assert len(rows) == 5
    assert len({row["method"] for row in rows}) == 5
    for row in rows:
        assert row["voi"] < 0.5, row
        assert row["voi"] == pytest.approx(row["voi_split"] + row["voi_merge"], abs=2e-3)
        assert row["cpu_seconds"] >= 0
        assert row["versions"]
    lines = (tmp_path / "made/living.md").read_text().splitlines()
    assert len(lines) == 2 + len(rows)
    vois = [float(line.split(" = ")[1].split(" |")[0]) for line in lines[2:]]
    assert vois == sorted(vois)


def test_a_folder_without_volumes_is_refused(tmp_path):
    found = subprocess.run([sys.executable, SCRIPT, "--data", tmp_path], capture_output=True, text=True, timeout=120)
    assert found.returncode == 2
    assert "none of gala, plant is in" in found.stderr
