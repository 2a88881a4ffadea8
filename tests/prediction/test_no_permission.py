"""Predictions whose output folder cannot be written: said before a run is started."""

import os
import shutil
import subprocess

import pytest

from incasem_like.errors import InputError


@pytest.fixture
def locked(tmp_path):
    """A folder that nobody may write into, root neither."""
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("needs a user who is not root, or one who may mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=False)


def test_a_prediction_starts_no_run(laboratory, locked):
    config = laboratory.config(None, f"prediction.directories.prefix={locked}")
    with pytest.raises(InputError, match=rf"Nothing can be written into {locked}: change its permissions"):
        laboratory.predict(config)
    assert not laboratory.store.ids()


def test_a_series_starts_no_run(laboratory, series, locked):
    with pytest.raises(InputError, match=rf"Nothing can be written into {locked}: change its permissions"):
        series.predict(f"prediction.directories.prefix={locked}")
    assert not laboratory.store.ids()
