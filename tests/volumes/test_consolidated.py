"""Consolidated metadata of a container are as true after what is written here as before; locally nobody trusts them."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from incasem_like.errors import DataError
from incasem_like.volumes import create_volume, list_datasets, open_volume

SMALL: dict[str, Any] = {"shape": (2, 3, 4), "dtype": "uint8", "voxel_size": (4, 4, 4)}


@pytest.fixture
def container(tmp_path: Path) -> Path:
    place = tmp_path / "c.zarr"
    zarr.open_group(str(place), mode="w").create_dataset("volumes/raw", data=np.ones((2, 2, 2), "u1"))
    zarr.consolidate_metadata(str(place))
    zarr.consolidate_metadata(zarr.DirectoryStore(str(place / "volumes")))
    return place


def consolidated(place: Path, dataset: str) -> dict[str, Any]:
    return dict(zarr.open_consolidated(str(place))[dataset].attrs)


def test_what_is_made_changed_and_replaced_is_in_them(container: Path) -> None:
    volume = create_volume(container / "volumes/eq", **SMALL)
    assert consolidated(container, "volumes/eq")["complete"] is False
    volume.write(np.full((2, 3, 4), 7, np.uint8))
    volume.mark_complete()
    assert consolidated(container, "volumes/eq")["complete"] is True
    assert consolidated(container / "volumes", "eq")["complete"] is True
    assert (zarr.open_consolidated(str(container))["volumes/eq"][:] == 7).all()
    assert sorted(zarr.open_consolidated(str(container))["volumes"]) == ["eq", "raw"]
    assert zarr.open_consolidated(str(container))["volumes"].attrs["multiscales"][0]["name"] == "eq"
    create_volume(container / "volumes/eq", **{**SMALL, "shape": (5, 5, 5)}, overwrite=True)
    assert zarr.open_consolidated(str(container))["volumes/eq"].shape == (5, 5, 5)


def test_inline_ones_of_version_3_are_refreshed(tmp_path: Path) -> None:
    create_volume(tmp_path / "c.zarr/a/raw", format="zarr3", **SMALL)
    root = tmp_path / "c.zarr/zarr.json"
    inline = {"kind": "inline", "must_understand": False, "metadata": {"gone": {"node_type": "group"}}}
    root.write_text(json.dumps({**json.loads(root.read_text()), "consolidated_metadata": inline}))
    create_volume(tmp_path / "c.zarr/a/eq", format="zarr3", **SMALL).mark_complete()
    entries = json.loads(root.read_text())["consolidated_metadata"]["metadata"]
    for name in ("a", "a/eq"):
        assert entries[name] == json.loads((tmp_path / "c.zarr" / name / "zarr.json").read_text())
    assert set(entries) == {"gone", "a", "a/eq"}


def test_stale_ones_never_win_over_the_files(container: Path) -> None:
    zarr.open_array(str(container / "volumes/raw"), mode="a").attrs["resolution"] = [40, 4, 4]
    zarr.open_group(str(container), mode="a").create_dataset("late", data=np.ones((2, 2, 2), "u1"))
    assert open_volume(container / "volumes/raw").voxel_size == (40, 4, 4)
    assert list_datasets(container) == ["late", "volumes/raw"]


def make(place: str) -> None:
    create_volume(place, **SMALL).mark_complete()


def test_processes_that_write_at_once_lose_no_entry(container: Path) -> None:
    names = [f"volumes/eq_{number}" for number in range(4)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(make, [str(container / name) for name in names])
    assert all(consolidated(container, name)["complete"] for name in names)


def test_damaged_ones_are_named_before_anything_is_written(container: Path) -> None:
    (container / ".zmetadata").write_text("{")
    with pytest.raises(DataError, match=r"c.zarr/\.zmetadata is damaged"):
        create_volume(container / "volumes/eq", **SMALL)
    assert not (container / "volumes/eq").exists()


def test_they_list_what_is_behind_http(served: str, container: Path) -> None:
    zarr.open_group(str(container), mode="a").create_dataset("labels", data=np.ones((2, 2, 2), "u1"))
    zarr.consolidate_metadata(str(container))
    (container / "labels/.zarray").unlink()
    assert list_datasets(f"{served}/c.zarr") == ["volumes/raw"]
    with pytest.raises(DataError, match="has no dataset volumes/rax; did you mean"):
        open_volume(f"{served}/c.zarr/volumes/rax")
