"""What a viewer gets of volumes: the same voxels in the same place, whatever the format."""

import json
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incasem_like.errors import DataError
from incasem_like.viewing.layers import Layer, meaning_of
from incasem_like.viewing.scene import Scene
from incasem_like.viewing.served import ServedVolume, chunk_to_send
from incasem_like.viewing.server import serving
from incasem_like.volumes import Volume, create_volume, open_volume

RANDOM = np.random.default_rng(5)


def written(path: Path, name: str, array: np.ndarray, **options: Any) -> Volume:
    axes = "czyx" if array.ndim == 4 else "zyx"
    options = {"voxel_size": (40, 4.6, 4), "axes": axes, **options}
    volume = create_volume(path, name, shape=array.shape, dtype=array.dtype, **options)
    volume.write(array)
    volume.mark_complete()
    return open_volume(path, name)


def assembled(served: ServedVolume, level: int = 0) -> np.ndarray:
    """Put the array together from its chunks, by what its document says."""
    document = served.array_document(level)
    shape, chunks = document["shape"], document["chunks"]
    whole = np.zeros([-(-size // chunk) * chunk for size, chunk in zip(shape, chunks, strict=True)], document["dtype"])
    for index in product(*(range(-(-size // chunk)) for size, chunk in zip(shape, chunks, strict=True))):
        raw = served.read_chunk(level, ".".join(map(str, index)))
        if document["compressor"]:
            raw = zlib.decompress(raw)
        where = tuple(slice(n * size, (n + 1) * size) for n, size in zip(index, chunks, strict=True))
        whole[where] = np.frombuffer(raw, document["dtype"]).reshape(chunks)
    return whole[tuple(map(slice, shape))]


@pytest.mark.parametrize("format_name", ["zarr2", "zarr3", "n5"])
@pytest.mark.parametrize("dtype", ["uint8", "uint64", "float32"])
def test_all_voxels_arrive(tmp_path: Path, format_name: str, dtype: str) -> None:
    array = RANDOM.integers(0, 200, (20, 45, 70)).astype(dtype)
    suffix = "n5" if format_name == "n5" else "zarr"
    volume = written(tmp_path / f"a.{suffix}", "raw", array, chunk_shape=(16, 16, 32), format=format_name)
    np.testing.assert_array_equal(assembled(ServedVolume([volume])), array)


def test_types_that_browsers_do_not_know_are_converted(tmp_path: Path) -> None:
    ids = np.full((4, 4, 4), 2**40, np.int64)
    served = ServedVolume([written(tmp_path / "a.zarr", "ids", ids)])
    assert served.dtype == np.uint64
    assert assembled(served).max() == 2**40
    half = np.full((4, 4, 4), 0.25, np.float16)
    assert assembled(ServedVolume([written(tmp_path / "a.zarr", "prob", half)])).max() == np.float32(0.25)


def test_channels_arrive_in_one_chunk(tmp_path: Path) -> None:
    array = RANDOM.integers(0, 200, (3, 9, 20, 33)).astype("uint8")
    served = ServedVolume([written(tmp_path / "a.zarr", "affinities", array, chunk_shape=(1, 4, 8, 16))])
    assert served.array_document(0)["chunks"][0] == 3
    np.testing.assert_array_equal(assembled(served), array)


def test_steps_are_an_axis(tmp_path: Path) -> None:
    steps = [written(tmp_path / f"{n}.zarr", "raw", np.full((4, 5, 6), n, np.uint8)) for n in (10, 20, 30)]
    served = ServedVolume([], steps, ["10", "20", "30"])
    assert served.axes == ("step", "z", "y", "x")
    assert [int(step.max()) for step in assembled(served)] == [10, 20, 30]
    with pytest.raises(DataError, match="steps are shown together only if they are alike"):
        ServedVolume([], [*steps, written(tmp_path / "40.zarr", "raw", np.zeros((1, 5, 6), np.uint8))])


def test_metadata_place_the_centre_of_the_first_voxel(tmp_path: Path) -> None:
    fine = written(tmp_path / "a.zarr", "s0", np.ones((4, 8, 8), np.uint8), offset=(80, 9.2, 12))
    coarse = written(
        tmp_path / "a.zarr", "s1", np.ones((4, 4, 4), np.uint8), voxel_size=(40, 9.2, 8), offset=(80, 9.2, 12)
    )
    image = ServedVolume([fine, coarse]).group_attributes()["multiscales"][0]
    found = [[one[kind] for one, kind in zip(d["coordinateTransformations"], ("scale", "translation"), strict=True)]
             for d in image["datasets"]]  # fmt: skip
    assert found[0] == [[40, 4.6, 4], pytest.approx([100, 11.5, 14])]
    assert found[1] == [[40, 9.2, 8], pytest.approx([100, 13.8, 16])]


@pytest.mark.parametrize(
    ("shape", "chunk", "sent"),
    [
        ((1000, 1000, 1000), (128, 128, 128), (128, 128, 128)),
        ((1000, 4000, 4000), (1, 4000, 4000), (1, 1000, 2000)),
        ((1000, 1000, 1000), (8, 8, 8), (32, 32, 32)),
        ((2, 5, 5), (2, 5, 5), (2, 5, 5)),
    ],
)
def test_chunks_suit_a_screen(
    tmp_path: Path, shape: tuple[int, ...], chunk: tuple[int, ...], sent: tuple[int, ...]
) -> None:
    create_volume(tmp_path / "a.zarr", "raw", shape=shape, dtype="uint8", voxel_size=(1, 1, 1), chunk_shape=chunk)
    volume = open_volume(tmp_path / "a.zarr", "raw", allow_incomplete=True)
    assert sorted(chunk_to_send(volume)) == sorted(sent)


@pytest.mark.parametrize(
    ("name", "dtype", "attributes", "meaning"),
    [
        ("volumes/raw", "uint8", {}, "raw"),
        ("volumes/raw", "uint16", {}, "raw"),
        ("volumes/raw_predicted_sharpness", "float32", {}, "raw"),
        ("volumes/labels/er", "uint8", {}, "labels"),
        ("neuron_ids", "uint64", {}, "labels"),
        ("anything", "uint64", {}, "labels"),
        ("volumes/metric_masks/er", "uint8", {}, "mask"),
        ("volumes/predictions/train_0001/predict_0001/segmentation", "uint8", {}, "labels"),
        ("volumes/predictions/train_0001/predict_0001/prob_maps/class_1", "uint8", {"scale": 255}, "probabilities"),
        ("boundaries", "float32", {}, "probabilities"),
        ("error_map", "float32", {}, "error"),
    ],
)
def test_meaning_follows_from_metadata(
    tmp_path: Path, name: str, dtype: str, attributes: dict[str, Any], meaning: str
) -> None:
    array = np.ones((2, 2, 2), dtype)
    assert meaning_of(written(tmp_path / "a.zarr", name, array, attributes=attributes)) == meaning


@pytest.fixture
def fetch(tmp_path: Path) -> Callable[[str], tuple[int, bytes]]:
    def answer(url: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(url, timeout=60) as found:
                return found.status, found.read()
        except urllib.error.HTTPError as error:
            return error.code, error.reason.encode()

    return answer


def test_the_server_needs_the_secret_and_hides_the_rest(
    tmp_path: Path, fetch: Callable[[str], tuple[int, bytes]]
) -> None:
    array = RANDOM.integers(0, 200, (8, 8, 8)).astype("uint8")
    scene = Scene([Layer("raw", ServedVolume([written(tmp_path / "a.zarr", "raw", array)]), "raw")])
    with serving(scene) as link:
        page, _, state = link.partition("#!")
        assert fetch(page)[0] == 200
        status, body = fetch(state)
        layer = json.loads(body)["layers"][0]
        base = layer["source"].partition("|")[0]
        assert (status, layer["type"], base.startswith(state.rpartition("/")[0])) == (200, "image", True)
        document = json.loads(fetch(f"{base}0/.zarray")[1])
        chunk = np.frombuffer(fetch(f"{base}0/0.0.0")[1], document["dtype"])
        np.testing.assert_array_equal(chunk.reshape(document["chunks"]), array)
        token = state.split("/")[-2]
        for wrong in (
            f"{base}0/1.0.0", f"{base}0/0.0", f"{base}1/.zarray", f"{base}0/-1.0.0", f"{base}../../state.json",
            base.replace("/data/0/", "/data/7/.zattrs"), state.replace(token, "x"),
            base.replace(token, "x") + ".zattrs",
        ):  # fmt: skip
            assert fetch(wrong)[0] == 404, wrong


def test_a_damaged_chunk_is_an_error_of_its_own(tmp_path: Path, fetch: Callable[[str], tuple[int, bytes]]) -> None:
    array = RANDOM.integers(0, 200, (8, 8, 8)).astype("uint8")
    volume = written(tmp_path / "a.zarr", "raw", array, chunk_shape=(8, 8, 8))
    chunk = next(path for path in (tmp_path / "a.zarr/raw").rglob("0*") if path.is_file())
    chunk.write_bytes(b"damaged")
    with serving(Scene([Layer("raw", ServedVolume([volume]), "raw")])) as link:
        status, _ = fetch(link.partition("#!")[2].replace("state.json", "data/0/0/0.0.0"))
        assert status == 500
