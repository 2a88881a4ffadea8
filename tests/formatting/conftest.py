"""Folders of sections, containers, and the scripts of stage 01 run as a person would."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from incasem_like.volumes import create_volume, nanometres

SCRIPTS = Path(__file__).parents[2] / "scripts" / "01_data_formatting"


@pytest.fixture
def write_sections(tmp_path):
    """Write an array as numbered TIFF sections into a folder below ``tmp_path`` and return the folder."""

    def write(stack, name="sections", pattern="section_{}.tif", first=0, **options):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for number, section in enumerate(stack):
            tifffile.imwrite(folder / pattern.format(first + number), section, **options)
        return folder

    return write


@pytest.fixture
def grey():
    """Smooth grey values, 20 x 30 x 26, uint8."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.normal(0, 6, (20, 30, 26)), axis=2)
    return np.clip(120 + smooth + rng.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def run_stage(tmp_path):
    """Run a script of stage 01 in another folder and return the finished process."""

    def run(script, *arguments):
        return subprocess.run(
            [sys.executable, str(SCRIPTS / script), *(str(argument) for argument in arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    return run


@pytest.fixture
def volume_of(tmp_path):
    """Return a function that writes an array as a complete volume and returns its container and dataset."""

    def write(array, name="cell.zarr/volumes/raw", voxel_size=(4, 4, 4), begin=(0, 0, 0), **options):
        volume = create_volume(
            tmp_path / name,
            shape=array.shape,
            dtype=array.dtype,
            voxel_size=voxel_size,
            offset=nanometres(begin, voxel_size or (1, 1, 1)),
            axes="zyx" if array.ndim == 3 else "czyx",
            **{"chunk_shape": (8, 8, 8), **options},
        )
        volume.write(array)
        volume.mark_complete()
        return volume.container, volume.dataset

    return write
