"""Scripts that write a dataset block by block, killed with -9 in the middle: the bytes of an undisturbed run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from killing import run_killed

from incasem_like.volumes import create_volume, open_volume

SCRIPTS = Path(__file__).parents[2] / "scripts"
CHUNKS = ("-c", "8", "8", "8")
FEWER = ("-c", "16", "16", "16")  # for work in several stages
# Of each kind one: sections, blocks with a table before them, blocks in several stages, blocks alone.
STAGES = {
    "import": ("01_data_formatting/00_image_sequences_to_zarr.py", "-i", "sections", "--chunks", "2", "64", "64"),
    "equalise": ("01_data_formatting/40_equalize_histogram.py", "-d", "raw", "--kernel_size", "16", *CHUNKS),
    "parts": ("01_data_formatting/10_derive_volume.py", "components", "-d", "labels", "--object_size", "9", *FEWER),
    "threshold": (
        "04_postprocessing/00_extract_segmentation_with_threshold.py",
        "-d",
        "probs",
        "-t",
        "0.5",
        "-u",
        *CHUNKS,
    ),
}


@pytest.fixture
def cell(tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_JOBS", str(tmp_path / "jobs"))
    (tmp_path / "w.yaml").write_text("count: 2")
    probabilities = np.random.default_rng(0).random((64, 64, 64)).astype(np.float32)
    arrays = {"probs": probabilities, "labels": (probabilities > 0.7).astype(np.uint32)}
    arrays["raw"] = (probabilities * 255).astype(np.uint8)
    for name, array in arrays.items():
        volume = create_volume(
            tmp_path / "cell.zarr",
            name,
            shape=array.shape,
            dtype=array.dtype,
            voxel_size=(4, 4, 4),
            chunk_shape=(32,) * 3,
        )
        volume.write(array)
        volume.mark_complete()
    (tmp_path / "sections").mkdir()
    for number, section in enumerate(arrays["raw"]):
        tifffile.imwrite(tmp_path / f"sections/s_{number:03d}.tif", section)
    return tmp_path / "cell.zarr"


def command(stage, output, *flags):
    script, *given = STAGES[stage]
    imported = ("-f", "-d")
    flags_of = {"import": imported, "threshold": ("--prediction_filename", "-o")}
    container = flags_of.get(stage, ("-f", "-o"))
    words = [sys.executable, str(SCRIPTS / script), *given, container[0], "cell.zarr", container[1], output, *flags]
    return words


def chunk_bytes(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_kills_of_workers_and_scheduler_do_not_show_in_the_chunks(stage, cell, tmp_path):
    kills = ["worker", "scheduler"] if stage == "import" else ["worker", "scheduler", "both"]
    killed = command(stage, "killed", "--workers", "w.yaml")
    done = run_killed(killed, kills, tmp_path, tmp_path, progress=5 if stage in ("import", "parts") else 15)
    assert done.returncode == 0, done.stderr
    subprocess.run(command(stage, "undisturbed", "-n", "1"), cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert open_volume(cell, "killed").complete
    chunks = chunk_bytes(cell / "killed")
    assert len(chunks) == {"import": 32, "parts": 64}.get(stage, 512)
    assert chunks == chunk_bytes(cell / "undisturbed")
