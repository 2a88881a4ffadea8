"""Voxel size, offset and axes as other programs write them; the expected values are theirs, or computed by hand."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from funlib.geometry import Coordinate
from funlib.persistence import prepare_ds

from incasem_like.errors import DataError
from incasem_like.volumes import Roi, create_volume, open_volume

PIXEL = {"dimensions": [4, 5, 40], "unit": "nm"}
VOXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def axes(names: str, unit: str | None = "nanometer") -> list[dict[str, str]]:
    kinds = {"t": "time", "c": "channel"}
    return [
        {"name": name, "type": kinds[name]}
        if name in kinds
        else {"name": name, "type": "space", **({"unit": unit} if unit else {})}
        for name in names
    ]


def scaled(path: str, scale: list[float], translation: list[float] | None = None) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if translation is not None:
        steps.append({"type": "translation", "translation": translation})
    return {"path": path, "coordinateTransformations": steps}


def write_zarr(path: Path, voxels: np.ndarray = VOXELS, **attributes: Any) -> None:
    zarr.open_array(str(path), mode="w", shape=voxels.shape, dtype=voxels.dtype, chunks=voxels.shape)[:] = voxels
    if attributes:
        (path / ".zattrs").write_text(json.dumps(attributes))


def write_zarr3(path: Path, voxels: np.ndarray = VOXELS, **members: Any) -> None:
    """Write an array by the words of the specification, one chunk without compression."""
    (path / "c" / "/".join("0" * (voxels.ndim - 1))).mkdir(parents=True)
    (path / "c" / "/".join("0" * voxels.ndim)).write_bytes(voxels.tobytes())
    array = {
        "zarr_format": 3, "node_type": "array", "shape": list(voxels.shape), "data_type": voxels.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(voxels.shape)}},
        "chunk_key_encoding": {"name": "default"}, "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }  # fmt: skip
    (path / "zarr.json").write_text(json.dumps({**array, **members}))


def write_n5(path: Path, voxels: np.ndarray = VOXELS, **attributes: Any) -> None:
    store, _, dataset = str(path).partition(".n5/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        zarr.open_group(zarr.N5FSStore(f"{store}.n5"), mode="a").create_dataset(dataset, data=voxels)
    file = path / "attributes.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **attributes}))


@pytest.mark.parametrize("level", ["", "a", "a/b"])
def test_multiscales_of_any_group_above_count(tmp_path: Path, level: str) -> None:
    write_zarr(tmp_path / "cell.zarr/a/b/s0/raw")
    path = "a/b/s0/raw".removeprefix(level).strip("/")
    images = [
        {"version": "0.4", "axes": axes("zyx"), "datasets": [scaled("other", [1, 1, 1])]},
        {
            "version": "0.4",
            "axes": axes("zyx", "micrometer"),
            "datasets": [scaled(f"./{path}/", [0.04, 0.0046, 0.005])],
        },
    ]
    (tmp_path / "cell.zarr" / level / ".zattrs").write_text(json.dumps({"multiscales": images}))
    for volume in (open_volume(tmp_path / "cell.zarr/a/b/s0/raw"), open_volume(tmp_path / "cell.zarr/a", "b/s0/raw")):
        assert volume.voxel_size == (40, 4.6, 5)


def test_multiscales_of_a_folder_without_zgroup_and_without_suffix_count(tmp_path: Path) -> None:
    write_zarr(tmp_path / "cell/0")
    image = {"axes": axes("zyx"), "datasets": [scaled("0", [40, 4.6, 4.6])]}
    (tmp_path / "cell/.zattrs").write_text(json.dumps({"multiscales": [image]}))
    assert open_volume(tmp_path / "cell/0").voxel_size == (40, 4.6, 4.6)


def test_multiscales_of_version_05_and_transformations_of_the_image_count(tmp_path: Path) -> None:
    write_zarr3(tmp_path / "cell.zarr/s1/raw", dimension_names=["z", "y", "x"])
    image = {
        "axes": axes("zyx", "micrometer"), "datasets": [scaled("s1/raw", [1, 1, 1], [10, 0, 2])],
        "coordinateTransformations": [
            {"type": "scale", "scale": [0.04, 0.0046, 0.0046]},
            {"type": "translation", "translation": [0.04, 0, 0]},
        ],
    }  # fmt: skip
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", "multiscales": [image]}}}
    (tmp_path / "cell.zarr/zarr.json").write_text(json.dumps(group))
    volume = open_volume(tmp_path / "cell.zarr/s1/raw")
    assert (volume.voxel_size, volume.offset) == ((40, 4.6, 4.6), (440, 0, 9.2))
    assert np.array_equal(volume.read(), VOXELS)


@pytest.mark.parametrize(
    ("unit", "nanometres"),
    [
        ("angstrom", 0.1), ("Å", 0.1), ("picometer", 0.001), ("nm", 1), ("Nanometers", 1), ("µm", 1000), ("μm", 1000),
        ("um", 1000), ("micron", 1000), ("microns", 1000), ("micrometre", 1000), ("mm", 1e6), ("centimeter", 1e7),
        ("meter", 1e9), ("inch", 25.4e6),
    ],
)  # fmt: skip
def test_units_of_length_count(tmp_path: Path, unit: str, nanometres: float) -> None:
    write_zarr(tmp_path / "cell.zarr/0")
    image = {"axes": axes("zyx", unit), "datasets": [scaled("0", [4, 2, 3])]}
    (tmp_path / "cell.zarr/.zattrs").write_text(json.dumps({"multiscales": [image]}))
    assert open_volume(tmp_path / "cell.zarr/0").voxel_size == pytest.approx(
        [4 * nanometres, 2 * nanometres, 3 * nanometres]
    )


@pytest.mark.parametrize("unit", [None, "", "pixel"])
def test_numbers_without_a_unit_are_not_nanometres(tmp_path: Path, unit: str | None, caplog: Any) -> None:
    write_zarr(tmp_path / "cell.zarr/0")
    image = {"axes": axes("zyx", unit), "datasets": [scaled("0", [4, 4, 4])]}
    (tmp_path / "cell.zarr/.zattrs").write_text(json.dumps({"multiscales": [image]}))
    assert open_volume(tmp_path / "cell.zarr/0").voxel_size is None
    assert "without a unit in multiscales of" in caplog.text


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ({"axes": axes("zyx", "furlong"), "datasets": [scaled("0", [1, 1, 1])]}, "unit 'furlong' in multisc"),
        ({"axes": axes("zyx"), "datasets": [scaled("0", [1, 1])]}, "transformation of type scale"),
        ({"axes": axes("zyx"), "datasets": [scaled("0", [0, 1, 1])]}, "it must be positive"),
        (
            {"axes": axes("zyx"), "datasets": [{"path": "0", "coordinateTransformations": [{"type": "rotation"}]}]},
            "type rotation",
        ),
        ({"axes": axes("qyx"), "datasets": [scaled("0", [1, 1, 1])]}, "axes q, y, x in multiscales"),
        ({"axes": axes("czyx"), "datasets": [scaled("0", [1, 1, 1, 1])]}, "has 3 axes, but multiscales of .* names 4"),
    ],
)  # fmt: skip
def test_multiscales_that_are_not_understood_are_refused(tmp_path: Path, image: Any, said: str) -> None:
    write_zarr(tmp_path / "cell.zarr/0")
    (tmp_path / "cell.zarr/.zattrs").write_text(json.dumps({"multiscales": [image]}))
    with pytest.raises(DataError, match=said):
        _ = open_volume(tmp_path / "cell.zarr/0").voxel_size


@pytest.mark.parametrize("order", ["zyx", "xyz", "yxz"])
@pytest.mark.parametrize("key", ["multiscales", "_ARRAY_DIMENSIONS", "dimension_names", "axis_names"])
def test_axis_order_counts(tmp_path: Path, order: str, key: str) -> None:
    sizes = {"z": 40, "y": 5, "x": 4}
    stored = np.ascontiguousarray(VOXELS.transpose(["zyx".index(name) for name in order]))
    lists: dict[str, Any] = {"resolution": [sizes[name] for name in order], "offset": [sizes[name] for name in order]}
    path = tmp_path / "cell.zarr/0"
    if key == "dimension_names":
        write_zarr3(path, stored, dimension_names=list(order), attributes=lists)
    elif key == "multiscales":
        write_zarr(path, stored)
        image = {"axes": axes(order), "datasets": [scaled("0", lists["resolution"], lists["offset"])]}
        (tmp_path / "cell.zarr/.zattrs").write_text(json.dumps({"multiscales": [image]}))
    else:
        write_zarr(path, stored, **{key: list(order)}, **lists)
    volume = open_volume(path)
    assert (volume.voxel_size, volume.roi) == ((40, 5, 4), Roi((1, 1, 1), (2, 3, 4)))
    assert np.array_equal(volume.read(), VOXELS)


@pytest.mark.parametrize("container", ["f.zarr", "f.n5"])
@pytest.mark.parametrize("order", ["zyx", "xyz"])
def test_funlib_persistence_is_read(tmp_path: Path, container: str, order: str) -> None:
    sizes, places = {"z": 40, "y": 5, "x": 4}, {"z": 80, "y": 0, "x": 4}
    stored = VOXELS.transpose(["zyx".index(name) for name in order])
    channels = np.stack([stored, stored + 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, voxels, front in (("raw", stored, []), ("two", channels, ["c^"])):
            place: Any = str(tmp_path / container / name)
            if container == "f.n5":
                zarr.open_group(zarr.N5FSStore(str(tmp_path / container)), mode="a")
                place = zarr.N5FSStore(place)
            prepare_ds(
                place, shape=voxels.shape, offset=Coordinate([places[axis] for axis in order]),
                voxel_size=Coordinate([sizes[axis] for axis in order]), axis_names=[*front, *order], units=["um"] * 3,
                dtype=voxels.dtype, mode="w",
            )[:] = voxels  # fmt: skip
    raw, second = open_volume(tmp_path / container / "raw"), open_volume(tmp_path / container / "two@c=1")
    for volume in (raw, second):
        assert (volume.axes, volume.voxel_size, volume.offset) == ("zyx", (40e3, 5e3, 4e3), (80e3, 0, 4e3))
    assert np.array_equal(raw.read(), VOXELS)
    assert np.array_equal(second.read(), VOXELS + 1)


def test_funlib_without_names_and_units_is_in_our_order_and_of_unknown_size(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare_ds(str(tmp_path / "f.zarr/raw"), shape=(2, 3, 4), dtype="u1", mode="w")[:] = VOXELS
        prepare_ds(
            str(tmp_path / "f.zarr/eights"), shape=(2, 3, 4), voxel_size=Coordinate(8, 8, 8),
            offset=Coordinate(8, 0, 0), dtype="u1", mode="w",
        )[:] = VOXELS  # fmt: skip
    volume = open_volume(tmp_path / "f.zarr/raw")
    assert (volume.axes, volume.voxel_size) == ("zyx", None)
    with pytest.raises(DataError, match=r"offset of \[8, 0, 0\] but no voxel size"):
        _ = open_volume(tmp_path / "f.zarr/eights").roi


@pytest.mark.parametrize("write", [write_zarr, write_n5])
def test_transform_of_openorganelle_is_read_by_its_axes(tmp_path: Path, write: Any) -> None:
    transform = {"axes": ["z", "y", "x"], "scale": [5.24, 4, 3], "translate": [52.4, 0, 3], "units": ["nm"] * 3}
    path = tmp_path / ("a.n5/em/s0" if write is write_n5 else "a.zarr/em/s0")
    write(path, transform=transform, pixelResolution={"dimensions": [3, 4, 5.24], "unit": "nm"})
    volume = open_volume(path)
    assert (volume.voxel_size, volume.offset) == ((5.24, 4, 3), (52.4, 0, 3))


@pytest.mark.parametrize(
    ("group", "level", "array", "voxel_size"),
    [
        ({"resolution": [4, 5, 40]}, "s0", {}, (40, 5, 4)),
        ({"resolution": [4, 5, 40], "units": ["um"] * 3}, "s1", {"downsamplingFactors": [2, 2, 1]}, (40e3, 10e3, 8e3)),
        ({"pixelResolution": PIXEL, "scales": [[1, 1, 1], [4, 2, 1]]}, "s1", {}, (40, 10, 16)),
        ({}, "s1", {"downsamplingFactors": [2, 2, 1], "pixelResolution": PIXEL}, (40, 10, 8)),
        ({"resolution": [4, 5, 40]}, "s2", {}, None),
    ],
)  # fmt: skip
def test_scale_levels_of_an_n5_have_the_size_of_their_group_times_their_factors(
    tmp_path: Path, group: Any, level: str, array: Any, voxel_size: Any
) -> None:
    write_n5(tmp_path / "a.n5/raw" / level, **array)
    (tmp_path / "a.n5/raw/attributes.json").write_text(json.dumps(group))
    assert open_volume(tmp_path / "a.n5/raw" / level).voxel_size == voxel_size


def test_bigdataviewer_keeps_its_unit_elsewhere(tmp_path: Path) -> None:
    write_n5(tmp_path / "a.n5/setup0/timepoint0/s0", downsamplingFactors=[1, 1, 1])
    (tmp_path / "a.n5/setup0/timepoint0/attributes.json").write_text(json.dumps({"resolution": [0.1, 0.1, 0.5]}))
    assert open_volume(tmp_path / "a.n5/setup0/timepoint0/s0").voxel_size is None


def test_sources_that_contradict_each_other_are_reported_or_refused(tmp_path: Path, caplog: Any) -> None:
    write_zarr(tmp_path / "cell.zarr/0", resolution=[5, 5, 5])
    image = {"axes": axes("zyx"), "datasets": [scaled("0", [40, 5, 5])]}
    (tmp_path / "cell.zarr/.zattrs").write_text(json.dumps({"multiscales": [image]}))
    assert open_volume(tmp_path / "cell.zarr/0").voxel_size == (5, 5, 5)
    assert "[5.0, 5.0, 5.0] nm in resolution, but [40.0, 5.0, 5.0] nm in multiscales" in caplog.text
    write_zarr(tmp_path / "cell.zarr/1", _ARRAY_DIMENSIONS=["z", "y", "x"], axis_names=["x", "y", "z"])
    with pytest.raises(DataError, match="axes z, y, x in _ARRAY_DIMENSIONS, but x, y, z in axis_names"):
        open_volume(tmp_path / "cell.zarr/1")


@pytest.mark.parametrize("key", ["resolution", "voxel_size"])
def test_an_offset_that_cannot_be_understood_is_named(tmp_path: Path, key: str) -> None:
    write_zarr(tmp_path / "cell.zarr/0", **{key: [5, 5, 5]}, offset=[1, 2])
    with pytest.raises(DataError, match=r"\[1, 2\] in offset"):
        _ = open_volume(tmp_path / "cell.zarr/0").offset


@pytest.mark.parametrize("resolution", [5, [5, 5], ["5", "5", "5"], [5, 5, None], [0, 5, 5]])
def test_a_resolution_that_cannot_be_understood_is_refused(tmp_path: Path, resolution: Any) -> None:
    write_zarr(tmp_path / "cell.zarr/0", resolution=resolution)
    with pytest.raises(DataError, match="resolution"):
        _ = open_volume(tmp_path / "cell.zarr/0").voxel_size


def test_an_unknown_voxel_size_is_copied_as_unknown(tmp_path: Path) -> None:
    for container, options in (("a.zarr", {}), ("b.zarr", {"format": "zarr3"}), ("a.n5", {})):
        create_volume(tmp_path / container / "raw", shape=(2, 3, 4), dtype="u1", voxel_size=None, **options)
        volume = open_volume(tmp_path / container / "raw", allow_incomplete=True)
        assert (volume.voxel_size, volume.axes) == (None, "zyx")


def test_chunks_nested_without_dimension_separator_are_found(tmp_path: Path, caplog: Any) -> None:
    group = zarr.open_group(str(tmp_path / "c.zarr"), mode="w")
    for name, separator in (("nested", "/"), ("flat", ".")):
        group.create_dataset(name, data=VOXELS, chunks=(2, 2, 2), dimension_separator=separator)
        file = tmp_path / "c.zarr" / name / ".zarray"
        document = json.loads(file.read_text())
        del document["dimension_separator"]
        file.write_text(json.dumps(document))
        assert np.array_equal(open_volume(tmp_path / "c.zarr", name).read(), VOXELS)
    assert "nested has chunk files named as in 0/0" in caplog.text
    assert "flat has chunk" not in caplog.text


def test_an_array_without_any_chunk_is_reported_and_refused_as_raw(tmp_path: Path, caplog: Any) -> None:
    write_zarr(tmp_path / "c.zarr/raw")
    (tmp_path / "c.zarr/raw/0.0.0").unlink()
    (tmp_path / "c.zarr/raw/0.0.0").symlink_to(tmp_path / "nowhere")
    volume = open_volume(tmp_path / "c.zarr/raw")
    assert "raw has no chunk on disk" in caplog.text
    with pytest.raises(DataError, match="has no chunk on disk, so every voxel is the fill value"):
        volume.require_chunks()


def test_links_blanks_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "my cell.zarr/raw data"
    write_zarr(path, resolution=[4, 4, 4])
    (path / "0.0.0").rename(tmp_path / "elsewhere")
    (path / "0.0.0").symlink_to(tmp_path / "elsewhere")
    (path / ".zattrs").write_bytes(b"\xef\xbb\xbf" + (path / ".zattrs").read_bytes())
    (path / ".zarray").write_bytes(b"\xef\xbb\xbf" + (path / ".zarray").read_bytes())
    volume = open_volume(path)
    assert np.array_equal(volume.read(), VOXELS)
    assert volume.voxel_size == (4, 4, 4)


def test_a_zip_is_named_and_two_metadata_in_one_folder_are_reported(tmp_path: Path, caplog: Any) -> None:
    zarr.save(str(tmp_path / "cell.zarr.zip"), VOXELS)
    for place in ("cell.zarr.zip", "cell.zarr.zip/raw"):
        with pytest.raises(DataError, match=r"cell.zarr.zip is a zip archive"):
            open_volume(tmp_path / place)
    write_zarr(tmp_path / "both.zarr")
    (tmp_path / "both.zarr/zarr.json").write_text("{}")
    assert np.array_equal(open_volume(tmp_path / "both.zarr").read(), VOXELS)
    assert "has both .zarray and zarr.json" in caplog.text


@pytest.mark.parametrize("shape", [(0, 3, 4), ()])
def test_arrays_without_voxels_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    zarr.open_array(str(tmp_path / "c.zarr"), mode="w", shape=shape, dtype="u1")
    with pytest.raises(DataError, match=r"has the (shape \[0, 3, 4\]|axes)"):
        open_volume(tmp_path / "c.zarr")


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ({"name": "default", "configuration": {"separator": "/"}}, ("default", ".")),
        ({"name": "default"}, ("v2", ".")),
        ({"name": "v2", "configuration": {"separator": "."}}, ("default", "/")),
    ],
)
def test_chunks_that_are_named_otherwise_than_zarr_json_says(tmp_path, caplog, stated, found):
    voxels = np.arange(1, 217, dtype=np.uint8).reshape(6, 6, 6)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "a.zarr/raw") + "/"}}
    encoding = {"name": found[0], "configuration": {"separator": found[1]}}
    array = tensorstore.open(
        {**spec, "metadata": {"chunk_key_encoding": encoding}},
        create=True,
        dtype="uint8",
        shape=voxels.shape,
        chunk_layout=tensorstore.ChunkLayout(chunk_shape=[3, 3, 3]),
    ).result()
    array.write(voxels).result()
    document = json.loads((tmp_path / "a.zarr/raw/zarr.json").read_text())
    (tmp_path / "a.zarr/raw/zarr.json").write_text(json.dumps({**document, "chunk_key_encoding": stated}))
    volume = open_volume(tmp_path / "a.zarr/raw")
    np.testing.assert_array_equal(volume.read(), voxels)
    assert "it is read as they are named" in caplog.text


def test_an_array_that_only_consolidated_metadata_describe(tmp_path, caplog):
    group = zarr.open_group(str(tmp_path / "c.zarr"), mode="w")
    voxels = np.arange(1, 217, dtype=np.uint8).reshape(6, 6, 6)
    group.create_dataset("volumes/raw", data=voxels, chunks=(3, 3, 3))
    group["volumes/raw"].attrs["resolution"] = [40, 4, 4]
    zarr.consolidate_metadata(str(tmp_path / "c.zarr"))
    for name in (".zarray", ".zattrs"):
        (tmp_path / "c.zarr/volumes/raw" / name).unlink()
    volume = open_volume(tmp_path / "c.zarr/volumes/raw")
    assert "has no .zarray" in caplog.text
    np.testing.assert_array_equal(volume.read(), voxels)
    assert volume.voxel_size == (40, 4, 4)
    with pytest.raises(DataError):
        open_volume(tmp_path / "c.zarr/volumes/raw", writable=True)
