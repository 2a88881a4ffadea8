"""Measurements of objects, blockwise, against a voxel-by-voxel definition and closed forms."""

import itertools
import json

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import skimage.measure
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from incasem_like.errors import DataError, InputError
from incasem_like.segmentation import measurements
from incasem_like.segmentation.measurement_run import Measurement, measure_as_run
from incasem_like.segmentation.measurements import DIRECTIONS, count_pairs, pair_areas, read_added_up
from incasem_like.segmentation.result_folder import ResultFolder
from incasem_like.volumes import Roi, create_volume, open_volume

VOXELS = (10.0, 4.0, 5.0)
SHAPE = (11, 12, 13)
BEGIN = (3, 2, 0)


@pytest.fixture
def write(tmp_path):
    numbers = itertools.count()

    def written(array, shape=None, **options):
        name = f"data_{next(numbers)}"
        volume = create_volume(
            tmp_path / "cell.zarr", name, shape=array.shape, dtype=array.dtype, voxel_size=VOXELS, offset=(30, 8, 0),
            chunk_shape=(4, 3, 5), **options,
        )  # fmt: skip
        volume.write(array)
        volume.mark_complete()
        return str(open_volume(tmp_path / "cell.zarr", name).address)

    return written


def cells(seed, shape=SHAPE, count=14):
    """Voronoi cells with gaps between some, and ids of very different size."""
    rng = np.random.default_rng(seed)
    seeds = np.zeros(shape, np.uint64)
    ids = np.concatenate([np.arange(1, count), [2**40 + 1]]).astype(np.uint64)
    seeds[tuple(rng.integers(0, size, count) for size in shape)] = ids
    nearest = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    labels = seeds[tuple(nearest)]
    labels[rng.random(shape) < 0.1] = 0
    return labels


def tables(folder):
    found = {
        name: pyarrow.parquet.read_table(folder / f"{name}.parquet").to_pandas() for name in ("objects", "contacts")
    }
    return found["objects"].set_index("id"), found["contacts"].set_index(["u", "v"])


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(block=st.tuples(*(st.integers(3, size + 2) for size in SHAPE)), seed=st.integers(0, 99))
def test_a_measurement_by_any_blocks_is_that_of_each_voxel(write, tmp_path_factory, monkeypatch, block, seed):
    monkeypatch.setattr(measurements, "ROWS_AT_ONCE", 1)
    labels = cells(seed)
    rng = np.random.default_rng(seed)
    grey = rng.integers(0, 60_000, SHAPE).astype(np.uint16)
    probability = rng.random(SHAPE).astype(np.float32)
    folder = tmp_path_factory.mktemp("tables") / "out"
    request = Measurement(
        segmentation=write(labels), output=str(folder), intensity=write(grey), probability=write(probability),
        block_shape=block,
    )  # fmt: skip
    result = measure_as_run(request, store=None)
    objects, contacts = tables(folder)
    assert objects.index.is_monotonic_increasing
    assert set(objects.index) == set(np.unique(labels[labels > 0]).tolist())
    assert result["objects"] == len(objects)
    areas = dict(zip(DIRECTIONS, pair_areas(VOXELS), strict=True))
    padded = np.pad(labels, 1)
    surface, touching, faces = {}, {}, {}
    for voxel in np.ndindex(*padded.shape):
        for step in DIRECTIONS:
            other = tuple(np.add(voxel, step))
            if any(not 0 <= index < size for index, size in zip(other, padded.shape, strict=True)):
                continue
            pair = tuple(sorted((int(padded[voxel]), int(padded[other]))))
            if pair[0] == pair[1]:
                continue
            for one in pair:
                surface[one] = surface.get(one, 0) + areas[step]
            touching[pair] = touching.get(pair, 0) + areas[step]
            faces[pair] = faces.get(pair, 0) + (sum(map(abs, step)) == 1)
    for number, row in objects.iterrows():
        inside = labels == number
        positions = np.argwhere(inside) + BEGIN
        assert row["size"] == inside.sum()
        assert row["volume_nm3"] == pytest.approx(inside.sum() * 200)
        np.testing.assert_allclose(row[["z", "y", "x"]].astype(float), (positions.mean(0) + 0.5) * VOXELS)
        assert row[["z_begin", "y_begin", "x_begin"]].tolist() == positions.min(0).tolist()
        assert row[["z_end", "y_end", "x_end"]].tolist() == (positions.max(0) + 1).tolist()
        assert row["at_border"] == (inside.sum() > inside[1:-1, 1:-1, 1:-1].sum())
        assert row["surface_nm2"] == pytest.approx(surface[number])
        assert row["mean_intensity"] == pytest.approx(grey[inside].mean())
        assert row["mean_probability"] == pytest.approx(probability[inside].mean(dtype=np.float64), abs=1e-7)
    expected = {pair for pair, count in faces.items() if count and pair[0]}
    assert set(contacts.index) == expected
    for pair in expected:
        assert contacts.loc[pair, "faces"] == faces[pair]
        assert contacts.loc[pair, "area_nm2"] == pytest.approx(touching[pair])


def test_every_number_is_the_same_for_different_blocks(write, tmp_path):
    labels, probability = cells(3), np.random.default_rng(3).random(SHAPE).astype(np.float32)
    names = {"segmentation": write(labels), "probability": write(probability)}
    found = []
    for number, block in enumerate((SHAPE, (4, 3, 5), (8, 12, 5))):
        measure_as_run(Measurement(**names, output=str(tmp_path / str(number)), block_shape=block), store=None)
        found.append([(tmp_path / str(number) / f"{name}.csv").read_bytes() for name in ("objects", "contacts")])
    assert found[0] == found[1] == found[2]
    assert found[0][0].count(b"\n") == len(np.unique(labels))


