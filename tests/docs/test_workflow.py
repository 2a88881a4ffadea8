"""The workflow that README lists runs as it stands there, on a small volume with a small network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from docs.pages import REPOSITORY
from scipy import ndimage

# The reader's GPU and hours, replaced.
SMALL = {
    "torch.device=0": "torch.device=cpu",
    "config_training.yaml": "config_training.yaml config_demo.yaml data.voxel_size=[5,5,5] model.num_fmaps=4 "
    "training.iterations=4 training.save_every=4 validation.validate_every=4 training.precache.num_workers=0",
    "config_prediction.yaml": "config_prediction.yaml torch.device=cpu",
}


@pytest.mark.slow
def test_the_workflow_of_readme_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = ndimage.gaussian_filter(rng.standard_normal((48, 176, 176)), 4) > 0.02
    raw = np.clip(90 + 70 * labels + rng.normal(0, 10, labels.shape), 0, 255).astype(np.uint8)
    for name, volume in (("my_sections", raw), ("my_mito_annotations", labels.astype(np.uint8))):
        (tmp_path / name).mkdir()
        for z, section in enumerate(volume):
            tifffile.imwrite(tmp_path / name / f"section_{z}.tif", section)
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    chapter = re.search(r"## The workflow, step by step\n.*?```bash\n(.*?)```", text, re.DOTALL)
    assert chapter is not None
    commands = "\n".join(line for line in chapter[1].splitlines() if not line.startswith("tensorboard"))
    for typed, small in SMALL.items():
        assert typed in commands
        commands = commands.replace(typed, small)
    environment = os.environ | {
        "HOME": str(tmp_path),
        "INCASEM_DATA": str(tmp_path / "data"),
        "INCASEM_RUNS": str(tmp_path / "training_runs"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    run = ["bash", "-exc", commands]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    sections = sorted((tmp_path / "my_mito_sections" / "volumes" / "segmentation" / "mito").glob("*.tif"))
    assert sections
    assert set(np.unique(tifffile.imread(sections[0]))) <= {0, 1}
