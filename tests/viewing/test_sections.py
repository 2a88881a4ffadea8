"""Pictures and movies of sections: what is where, and how long the scale bar is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from incasem_like.commands.cli import answer
from incasem_like.errors import InputError
from incasem_like.viewing.opening import open_layer
from incasem_like.viewing.sections import SectionView, label_colours
from incasem_like.volumes import Roi, create_volume, parse_address

SIZE = (40.0, 8.0, 8.0)


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """Return a container with a black raw volume, and labels and probabilities of a part of it, on coarser voxels."""
    path = tmp_path / "cell.zarr"
    raw = np.zeros((4, 32, 64), np.uint8)
    raw[1] = 255
    _write(path, "raw", raw, SIZE)
    labels = np.zeros((4, 16, 16), np.uint32)
    labels[:, :, 8:] = 7
    _write(path, "labels", labels, (40.0, 16.0, 16.0), offset=(0.0, 0.0, 256.0))  # the right half, in larger voxels
    return path


def _write(
    path: Path, name: str, array: np.ndarray, voxel_size: tuple[float, ...], offset: tuple[float, ...] = (0, 0, 0)
) -> None:
    volume = create_volume(path, name, shape=array.shape, dtype=array.dtype, voxel_size=voxel_size, offset=offset)
    volume.write(array)
    volume.mark_complete()


def view(path: Path, *names: str, **options: object) -> SectionView:
    layers = [open_layer(parse_address(path, name)) for name in names]
    return SectionView(layers, scale_bar=options.pop("scale_bar", 0), **options)  # type: ignore[arg-type]


def test_a_section_shows_the_values_of_that_section(container: Path) -> None:
    pictures = [np.asarray(view(container, "raw", width=64).image(z)) for z in range(4)]
    assert [picture.shape for picture in pictures] == [(32, 64, 3)] * 4
    assert [int(picture.max()) for picture in pictures] == [0, 255, 0, 0]


def test_sections_along_y_have_square_nanometres(container: Path) -> None:
    picture = np.asarray(view(container, "raw", axis=1, width=128).image(3))
    assert picture.shape == (40, 128, 3)  # 160 nm x 512 nm
    np.testing.assert_array_equal(picture[:, 0, 0], np.repeat([0, 255, 0, 0], 10))


def test_labels_lie_where_they_are_in_nanometres(container: Path) -> None:
    picture = np.asarray(view(container, "raw", "labels", width=64, opacity=1).image(0)) / 255
    np.testing.assert_array_equal(picture[:, :48], 0)  # outside of the labels, and their background
    np.testing.assert_allclose(
        picture[:, 48:], np.broadcast_to(label_colours(np.array([7]))[0], (32, 16, 3)), atol=0.01
    )


def test_an_id_has_one_colour_and_most_ids_differ() -> None:
    colours = label_colours(np.arange(1, 1001))
    np.testing.assert_array_equal(colours[41], label_colours(np.uint64([[42]]))[0, 0])
    _, counts = np.unique(colours, axis=0, return_counts=True)
    assert len(counts) == 27
    assert counts.max() < 3 * 1000 / 27


def test_the_scale_bar_is_as_long_as_it_says(container: Path) -> None:
    picture = np.asarray(view(container, "raw", width=640, scale_bar=100).image(0))  # 0.8 nm a pixel
    rows = (picture == 255).all(-1).sum(1)
    assert rows.max() in range(122, 126)  # 125, less the outline


def test_a_part_is_shown_from_its_first_voxel_on(container: Path) -> None:
    picture = np.asarray(view(container, "labels", roi=Roi((0, 0, 20), (4, 16, 8)), width=160, opacity=1).image(2))
    assert picture[:, :39].max() == 0
    assert picture[:, 41:].min() > 0


def test_panels_lie_beside_each_other(container: Path) -> None:
    assert view(container, "raw", "labels", beside=True, width=64).image(0).size == (2 * 64 + 4, 32 + 22)


def test_a_gif_has_a_frame_for_each_section(container: Path, tmp_path: Path) -> None:
    target = tmp_path / "new/cell.gif"
    assert answer(["figure", f"{container}/raw", "-o", str(target), "--width", "64", "--scale_bar", "0"]) == 0
    with Image.open(target) as movie:
        found = []
        for frame in range(movie.n_frames):  # type: ignore[attr-defined]
            movie.seek(frame)
            found.append(int(np.asarray(movie.convert("L")).max()))
    # Equal frames are joined by the format, and shown longer.
    assert found == [0, 255, 0]


def test_an_mp4_has_a_frame_for_each_chosen_section(container: Path, tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="needs the extra 'movies'")
    target = tmp_path / "cell.mp4"
    assert (
        answer(["figure", f"{container}/raw", "-o", str(target), "--first", "1", "--step", "2", "--width", "64"]) == 0
    )
    reader = imageio_ffmpeg.read_frames(str(target))
    assert next(reader)["size"] == (64, 32)
    assert [int(np.frombuffer(frame, np.uint8).mean()) > 200 for frame in reader] == [True, False]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "a.bmp"], "a.bmp has an unknown suffix"),
        (["-o", "a.png", "--section", "4"], "Section 4 does not exist: choose from 0 to 3"),
        (["-o", "a.png", "--first", "1"], "--first and --last are for movies"),
        (["-o", "a.gif", "--section", "1"], "--section is for pictures"),
        (["-o", "a.gif", "--first", "3", "--last", "1"], "There are no sections from 3 to 1"),
        (["-o", "a.png", "--offset", "0", "0", "0"], "--offset and --shape belong together"),
        (["-o", "a.png", "--offset", "0", "0", "0", "--shape", "9", "9", "9"], "choose a part of it"),
        (["-o", "a.png", "--scale_bar", "1000"], "A scale bar of 1000 nm is longer than the picture, 512 nm"),
    ],
)
def test_bad_requests_are_one_sentence_and_leave_nothing(
    container: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        answer(["figure", f"{container}/raw", *options])
    assert [path.name for path in tmp_path.iterdir()] == ["cell.zarr"]
