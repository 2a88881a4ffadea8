"""05_make_synthetic_data.py on workers: killed, with volumes that fail, with some removed meanwhile."""

import shutil
import sys
from pathlib import Path

import pytest
from killing import run_killed

from incasem_like.blockwise import list_jobs
from incasem_like.errors import InputError
from incasem_like.synthetic import OpticLobeParameters, family
from incasem_like.synthetic.family import make_volumes
from incasem_like.synthetic.writing import order_volumes

SCRIPT = Path(__file__).parents[2] / "scripts/01_data_formatting/05_make_synthetic_data.py"
SHAPE = (12, 24, 20)


@pytest.fixture(autouse=True)
def jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_JOBS", str(tmp_path / "jobs"))
    (tmp_path / "w.yaml").write_text("count: 2")


def command(output, *flags):
    given = ["-o", output, "--shape", *map(str, SHAPE), "--workers", "w.yaml", *map(str, flags)]
    return [sys.executable, str(SCRIPT), *given]


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.tif"))}


def orders(output, num_volumes, seed=0):
    return order_volumes(
        output, "tiff", SHAPE, voxel_size=(500.0, 500.0, 500.0), seed=seed, num_volumes=num_volumes,
        parameters=OpticLobeParameters.clear(),
    )  # fmt: skip


@pytest.mark.slow
def test_kills_of_workers_and_scheduler_do_not_show_in_the_volumes(tmp_path):
    made = command("killed/lobe", "--num_volumes", 24)
    done = run_killed(made, ["worker", "scheduler", "both"], tmp_path / "killed", tmp_path, progress=3)
    assert done.returncode == 0, done.stderr
    list(make_volumes(orders(tmp_path / "undisturbed/lobe", 24)))
    assert files(tmp_path / "killed") == files(tmp_path / "undisturbed")
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [f"lobe_{i:03d}" for i in range(24)]


def test_a_volume_that_fails_is_named_the_others_are_there(tmp_path, monkeypatch):
    def make(order, overwrite):
        if order.index == 1:
            raise RuntimeError("the dye ran out")
        original(order, overwrite)

    original = family.make_volume
    monkeypatch.setattr(family, "make_volume", make)
    with pytest.raises(Exception, match=r"1 of 3 blocks failed, the first one at lobe_001: .*the dye ran out"):
        list(make_volumes(orders(tmp_path / "lobe", 3)))
    assert [(tmp_path / f"lobe_00{i}").exists() for i in range(3)] == [True, False, True]
    assert list_jobs()[0].failed_blocks()[1]["name"] == "lobe_001"
    monkeypatch.setattr(family, "make_volume", original)
    made = list(make_volumes(orders(tmp_path / "lobe", 3)))
    assert [volume.already_complete for volume in made] == [True, False, True]


def test_a_volume_that_was_removed_since_is_made_again(tmp_path, monkeypatch):
    def make(order, overwrite):
        if order.index == 2:
            raise KeyboardInterrupt
        original(order, overwrite)

    original = family.make_volume
    monkeypatch.setattr(family, "make_volume", make)
    with pytest.raises(KeyboardInterrupt):
        list(make_volumes(orders(tmp_path / "lobe", 3)))
    shutil.rmtree(tmp_path / "lobe_000")
    monkeypatch.setattr(family, "make_volume", original)
    assert [volume.columns > 0 for volume in make_volumes(orders(tmp_path / "lobe", 3))] == [True] * 3
    assert (tmp_path / "lobe_000/raw").is_dir()


def test_a_family_begun_otherwise_is_refused_with_the_difference(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(family, "make_volume", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(make_volumes(orders(tmp_path / "lobe", 2)))
    with pytest.raises(InputError, match=r"begun with parameters seed 0, but now it is 1.*--overwrite"):
        list(make_volumes(orders(tmp_path / "lobe", 2, seed=1)))
    assert len(list(make_volumes(orders(tmp_path / "lobe", 2, seed=1), overwrite=True))) == 2
