"""Layers for napari and the painting round trip, without a window where napari is installed."""

import sys

import numpy as np
import pytest
import tifffile

from incasem_like.bootstrapping.painting import Painting
from incasem_like.bootstrapping.places import CROPS, PaintedCrop, painted_crops, write_places
from incasem_like.bootstrapping.places import Place as PlaceToPaint
from incasem_like.commands.cli import answer
from incasem_like.commands.data_configs import Datasets, suggest_entry
from incasem_like.commands.painting import layers_of_crop, make_crop, place_of_round
from incasem_like.errors import DataError, InputError
from incasem_like.volumes import Coordinate, Roi, create_volume, open_volume

SIZE, BEGIN = (40.0, 8.0, 8.0), (4, 10, 20)


@pytest.fixture
def cell(tmp_path):
    """A container with raw, a prediction on coarser voxels, and affinities."""
    rng = np.random.default_rng(0)
    arrays = {
        "volumes/raw": (rng.integers(0, 255, (6, 40, 50), np.uint8), SIZE, "zyx"),
        "volumes/prob": (rng.random((6, 20, 25), np.float32), (40.0, 16.0, 16.0), "zyx"),
        "volumes/affinities": (rng.random((4, 6, 40, 50), np.float32), SIZE, "czyx"),
    }
    for name, (array, size, axes) in arrays.items():
        offset = tuple(at * nm for at, nm in zip(BEGIN, SIZE, strict=True))
        volume = create_volume(
            tmp_path / "cell.zarr",
            name,
            shape=array.shape,
            dtype=array.dtype,
            voxel_size=size,
            offset=offset,
            axes=axes,
        )
        volume.write(array)
        volume.mark_complete()
    return tmp_path / "cell.zarr"


def new_crop(cell):
    crop = f"{cell}/crops/a"
    make_crop(crop, f"{cell}/volumes/raw", (6, 15, 22), (2, 9, 10), (1, 0, 100))
    return crop


def test_layers_of_a_crop_lie_where_their_voxels_are_in_nm(cell):
    over = [f"{cell}/volumes/prob", f"{cell}/volumes/affinities"]
    _, layers = layers_of_crop(new_crop(cell), over)
    by_name = {attributes["name"]: (array, attributes, kind) for array, attributes, kind in layers}
    assert [attributes["name"] for _, attributes, _ in layers] == [
        "raw", "mask", "prob", *(f"affinities {n}" for n in range(4)), "labels",
    ]  # fmt: skip
    raw = open_volume(cell, "volumes/raw").read()
    around = Roi((5, 15, 20), (4, 9, 50))
    np.testing.assert_array_equal(by_name["raw"][0], raw[(around - Coordinate(BEGIN)).to_slices()])
    for name, nm, kind in (("raw", SIZE, "image"), ("prob", (40.0, 16.0, 16.0), "image"), ("labels", SIZE, "labels")):
        array, attributes, found = by_name[name]
        assert (attributes["scale"], found) == (nm, kind)
        first = np.subtract(attributes["translate"], np.divide(nm, 2))  # the corner of the first voxel
        begin = (6, 15, 22) if name == "labels" else around.begin
        assert (first <= np.multiply(begin, SIZE)).all()
        assert (np.multiply(begin, SIZE) - first < nm).all()
        end = first + np.multiply(array.shape, nm)
        wanted = np.multiply((8, 24, 32) if name == "labels" else around.end, SIZE)
        assert (end >= wanted).all()
        assert (end - wanted < nm).all()
    assert by_name["labels"][0].dtype == np.uint32
    assert [by_name[f"affinities {n}"][1]["visible"] for n in range(4)] == [True, True, True, False]


def test_a_painted_crop_is_found_by_rounds_and_data_configurations(cell):
    crop, _ = layers_of_crop(new_crop(cell), [])
    labels = np.zeros((2, 9, 10), np.uint32)
    labels[1, 2:5, 3:6], labels[0, 8, 9] = 7, 2
    assert crop.save(labels) == 10
    assert crop.save(labels) == 0
    found = open_volume(cell, "crops/a/labels")
    np.testing.assert_array_equal(found.read(), labels)
    np.testing.assert_array_equal(open_volume(cell, "crops/a/mask").read(), labels > 0)
    assert Painting(open_volume(cell, "volumes/raw"), (found,)).check() == Roi((6, 17, 25), (2, 7, 7))
    names = {name: f"crops/a/{name}" for name in ("raw", "mask")}
    entry = suggest_entry(cell, Datasets(labels=["crops/a/labels"], **names), 0)
    assert entry.roi == Roi((6, 15, 22), (2, 9, 10))
    crop.save(np.where(labels == 7, 0, labels))
    assert open_volume(cell, "crops/a/mask").read().sum() == 1
    new_crop(cell)  # again: what was painted stays
    assert open_volume(cell, "crops/a/labels").read().sum() == 2


