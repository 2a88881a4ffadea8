"""What we write, others read, and the other way round; the readers are zarr-python and decoders written here."""

import itertools
import json
import struct
import warnings
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incasem_like.volumes import Roi, create_volume, list_datasets, open_volume

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]


def voxels_of(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return generator.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def n5_store(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return zarr.N5FSStore(str(path))


def read_by_zarr_python(container: Path, dataset: str) -> Any:
    store = n5_store(container) if container.suffix == ".n5" else str(container)
    return zarr.open_group(store, mode="r")[dataset]


sizes = st.tuples(*[st.integers(1, 9)] * 3)
chunks = st.tuples(*[st.integers(1, 6)] * 3)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    shape=sizes,
    chunk=chunks,
    dtype=st.sampled_from(DTYPES),
    channels=st.integers(0, 3),
    suffix=st.sampled_from([".zarr", ".n5"]),
)
def test_zarr_python_reads_what_we_write(
    tmp_path_factory: pytest.TempPathFactory, shape: Any, chunk: Any, dtype: str, channels: int, suffix: str
) -> None:
    container = tmp_path_factory.mktemp("round") / f"cell{suffix}"
    full = (channels, *shape) if channels else shape
    expected = voxels_of(full, dtype)
    volume = create_volume(
        container,
        "volumes/raw",
        shape=full,
        dtype=dtype,
        voxel_size=(4.6, 4, 4),
        chunk_shape=chunk,
        axes="czyx"[not channels :],
    )
    volume.write(expected)
    found = read_by_zarr_python(container, "volumes/raw")
    assert found.dtype == expected.dtype
    assert np.array_equal(found[:], expected)
    assert np.array_equal(volume.as_zarr()[:], expected)


@settings(max_examples=25)
@given(
    shape=sizes,
    chunk=chunks,
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from([".", "/", "n5"]),
    order=st.sampled_from("CF"),
    big_endian=st.booleans(),
)
def test_we_read_what_zarr_python_writes(
    tmp_path_factory: pytest.TempPathFactory,
    shape: Any,
    chunk: Any,
    dtype: str,
    kind: str,
    order: str,
    big_endian: bool,
) -> None:
    folder = tmp_path_factory.mktemp("theirs")
    expected = voxels_of(shape, dtype)
    if kind == "n5":
        container = folder / "cell.n5"
        group = zarr.open_group(n5_store(container), mode="w")
        array = group.create_dataset(
            "volumes/raw", shape=shape, chunks=chunk, dtype=dtype, compressor=numcodecs.GZip(1)
        )
    else:
        container = folder / "cell.zarr"
        group = zarr.open_group(str(container), mode="w")
        stored = np.dtype(dtype).newbyteorder(">" if big_endian else "<")
        array = group.create_dataset(
            "volumes/raw", shape=shape, chunks=chunk, dtype=stored, dimension_separator=kind, order=order
        )
    array[:] = expected
    volume = open_volume(container / "volumes/raw")
    assert volume.axes == "zyx"
    assert volume.shape == shape
    assert np.array_equal(volume.read(), expected)


def crc32c(data: bytes) -> int:
    """Castagnoli's cyclic redundancy check, bit by bit (RFC 3720, appendix B.4)."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder >> 1) ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def decode_chunk(stored: bytes, codecs: list[dict], dtype: np.dtype, shape: list[int]) -> np.ndarray:
    """Undo a chain of Zarr v3 codecs as the specification words them, shards included."""
    first = codecs[0]
    if first["name"] == "sharding_indexed":
        return decode_shard(stored, first["configuration"], dtype, shape)
    for codec in reversed(codecs[1:]):
        stored = {"blosc": numcodecs.Blosc(), "gzip": numcodecs.GZip(), "zstd": numcodecs.Zstd()}[codec["name"]].decode(
            stored
        )
    return np.frombuffer(stored, dtype.newbyteorder("<")).reshape(shape)


def decode_shard(stored: bytes, configuration: dict, dtype: np.dtype, shape: list[int]) -> np.ndarray:
    inner = configuration["chunk_shape"]
    grid = [size // part for size, part in zip(shape, inner, strict=True)]
    count = int(np.prod(grid))
    index, checksum = stored[-16 * count - 4 : -4], stored[-4:]
    assert struct.unpack("<I", checksum)[0] == crc32c(index)
    places = struct.unpack(f"<{2 * count}Q", index)
    result = np.zeros(shape, dtype)
    for number, position in enumerate(itertools.product(*map(range, grid))):
        start, length = places[2 * number : 2 * number + 2]
        if start == 2**64 - 1:
            continue
        part = decode_chunk(stored[start : start + length], configuration["codecs"], dtype, inner)
        result[tuple(slice(p * c, (p + 1) * c) for p, c in zip(position, inner, strict=True))] = part
    return result


def decode_zarr3(folder: Path) -> np.ndarray:
    """Read a Zarr v3 array with nothing but JSON and numcodecs."""
    document = json.loads((folder / "zarr.json").read_text())
    assert (document["zarr_format"], document["node_type"]) == (3, "array")
    shape, dtype = document["shape"], np.dtype(document["data_type"])
    chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
    grid = [-(-size // part) for size, part in zip(shape, chunk, strict=True)]
    result = np.full([count * part for count, part in zip(grid, chunk, strict=True)], document["fill_value"], dtype)
    for position in itertools.product(*map(range, grid)):
        path = folder.joinpath("c", *map(str, position))
        if path.exists():
            place = tuple(slice(p * c, (p + 1) * c) for p, c in zip(position, chunk, strict=True))
            result[place] = decode_chunk(path.read_bytes(), document["codecs"], dtype, chunk)
    return result[tuple(map(slice, shape))]


@pytest.mark.parametrize("dtype", [*DTYPES, "float16", "bool"])
@pytest.mark.parametrize("shard", [None, (4, 6, 4)])
@pytest.mark.parametrize("compression", ["zstd", "lz4", "gzip", "none"])
def test_zarr3_is_as_its_specification_says(tmp_path: Path, dtype: str, shard: Any, compression: str) -> None:
    expected = (
        voxels_of((5, 9, 7), "uint8") > 99 if dtype == "bool" else voxels_of((5, 9, 7), dtype.replace("16", "32"))
    )
    expected = expected.astype(dtype)
    volume = create_volume(
        tmp_path / "cell.zarr", "volumes/raw", shape=(5, 9, 7), dtype=dtype, voxel_size=(1, 1, 1), format="zarr3",
        chunk_shape=(2, 3, 4), shard_shape=shard, compression=compression,
    )  # fmt: skip
    volume.write(expected)
    assert np.array_equal(decode_zarr3(tmp_path / "cell.zarr/volumes/raw"), expected)
    assert np.array_equal(open_volume(volume.address, allow_incomplete=True).read(), expected)
    assert volume.chunk_shape == (2, 3, 4)
    assert volume.write_chunk_shape == (shard or (2, 3, 4))


@pytest.mark.parametrize("format_name", ["zarr2", "zarr3", "n5"])
@pytest.mark.parametrize("compression", ["zstd", "lz4", "gzip", "none"])
def test_every_compression_comes_back(tmp_path: Path, format_name: str, compression: str) -> None:
    expected = voxels_of((5, 6, 7), "uint16")
    volume = create_volume(
        tmp_path / "cell",
        "raw",
        shape=(5, 6, 7),
        dtype="uint16",
        voxel_size=(1, 1, 1),
        format=format_name,
        compression=compression,
    )
    volume.write(expected)
    assert np.array_equal(open_volume(tmp_path / "cell", "raw", allow_incomplete=True).read(), expected)
    if format_name != "zarr3":
        assert np.array_equal(volume.as_zarr()[:], expected)


def test_n5_blocks_lie_in_the_order_that_n5_says(tmp_path: Path) -> None:
    """The block x=1, y=0, z=0 is the file 1/0/0, whose header gives its size as x, y, z."""
    volume = create_volume(
        tmp_path / "cell.n5/raw",
        shape=(2, 3, 8),
        dtype="uint8",
        voxel_size=(1, 1, 1),
        chunk_shape=(2, 3, 4),
        compression="none",
    )
    expected = np.arange(48, dtype=np.uint8).reshape(2, 3, 8)
    volume.write(expected)
    stored = (tmp_path / "cell.n5/raw/1/0/0").read_bytes()
    assert struct.unpack(">HHIII", stored[:16]) == (0, 3, 4, 3, 2)
    assert stored[16:] == expected[:, :, 4:].tobytes()


@pytest.mark.parametrize("suffix", [".zarr", ".n5"])
def test_groups_on_the_way_are_groups_for_zarr_python(tmp_path: Path, suffix: str) -> None:
    for name in ("volumes/raw", "volumes/labels/er", "volumes/predictions/train_0001/predict_0002/prob_maps/class_1"):
        create_volume(tmp_path / f"cell{suffix}", name, shape=(2, 2, 2), dtype="uint8", voxel_size=(1, 1, 1))
    store = n5_store(tmp_path / "cell.n5") if suffix == ".n5" else str(tmp_path / "cell.zarr")
    names: list[str] = []
    zarr.open_group(store, mode="r").visititems(
        lambda name, item: names.append(name) if isinstance(item, zarr.Array) else None
    )
    assert sorted(names) == list_datasets(tmp_path / f"cell{suffix}")
    assert len(names) == 3
    assert "er" in zarr.open_group(store, mode="r")["volumes/labels"]


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
def test_precomputed_is_read_in_our_order(tmp_path: Path, encoding: str) -> None:
    dtype = "uint64" if encoding == "compressed_segmentation" else "uint8"
    metadata = {"type": "image", "data_type": dtype, "num_channels": 1}
    scale = {
        "size": [7, 6, 5], "resolution": [4.6, 4.6, 40], "voxel_offset": [30, 20, 10], "chunk_size": [4, 4, 4],
        "encoding": encoding,
    }  # fmt: skip
    if encoding == "compressed_segmentation":
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    spec = {
        "driver": "neuroglancer_precomputed", "kvstore": f"file://{tmp_path}/volume", "create": True,
        "multiscale_metadata": metadata, "scale_metadata": scale,
    }  # fmt: skip
    expected = voxels_of((5, 6, 7), "uint8").astype(dtype)
    tensorstore.open(spec).result()[..., 0] = expected.transpose(2, 1, 0)
    volume = open_volume(f"precomputed://file://{tmp_path}/volume")
    assert (volume.axes, volume.voxel_size, volume.offset) == ("zyx", (40.0, 4.6, 4.6), (400.0, 92.0, 138.0))
    assert volume.roi == Roi((10, 20, 30), (5, 6, 7))
    assert np.array_equal(volume.read(), expected)
    assert np.array_equal(volume.read(Roi((11, 22, 33), (2, 2, 2))), expected[1:3, 2:4, 3:5])
    key = "4.6_4.6_40"
    assert np.array_equal(open_volume(tmp_path / "volume", key).read(), expected)


def test_a_container_keeps_its_format(tmp_path: Path) -> None:
    options: Any = {"shape": (2, 2, 2), "dtype": "uint8", "voxel_size": (1, 1, 1)}
    create_volume(tmp_path / "cell.zarr/a", format="zarr3", **options)
    assert create_volume(tmp_path / "cell.zarr/b", **options).format.name == "zarr3"
