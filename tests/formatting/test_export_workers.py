"""20_convert_zarr_to_image_sequence.py on workers: killed, on a full disk, with values that do not fit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from disks import tmpfs
from killing import run_killed

from incasem_like.errors import DiskFullError, InputError
from incasem_like.formatting.image_export import SectionExport
from incasem_like.volumes import create_volume, open_volume

SCRIPT = Path(__file__).parents[2] / "scripts/04_postprocessing/20_convert_zarr_to_image_sequence.py"
SHAPE = (240, 30, 40)


@pytest.fixture
def labels(tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_JOBS", str(tmp_path / "jobs"))
    (tmp_path / "w.yaml").write_text("count: 2")
    volume = create_volume(
        tmp_path / "cell.zarr/labels", shape=SHAPE, dtype="uint32", voxel_size=(8, 4.6, 4), chunk_shape=(2, 30, 40)
    )
    volume.write(np.random.default_rng(0).integers(0, 2**32, SHAPE, dtype=np.uint32))
    volume.mark_complete()
    return open_volume(volume.address)


def command(out, *flags):
    given = ["-f", "cell.zarr", "-d", "labels", "-o", str(out), "--workers", "w.yaml"]
    return [sys.executable, str(SCRIPT), *given, *flags]


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".tif"}


@pytest.mark.slow
def test_kills_of_workers_and_scheduler_do_not_show_in_the_files(labels, tmp_path):
    done = run_killed(command("killed"), ["worker", "scheduler", "both"], tmp_path / "killed", tmp_path, progress=9)
    assert done.returncode == 0, done.stderr
    SectionExport(labels, tmp_path / "undisturbed").run()
    killed = files(tmp_path / "killed/labels")
    assert killed == files(tmp_path / "undisturbed")
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["labels"]
    found = np.stack([tifffile.imread(tmp_path / f"killed/labels/{name}") for name in sorted(killed)])
    assert np.array_equal(found, labels.read())
    assert sorted(path.name for path in (tmp_path / "killed/labels").iterdir() if path.suffix != ".tif") == [
        "provenance.json"
    ]


def test_a_slab_with_a_value_that_does_not_fit_is_named_and_leaves_nothing(labels, tmp_path):
    small = np.zeros(SHAPE, np.uint32)
    small[101] = 256
    labels = open_volume(labels.address, writable=True)
    labels.write(small)
    done = run_killed(command("out", "--dtype", "uint8"), [], tmp_path, tmp_path)
    assert done.returncode == 2
    assert "labels holds 256 at z 101, y 0, x 0, which uint8 cannot hold" in done.stderr
    assert not list((tmp_path / "out").iterdir())


def test_an_export_begun_otherwise_is_refused_until_it_may_be_begun_again(labels, tmp_path, monkeypatch):
    export = SectionExport(labels, tmp_path / "sections")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("incasem_like.formatting.image_export.write_slab", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export.run()
    another = SectionExport(labels, tmp_path / "sections", dtype="uint32", absolute=True)
    with pytest.raises(InputError, match=r"begun with parameters dtype null, but now it is .uint32.*--overwrite"):
        another.run()
    SectionExport(labels, tmp_path / "sections", dtype="uint32", absolute=True, overwrite=True).run()
    assert len(files(tmp_path / "sections")) == 240


@pytest.fixture
def small_disk(tmp_path):
    with tmpfs(tmp_path / "disk", "size=800k") as place:
        yield place


def test_a_full_disk_leaves_no_half_section_and_is_gone_on_with(labels, small_disk, tmp_path):
    export = SectionExport(labels, small_disk / "sections")  # 240 sections of 4.8 kB and more
    with pytest.raises(DiskFullError, match="free some"):
        export.run()
    assert not (small_disk / "sections").exists()
    begun = files(small_disk / ".sections.partial")
    assert 0 < len(begun) < 240
    for name in begun:
        index = int(name[8:12])
        assert np.array_equal(tifffile.imread(small_disk / f".sections.partial/{name}"), labels.read()[index])
    kept = {name: os.stat(small_disk / f".sections.partial/{name}").st_ino for name in sorted(begun)[:10]}
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    export.run()
    assert len(files(small_disk / "sections")) == 240
    assert kept == {name: os.stat(small_disk / f"sections/{name}").st_ino for name in kept}
