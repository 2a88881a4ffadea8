"""Compressions, filters and types that TensorStore does not know are read with zarr-python, or refused by name."""

import concurrent.futures
import json
import multiprocessing
import shutil
import warnings
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

from incasem_like.errors import DataError, InputError
from incasem_like.volumes import Roi, open_volume

VOXELS = np.random.default_rng(0).integers(0, 999, (5, 9, 11)).astype("<u2")
FILTERS: dict[str, dict[str, Any]] = {
    "zstd": {"compressor": numcodecs.Zstd(3)},
    "lz4": {"compressor": numcodecs.LZ4()},
    "lzma": {"compressor": numcodecs.LZMA()},
    "bz2": {"compressor": numcodecs.BZ2()},
    "zlib": {"compressor": numcodecs.Zlib()},
    "delta": {"filters": [numcodecs.Delta("<u2")]},
    "shuffle": {"filters": [numcodecs.Shuffle(2)], "compressor": numcodecs.GZip()},
    "chain": {"filters": [numcodecs.Delta("<u2"), numcodecs.Fletcher32()], "compressor": None},
    "offset": {"filters": [numcodecs.FixedScaleOffset(offset=0, scale=1, dtype="<u2", astype="<u4")]},
    "astype": {"filters": [numcodecs.AsType("<u4", "<u2")]},
    "fortran": {"compressor": numcodecs.LZ4(), "order": "F"},
    "big": {"compressor": numcodecs.LZ4(), "dtype": ">u2"},
    "nested": {"compressor": numcodecs.LZ4(), "dimension_separator": "/"},
}


@pytest.fixture(scope="module")
def container(tmp_path_factory: Any) -> Path:
    place: Path = tmp_path_factory.mktemp("codecs") / "c.zarr"
    group = zarr.open_group(str(place), mode="w")
    for name, options in FILTERS.items():
        group.create_dataset(name, data=VOXELS, chunks=(2, 4, 4), **options)
    group.create_dataset("bits", data=VOXELS > 500, chunks=(2, 4, 4), filters=[numcodecs.PackBits()])
    document = json.loads((place / "nested/.zarray").read_text())
    del document["dimension_separator"]
    (place / "nested/.zarray").write_text(json.dumps(document))
    return place


@pytest.mark.parametrize("name", FILTERS)
def test_what_numcodecs_decodes_is_read(container: Path, name: str) -> None:
    volume = open_volume(container, name)
    assert (volume.dtype, volume.chunk_shape) == (np.dtype("u2"), (2, 4, 4))
    assert np.array_equal(volume.read(), VOXELS)
    assert np.array_equal(volume.read(Roi((1, 3, 5), (3, 5, 6))), VOXELS[1:4, 3:8, 5:11])
    assert np.array_equal(volume.as_zarr()[:], VOXELS)


def test_packed_bits_are_read(container: Path) -> None:
    assert np.array_equal(open_volume(container, "bits").read(), VOXELS > 500)


def test_nothing_is_written_into_such_an_array(container: Path) -> None:
    with pytest.raises(InputError, match="only read: write to another dataset"):
        open_volume(container, "delta", writable=True)


def test_a_damaged_chunk_is_named(container: Path, tmp_path: Path) -> None:
    shutil.copytree(container / "lz4", tmp_path / "c.zarr/lz4")
    (tmp_path / "c.zarr/lz4/0.0.0").write_bytes(b"nothing that lz4 has made")
    with pytest.raises(DataError, match="lz4 is damaged"):
        open_volume(tmp_path / "c.zarr/lz4").read()


def read_all(place: str) -> int:
    return int(open_volume(place).read().astype(np.int64).sum())


def test_processes_and_threads_read_at_once(container: Path) -> None:
    place = str(container / "delta")
    volume = open_volume(place)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert all(np.array_equal(found, VOXELS) for found in threads.map(lambda _: volume.read(), range(32)))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(read_all, [place]) == int(VOXELS.sum())


@pytest.mark.parametrize("fill", [None, 7])
def test_voxels_without_a_chunk_are_the_fill_value(tmp_path: Path, fill: int | None) -> None:
    array = zarr.open_array(
        str(tmp_path / "c.zarr"), mode="w", shape=(4, 4, 4), chunks=2, dtype="u2", fill_value=fill,
        compressor=numcodecs.LZ4(),
    )  # fmt: skip
    array[:2, :2, :2] = 9
    expected = np.full((4, 4, 4), fill or 0)
    expected[:2, :2, :2] = 9
    assert np.array_equal(open_volume(tmp_path / "c.zarr").read(), expected)


