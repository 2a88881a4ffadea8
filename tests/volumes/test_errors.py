"""Each mistake and each accident gets one sentence of the right class."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from incasem_like.errors import DataError, DiskFullError, InputError
from incasem_like.volumes import Volume, create_volume, open_volume

Make = Callable[..., tuple[Volume, np.ndarray]]
SMALL: dict[str, Any] = {"shape": (4, 4, 4), "dtype": "uint8", "voxel_size": (1, 1, 1), "chunk_shape": (2, 2, 2)}


def sentence(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    assert "tensorstore" not in text.lower()
    return text


def test_a_missing_container_names_a_near_one(random_volume: Make, tmp_path: Path) -> None:
    random_volume("cell_1.zarr/volumes/raw")
    with pytest.raises(DataError, match=r"cell1.zarr does not exist; did you mean 'cell_1.zarr'\?") as error:
        open_volume(tmp_path / "cell1.zarr/volumes/raw")
    assert sentence(error)
    with pytest.raises(DataError, match=r"nowhere/cell.zarr does not exist: check the path"):
        open_volume(tmp_path / "nowhere/cell.zarr/volumes/raw")


def test_a_dataset_where_its_container_should_be_is_called_that(random_volume: Make, tmp_path: Path) -> None:
    random_volume("cell.zarr/volumes/raw")
    with pytest.raises(DataError, match=r"raw is a dataset itself, it has no volumes/raw: name its container") as error:
        open_volume(tmp_path / "cell.zarr/volumes/raw", "volumes/raw")
    assert sentence(error)


def test_a_missing_dataset_lists_those_that_are_there(random_volume: Make, tmp_path: Path) -> None:
    random_volume("cell.zarr/volumes/raw")
    random_volume("cell.zarr/volumes/labels/er")
    with pytest.raises(DataError, match=r"no dataset volumes/rax; did you mean 'volumes/raw'\? It has") as error:
        open_volume(tmp_path / "cell.zarr", "volumes/rax")
    assert "volumes/labels/er, volumes/raw" in sentence(error)
    with pytest.raises(DataError, match="is a group of datasets, name one of them: volumes/labels/er, volumes/raw"):
        open_volume(tmp_path / "cell.zarr")
    with pytest.raises(DataError, match="is a group of datasets, name one of them: volumes/labels/er"):
        open_volume(tmp_path / "cell.zarr/volumes/labels")


def test_a_folder_or_file_that_is_no_volume(tmp_path: Path) -> None:
    (tmp_path / "sections").mkdir()
    (tmp_path / "image.tif").write_bytes(b"II*\0")
    with pytest.raises(DataError, match="holds no Zarr, N5 or precomputed volume"):
        open_volume(tmp_path / "sections")
    with pytest.raises(DataError, match="is a file, not a Zarr"):
        open_volume(tmp_path / "image.tif")
    with pytest.raises(DataError, match="is a file, not a Zarr"):
        open_volume(tmp_path / "image.tif", "volumes/raw")


@pytest.mark.parametrize("format_name", ["zarr2", "zarr3", "n5"])
@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_a_damaged_chunk_is_named(tmp_path: Path, format_name: str, damage: str) -> None:
    volume = create_volume(tmp_path / "cell", "raw", format=format_name, **SMALL)
    volume.write(np.random.default_rng(0).integers(1, 255, (4, 4, 4), dtype=np.uint8))
    folder = tmp_path / "cell/raw"
    chunk = next(path for path in sorted(folder.rglob("*")) if path.is_file() and path.name in "01")
    stored = chunk.read_bytes()
    chunk.write_bytes(stored[: len(stored) // 2] if damage == "truncated" else b"\x07" * len(stored))
    with pytest.raises(DataError, match=r"is damaged: .* cannot be decoded") as error:
        open_volume(volume.address, allow_incomplete=True).read()
    assert str(chunk) in sentence(error)


@pytest.mark.parametrize(
    ("format_name", "file"), [("zarr2", ".zarray"), ("zarr3", "zarr.json"), ("n5", "attributes.json")]
)
def test_damaged_metadata_are_named(tmp_path: Path, format_name: str, file: str) -> None:
    volume = create_volume(tmp_path / "cell", "raw", format=format_name, **SMALL)
    path = tmp_path / "cell/raw" / file
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="is damaged: it holds no JSON object") as error:
        open_volume(volume.address)
    assert str(path) in sentence(error)
    assert create_volume(volume.address, overwrite=True, format=format_name, **SMALL).read().max() == 0


def test_an_array_that_cannot_be_decoded_says_what_it_uses(tmp_path: Path) -> None:
    zarr.open_array(str(tmp_path / "odd.zarr"), mode="w", shape=(4, 4, 4), chunks=2, dtype="u1")
    document = json.loads((tmp_path / "odd.zarr/.zarray").read_text())
    (tmp_path / "odd.zarr/.zarray").write_text(json.dumps({**document, "compressor": {"id": "jpegxr"}}))
    with pytest.raises(DataError, match=r"odd.zarr cannot be opened .*, jpegxr on \|u1") as error:
        open_volume(tmp_path / "odd.zarr")
    assert sentence(error)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2, 3, 4, 4)])
def test_arrays_that_are_no_volumes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    zarr.open_array(str(tmp_path / "odd.zarr"), mode="w", shape=shape, chunks=2, dtype="u1")
    with pytest.raises(DataError, match="only volumes with axes z, y, x and channels are read"):
        open_volume(tmp_path / "odd.zarr")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"shape": (4, 4)}, "needs a shape of 3 positive numbers"),
        ({"shape": (4, 0, 4)}, "needs a shape of 3 positive numbers"),
        ({"dtype": "complex64"}, "cannot hold complex64"),
        ({"axes": "xyz"}, "cannot have the axes 'xyz'"),
        ({"voxel_size": (1, 0, 1)}, "needs 3 numbers for voxel size"),
        ({"chunk_shape": (2, 2)}, "needs a chunk shape of 3"),
        ({"compression": "rar"}, "compression rar is not known"),
        ({"format": "zar2"}, "format zar2 cannot be written; did you mean 'zarr2'"),
        ({"format": "precomputed"}, "format precomputed cannot be written"),
        ({"shard_shape": (4, 4, 4)}, "zarr2 has no shards"),
        ({"shard_shape": (3, 4, 4), "format": "zarr3"}, r"no whole number of chunks of \[2, 2, 2\]: use \[4, 4, 4\]"),
        ({"format": "n5", "fill_value": 3}, "N5 fills voxels never written with 0"),
        ({"format": "n5", "dtype": "float16"}, "N5 cannot hold float16"),
    ],
)
def test_wrong_arguments_of_create(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        create_volume(tmp_path / "cell.zarr/raw", **{**SMALL, **wrong})
    assert sentence(error)
    assert not (tmp_path / "cell.zarr/raw").exists()


def test_another_format_in_the_same_container_is_refused(random_volume: Make, tmp_path: Path) -> None:
    random_volume("cell.zarr/volumes/raw")
    with pytest.raises(InputError, match="is a zarr2 container, but zarr3 was asked for"):
        create_volume(tmp_path / "cell.zarr/other", format="zarr3", **SMALL)


def test_an_array_does_not_hold_another(random_volume: Make, tmp_path: Path) -> None:
    random_volume("cell.zarr/volumes/raw")
    with pytest.raises(InputError, match=r"below .*volumes/raw, which is an array"):
        create_volume(tmp_path / "cell.zarr/volumes/raw/equalized", **SMALL)
    with pytest.raises(InputError, match="is a group that holds other datasets"):
        create_volume(tmp_path / "cell.zarr/volumes", **SMALL)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file"):
        create_volume(tmp_path / "file/cell.zarr/raw", **SMALL)


def test_a_dataset_may_not_leave_its_container(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"leaves its container"):
        create_volume(tmp_path / "cell.zarr", "../other", **SMALL)


def test_a_scheme_that_is_not_known() -> None:
    with pytest.raises(InputError, match="scheme that cannot be read"):
        open_volume("ftp://somewhere/cell.zarr/raw")


@pytest.mark.parametrize("format_name", ["zarr2", "zarr3", "n5"])
def test_a_full_disk(small_disk: Callable[..., Path], format_name: str) -> None:
    disk = small_disk("size=256k")
    volume = create_volume(
        disk / "cell",
        "raw",
        shape=(100, 100, 100),
        dtype="uint8",
        voxel_size=(1, 1, 1),
        chunk_shape=(50, 50, 50),
        format=format_name,
    )
    with pytest.raises(
        DiskFullError, match=r"No space is left on the disk while writing .*cell/raw: free some"
    ) as error:
        volume.write(np.random.default_rng(0).integers(0, 255, (100, 100, 100), dtype=np.uint8))
    assert sentence(error)
    assert not open_volume(volume.address, allow_incomplete=True).complete


def test_a_full_disk_at_creation(small_disk: Callable[..., Path]) -> None:
    disk = small_disk("size=8k")
    with pytest.raises(OSError, match="No space left"):
        (disk / "filling").write_bytes(bytes(100_000))
    with pytest.raises(DiskFullError):
        create_volume(disk / "cell.zarr/raw", **SMALL)


def test_a_place_that_cannot_be_written(small_disk: Callable[..., Path]) -> None:
    disk = small_disk("size=1m")
    created = create_volume(disk / "cell.zarr/raw", **SMALL)
    created.write(np.ones((4, 4, 4), np.uint8))
    created.mark_complete()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(InputError, match=r"Not permitted while writing|cannot be written") as error:
        create_volume(disk / "cell.zarr/labels", **SMALL)
    assert sentence(error)
    with pytest.raises(InputError, match="Not permitted"):
        open_volume(created.address, writable=True)
    with pytest.raises(InputError, match="Not permitted while writing"):
        created.write(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match=r"cannot be replaced|Not permitted"):
        create_volume(created.address, overwrite=True, **SMALL)
    assert open_volume(created.address).read().min() == 1


def test_importing_the_room_loads_no_tensorstore() -> None:
    code = "import sys, incasem_like.volumes, incasem_like.blockwise; sys.exit('tensorstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_container_named_like_a_file_is_refused_unless_it_is_there(tmp_path: Path) -> None:
    about = {"shape": (2, 2, 2), "dtype": "uint8", "voxel_size": (1, 1, 1)}
    with pytest.raises(InputError, match=r"ends in \.txt, but a container is a folder"):
        create_volume(tmp_path / "o.txt", "raw", **about)
    assert not (tmp_path / "o.txt").exists()
    create_volume(tmp_path / "o.zarr", "raw", **about)
    (tmp_path / "o.zarr").rename(tmp_path / "o.txt")
    create_volume(tmp_path / "o.txt", "labels", **about)
