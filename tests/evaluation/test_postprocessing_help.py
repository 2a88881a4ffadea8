"""The scripts of stage 04 answer ``-h`` from any folder, without loading what is heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts/04_postprocessing").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_shows_defaults_and_loads_nothing_heavy(script, tmp_path):
    command = [sys.executable, "-X", "importtime", str(script), "-h"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"numpy", "torch", "tensorstore", "gunpowder", "pydantic", "sacred"}
    assert "default:" in done.stdout
