"""Pictures of objects in three dimensions: what is seen, how large, and what hides what."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shapes_on_disk import write_meshes

from incasem_like.commands.cli import answer
from incasem_like.errors import DataError, InputError
from incasem_like.viewing import objects_figure
from incasem_like.viewing.objects_figure import ObjectView, meshes_of_labels
from incasem_like.viewing.sections import label_colours
from incasem_like.volumes import Volume, create_volume, open_volume

SIZE = (40.0, 10.0, 10.0)


@pytest.fixture
def labels(tmp_path: Path) -> Volume:
    """Two boxes: 3 in front (small z) on the left, 9 behind it and larger; and a voxel of 5."""
    array = np.zeros((12, 40, 60), np.uint32)
    array[2:4, 10:30, 10:25] = 3
    array[7:10, 8:32, 8:50] = 9
    array[0, 0, 59] = 5
    volume = create_volume(tmp_path / "cell.zarr", "labels", shape=array.shape, dtype=array.dtype, voxel_size=SIZE)
    volume.write(array)
    volume.mark_complete()
    return open_volume(volume.address)


def shown(view: ObjectView) -> np.ndarray:
    """Return which object each pixel shows, by its hue; 0 for none."""
    pixels = np.asarray(view.image()) / 255
    ids = np.zeros(pixels.shape[:2], int)
    for number in view.meshes:
        colour = label_colours(np.array([number]))[0]
        share = pixels @ colour / (np.linalg.norm(pixels, axis=-1) * np.linalg.norm(colour) + 1e-9)
        ids[share > 0.999] = number
    return ids


def test_along_z_objects_have_their_size_in_nm_and_nearer_ones_hide_farther_ones(labels: Volume) -> None:
    meshes = meshes_of_labels(labels, [3, 9])
    found = shown(ObjectView(meshes, azimuth=0, elevation=0, width=500, scale_bar=0))
    pixel = 420 / (500 * (1 - 2 * objects_figure.MARGIN))  # 42 voxels of 10 nm across
    for number, width, height in ((3, 150, 200), (9, 420, 240)):
        rows, columns = (np.flatnonzero((found == number).any(axis=axis)) for axis in (1, 0))
        assert np.ptp(columns) * pixel == pytest.approx(width, abs=15)
        assert np.ptp(rows) * pixel == pytest.approx(height, abs=15)
    assert (found == 3).sum() * pixel**2 == pytest.approx(150 * 200, rel=0.15)
    assert (found == 9).sum() * pixel**2 == pytest.approx(420 * 240 - 150 * 200, rel=0.15)
    behind = shown(ObjectView(meshes, azimuth=180, elevation=0, width=500, scale_bar=0))
    assert not (behind == 3).any()
    above = shown(ObjectView(meshes, azimuth=0, elevation=90, width=500, scale_bar=0))
    rows = [np.flatnonzero((above == number).any(axis=1)).mean() for number in (3, 9)]
    assert rows[0] > rows[1]  # what is far along z is up


def test_the_scale_bar_is_as_long_as_it_says(labels: Volume) -> None:
    picture = ObjectView(meshes_of_labels(labels, [9]), azimuth=0, elevation=0, width=500, scale_bar=200).image()
    pixel = 420 / (500 * (1 - 2 * objects_figure.MARGIN))
    black = (np.asarray(picture)[-30:] < 60).all(-1).sum(1)
    assert black.max() == pytest.approx(200 / pixel, abs=3)


def test_coarser_labels_look_the_same(labels: Volume) -> None:
    pictures = [
        shown(ObjectView(meshes_of_labels(labels, [3, 9], most_voxels=most), width=200, scale_bar=0))
        for most in (1 << 20, 12 * 20 * 30)
    ]
    rows, columns = np.minimum(*(picture.shape for picture in pictures))
    assert (pictures[0][:rows, :columns] == pictures[1][:rows, :columns]).mean() > 0.9


def test_a_folder_of_meshes_is_drawn(labels: Volume, tmp_path: Path) -> None:
    write_meshes(tmp_path / "meshes" / "precomputed", meshes_of_labels(labels, [3, 9]))
    answer(["figure", str(tmp_path / "meshes"), "-o", str(tmp_path / "a.png"), "--objects", "3,9"])
    answer(["figure", str(labels.address), "-o", str(tmp_path / "b.png"), "--objects", "9,3"])
    meshes, voxels = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("a.png", "b.png"))
    assert meshes.shape == voxels.shape
    assert (abs(meshes - voxels).max(axis=-1) > 20).mean() < 0.01


def test_what_cannot_be_drawn_is_explained(labels: Volume, tmp_path: Path) -> None:
    place = ["figure", str(labels.address), "-o", str(tmp_path / "a.png"), "--objects"]
    with pytest.raises(DataError, match="no object 4"):
        answer([*place, "3,4"])
    for ids in ("3,", "0", "a", ""):
        with pytest.raises(InputError, match="give ids from 1"):
            answer([*place, ids])
    with pytest.raises(InputError, match="is not inside"):
        answer([*place, "3", "--offset", "0", "0", "0", "--shape", "90", "1", "1"])
    with pytest.raises(DataError, match="no object there"):
        answer([*place, "all", "--offset", "5", "0", "0", "--shape", "1", "2", "2"])
    assert not (tmp_path / "a.png").exists()