def test_a_place_of_a_round_is_painted_in_its_tiff_and_its_crop(cell, tmp_path):
    raw = open_volume(cell, "volumes/raw")
    folder = tmp_path / "places"
    write_places(folder, [PlaceToPaint(1, 6, 15, 22, 9, 10, 0.5)], raw, raw, 1)
    in_tiff = np.zeros((1, 9, 10), np.uint16)
    in_tiff[0, 2, 3] = 5
    tifffile.imwrite(folder / "place_01_labels.tif", in_tiff)
    crop, layers = layers_of_crop(f"{folder / CROPS}/place_01", [])
    assert {attributes["name"] for _, attributes, _ in layers} == {"raw", "labels", "segmentation"}
    labels = layers[-1][0]
    np.testing.assert_array_equal(labels, in_tiff)  # begun in another program
    labels[0, 4:6, 4:6] = 70_000
    crop.save(labels)
    (painted,) = painted_crops(folder)
    np.testing.assert_array_equal(painted.read(), labels)
    np.testing.assert_array_equal(tifffile.imread(folder / "place_01_labels.tif").reshape(labels.shape), labels)


def test_a_group_that_cannot_be_painted_is_refused(cell, tmp_path):
    with pytest.raises(InputError, match="no dataset 'labels'"):
        layers_of_crop(f"{cell}/volumes", [])
    with pytest.raises(InputError, match="all three"):
        answer(["paint", f"{cell}/crops/b", "--raw", f"{cell}/volumes/raw"])
    with pytest.raises(InputError, match="not a group"):
        make_crop(str(tmp_path / "other.zarr"), f"{cell}/volumes/raw", (6, 15, 22), (2, 9, 10), (0, 0, 0))
    with pytest.raises(DataError, match="does not contain"):
        make_crop(f"{cell}/crops/b", f"{cell}/volumes/raw", (6, 15, 22), (2, 9, 100), (0, 0, 0))
    assert not (cell / "crops/b").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, where a window needs a display")
def test_without_a_display_no_crop_is_made(cell, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    place = ["--offset", "6", "15", "22", "--shape", "2", "9", "10"]
    with pytest.raises(InputError, match="needs a display"):
        answer(["paint", f"{cell}/crops/b", "--raw", f"{cell}/volumes/raw", *place])
    assert not (cell / "crops/b").exists()


def test_napari_shows_the_layers_and_saves_what_is_painted(cell):
    needs = "needs napari: pip install 'incasem-like[napari]'"
    components = pytest.importorskip("napari.components", reason=needs)
    window = pytest.importorskip("incasem_like.viewing.napari_window", reason=needs, exc_type=ImportError)
    crop, layers = layers_of_crop(new_crop(cell), [f"{cell}/volumes/prob", f"{cell}/volumes/affinities"])
    viewer, saved = components.ViewerModel(), []
    painted = window.fill_viewer(viewer, layers, lambda labels: saved.append(crop.save(labels)))
    assert viewer.layers.selection.active is painted
    assert painted.mode == "paint"
    low, high = painted.extent.world  # centres of the first and last voxels, or their edges, by napari's version
    centre = np.multiply((6, 15, 22), SIZE) + np.multiply((2, 9, 10), SIZE) / 2
    np.testing.assert_allclose((low + high) / 2, centre)
    position = np.multiply((7, 16, 24), SIZE) + np.divide(SIZE, 2)  # in nm: the centre of an absolute voxel
    painted.brush_size = 1
    painted.paint(np.round(painted.world_to_data(position)), 3)
    (key,) = [key for key in viewer.keymap if str(key) in ("Ctrl+S", "Control-S")]
    viewer.keymap[key](viewer)
    assert saved == [1]
    assert open_volume(cell, "crops/a/labels").read(Roi((7, 16, 24), (1, 1, 1))).item() == 3
    assert PaintedCrop(str(cell), "crops/a").labels().read().sum() == 3


def test_closing_the_window_saves(cell, monkeypatch, capsys):
    napari = pytest.importorskip("napari", reason="needs napari: pip install 'incasem-like[napari]'")
    from napari.components import ViewerModel

    viewers = []
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")  # there is no window, and no Qt is started
    monkeypatch.setattr(napari, "Viewer", lambda **options: viewers.append(ViewerModel(**options)) or viewers[-1])
    monkeypatch.setattr(napari, "run", lambda: viewers[-1].layers["labels"].fill((0, 1, 1), 4))
    place = ["--offset", "6", "15", "22", "--shape", "2", "9", "10"]
    answer(["paint", f"{cell}/crops/a", "--raw", f"{cell}/volumes/raw", *place])
    assert "Saved 90 changed voxels" in capsys.readouterr().out
    assert (open_volume(cell, "crops/a/labels").read() == [[[4]], [[0]]]).all()


def test_a_round_names_its_places(tmp_path):
    (tmp_path / "crops.zarr/place_02").mkdir(parents=True)
    assert place_of_round({"places": str(tmp_path)}, "bootstrapping/3", 2).endswith("crops.zarr/place_02")
    with pytest.raises(InputError, match="no place 3"):
        place_of_round({"places": str(tmp_path)}, "bootstrapping/3", 3)
    with pytest.raises(InputError, match="no places to paint"):
        place_of_round({"places": None}, "bootstrapping/3", 1)