@pytest.mark.parametrize("dtype", [[("a", "u1"), ("b", "u1")], "S4", "M8[ns]", "c8", object])
def test_types_that_are_no_numbers_are_refused_by_name(tmp_path: Path, dtype: Any) -> None:
    options = {"object_codec": numcodecs.Pickle()} if dtype is object else {}
    zarr.open_array(str(tmp_path / "c.zarr"), mode="w", shape=(2, 2, 2), dtype=dtype, **options)
    with pytest.raises(DataError, match=r"holds values of type|what it uses, .* on"):
        open_volume(tmp_path / "c.zarr")


@pytest.mark.parametrize("codec", ["BZ2", "LZMA", "GZip", "Zstd", "LZ4"])
def test_compressions_of_an_n5_are_read(tmp_path: Path, codec: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.open_group(zarr.N5FSStore(str(tmp_path / "c.n5")), mode="w")
        group.create_dataset("raw", data=VOXELS, chunks=(2, 4, 4), compressor=getattr(numcodecs, codec)())
    volume = open_volume(tmp_path / "c.n5/raw")
    assert (volume.axes, volume.chunk_shape) == ("zyx", (2, 4, 4))
    assert np.array_equal(volume.read(), VOXELS)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("c.n5/attributes.json", {"compression": {"type": "jpeg"}}, "what it uses, jpeg on uint16"),
        ("c.zarr/.zarray", {"compressor": {"id": "imagecodecs_jpegls"}}, "what it uses, imagecodecs_jpegls on <u2"),
        ("c.zarr/.zarray", {"filters": [{"id": "scales"}]}, "what it uses, scales and lz4 on"),
    ],
)
def test_what_nothing_decodes_is_refused_by_name(tmp_path: Path, file: str, change: Any, said: str) -> None:
    (tmp_path / file).parent.mkdir()
    document: dict[str, Any] = {"dimensions": [4, 3, 2], "blockSize": [4, 3, 2], "dataType": "uint16"}
    if file.endswith(".zarray"):
        document = {
            "zarr_format": 2, "shape": [2, 3, 4], "chunks": [2, 3, 4], "dtype": "<u2", "order": "C", "fill_value": 0,
            "filters": None, "compressor": {"id": "lz4"},
        }  # fmt: skip
    (tmp_path / file).write_text(json.dumps({**document, **change}))
    with pytest.raises(DataError, match=said):
        open_volume((tmp_path / file).parent)


@pytest.mark.parametrize(
    "names",
    [
        [{"name": "bytes"}, {"name": "numcodecs.lz4"}],
        [{"name": "numcodecs.delta", "configuration": {"dtype": "<u2"}}, {"name": "bytes"}, {"name": "numcodecs.lzma"}],
        [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "numcodecs.zlib"}, {"name": "gzip"}],
    ],
)
def test_codecs_of_numcodecs_in_zarr_3(tmp_path: Path, names: list[dict[str, Any]]) -> None:
    shape, chunks = (5, 6, 7), (3, 4, 4)
    voxels = np.random.default_rng(0).integers(0, 2**16, shape).astype(np.uint16)
    padded = np.pad(voxels, [(0, 1), (0, 2), (0, 1)])
    order = ">u2" if names[0].get("configuration") == {"endian": "big"} else "<u2"
    for index in np.ndindex(2, 2, 2):
        data: Any = padded[tuple(slice(i * n, i * n + n) for i, n in zip(index, chunks, strict=True))].copy()
        for codec in names:
            if codec["name"] == "bytes":
                data = data.astype(order).tobytes()
            else:
                identity = {"id": codec["name"].removeprefix("numcodecs."), **codec.get("configuration", {})}
                data = numcodecs.get_codec(identity).encode(data)
        file = tmp_path / "a.zarr/raw/c" / "/".join(map(str, index))
        if index != (1, 1, 1):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes(data))
    document = {
        "zarr_format": 3, "node_type": "array", "shape": shape, "data_type": "uint16", "fill_value": 9,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default"}, "codecs": names, "attributes": {"resolution": [40, 4, 4]},
    }  # fmt: skip
    (tmp_path / "a.zarr/raw/zarr.json").write_text(json.dumps(document))
    volume = open_volume(tmp_path / "a.zarr/raw")
    voxels[3:, 4:, 4:] = 9
    np.testing.assert_array_equal(volume.read(), voxels)
    np.testing.assert_array_equal(volume.read(Roi((2, 1, 3), (2, 4, 3))), voxels[2:4, 1:5, 3:6])
    assert (volume.voxel_size, volume.chunk_shape) == ((40, 4, 4), chunks)
    document["codecs"] = [*names, {"name": "numcodecs.none_such"}]
    (tmp_path / "a.zarr/raw/zarr.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"what it uses, .*numcodecs\.none_such"):
        open_volume(tmp_path / "a.zarr/raw")
