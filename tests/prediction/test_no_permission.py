"""Predictions whose output folder cannot be written: said before a run is started."""

import os

import pytest
from disks import tmpfs

from incasem_like.errors import InputError


@pytest.fixture
def locked(tmp_path):
    """A folder that nobody may write into, root neither."""
    folder = tmp_path / "locked"
    if os.geteuid() == 0:
        with tmpfs(folder, "ro"):
            yield folder
        return
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def test_a_prediction_starts_no_run(laboratory, locked):
    config = laboratory.config(None, f"prediction.directories.prefix={locked}")
    with pytest.raises(InputError, match=rf"Not permitted to write into {locked}: change its permissions"):
        laboratory.predict(config)
    assert not laboratory.store.ids()


def test_a_series_starts_no_run(laboratory, series, locked):
    with pytest.raises(InputError, match=rf"Not permitted to write into {locked}: change its permissions"):
        series.predict(f"prediction.directories.prefix={locked}")
    assert not laboratory.store.ids()