@pytest.mark.parametrize("voxel_size", [(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (3.0, 2.0, 2.0)])
def test_the_surface_of_a_ball_is_4_pi_r_squared(voxel_size):
    radius = 15 * max(voxel_size)
    axes = np.ogrid[tuple(slice(-int(radius / nm) - 2, int(radius / nm) + 3) for nm in voxel_size)]
    ball = sum((axis * nm) ** 2 for axis, nm in zip(axes, voxel_size, strict=True)) <= radius**2
    roi = Roi((0, 0, 0), ball.shape)
    _, _, pairs = count_pairs(np.pad(ball.astype(np.uint8), 1), roi, roi)
    assert pairs @ pair_areas(voxel_size) == pytest.approx([4 * np.pi * radius**2], rel=0.015)


def test_sizes_and_boxes_are_those_of_scikit_image(write, tmp_path):
    labels = cells(5).astype(np.uint32)
    labels[labels > 0] %= 1000
    measure_as_run(Measurement(segmentation=write(labels), output=str(tmp_path / "out")), store=None)
    objects, _ = tables(tmp_path / "out")
    regions = skimage.measure.regionprops(labels.astype(int))
    assert len(objects) == len(regions)
    for region in regions:
        row = objects.loc[region.label]
        assert row["size"] == region.area
        assert (row[["z_begin", "y_begin", "x_begin"]].to_numpy(int) - BEGIN).tolist() == list(region.bbox[:3])


def test_partial_tables_are_read_in_parts_of_bounded_size(write, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "objects"
    whole = {}
    for block in range(5):
        ids = np.unique(rng.integers(0, 2**62, 3000) >> rng.integers(0, 60, 3000)).astype(np.uint64)
        sizes = rng.integers(1, 100, len(ids))
        measurements._write(folder / f"{block}.parquet", {"id": ids, "size": sizes, "z_first": sizes})
        for one, size in zip(ids.tolist(), sizes.tolist(), strict=True):
            total, first = whole.get(one, (0, 10**6))
            whole[one] = (total + size, min(first, size))
    parts = list(read_added_up(folder, ("id",), rows_at_once=1000))
    assert len(parts) > 5
    assert max(len(part["id"]) for part in parts) < 3000
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert rows["id"].tolist() == sorted(whole)
    assert list(zip(rows["size"].tolist(), rows["z_first"].tolist(), strict=True)) == [
        whole[one] for one in sorted(whole)
    ]


def test_a_volume_without_objects_has_empty_tables_with_columns(write, tmp_path):
    result = measure_as_run(
        Measurement(segmentation=write(np.zeros((4, 4, 4), np.uint8)), output=str(tmp_path / "out")), store=None
    )
    assert (result["objects"], result["contacts"]) == (0, 0)
    assert pyarrow.csv.read_csv(tmp_path / "out" / "objects.csv").column_names[:3] == ["id", "size", "volume_nm3"]


def test_tables_are_not_made_twice_and_not_replaced_unasked(write, tmp_path):
    labels = write(cells(1))
    request = Measurement(segmentation=labels, output=str(tmp_path / "out"))
    assert "objects" in measure_as_run(request, store=None)
    assert measure_as_run(request, store=None) == {"folder": str(tmp_path / "out")}
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["inputs"][0]["address"] == labels
    other = Measurement(segmentation=write(cells(2)), output=str(tmp_path / "out"))
    with pytest.raises(InputError, match="add --overwrite to replace it"):
        measure_as_run(other, store=None)
    assert "objects" in measure_as_run(other, store=None, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    one, two = (ResultFolder(tmp_path / "both", "measure", {"surfaces": surfaces}) for surfaces in (True, False))
    with one.fill(None):
        pass
    finished = one.path.rename(tmp_path / "finished")
    with pytest.raises(InputError, match="add --overwrite to replace it"), two.fill(None):
        finished.rename(one.path)  # by another job, which ends first
    assert one.is_finished()
    with one.making(), pytest.raises(InputError, match="Another process is writing"), one.making():
        pass
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="holds no result of this script"):
        measure_as_run(Measurement(segmentation=labels, output=str(tmp_path / "mine")), store=None, overwrite=True)


def test_volumes_that_do_not_fit_are_refused(write, tmp_path):
    labels = write(cells(1))
    small = write(np.zeros((4, 12, 13), np.uint8))
    with pytest.raises(DataError, match="leave out --intensity"):
        measure_as_run(Measurement(segmentation=labels, output=str(tmp_path / "out"), intensity=small), store=None)
    with pytest.raises(DataError, match="labels and masks are integers"):
        measure_as_run(
            Measurement(segmentation=write(np.zeros(SHAPE, np.float32)), output=str(tmp_path / "out")), store=None
        )
    with pytest.raises(InputError, match="is inside of"):
        measure_as_run(Measurement(segmentation=labels, output=str(tmp_path / "cell.zarr/out")), store=None)
    negative = write(cells(1).astype(np.int32) - 5)
    with pytest.raises(DataError, match="holds the label -"):  # seen only when blocks are read
        measure_as_run(Measurement(segmentation=negative, output=str(tmp_path / "out")), store=None)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]  # nor parts of blocks, which are hidden
