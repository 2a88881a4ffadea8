"""Every kind of layer is on the screen of a browser, in its place; nothing is asked of other machines."""

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shapes_on_disk import write_meshes, write_skeletons

from incasem_like.errors import InputError
from incasem_like.graphs.parquet import ParquetGraph
from incasem_like.viewing.layers import Layer, Meaning
from incasem_like.viewing.objects import find_objects
from incasem_like.viewing.scene import Scene
from incasem_like.viewing.screenshot import settled_picture, start_browser
from incasem_like.viewing.served import ServedVolume
from incasem_like.viewing.server import serving
from incasem_like.volumes import NanometreRoi, create_volume, open_volume

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SIZE = (4, 64, 64)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        started = start_browser((700, 700))
    except InputError as missing:
        pytest.skip(str(missing))
    yield started
    started.quit()


def layer(path: Path, name: str, array: np.ndarray, meaning: Meaning, **options: Any) -> Layer:
    axes = "czyx" if array.ndim == 4 else "zyx"
    options = {"voxel_size": (8, 4, 4), "axes": axes, **options}
    volume = create_volume(path, name, shape=array.shape, dtype=array.dtype, **options)
    volume.write(array)
    volume.mark_complete()
    return Layer(name, ServedVolume([open_volume(path, name)]), meaning)


def drawn(
    browser: Any, scene: Scene, until: Callable[[np.ndarray], bool] = lambda pixels: True
) -> tuple[np.ndarray, list[str], list[str]]:
    """Show a scene; return the pixels (y, x, rgb), errors of the console, and addresses of other machines.

    ``until`` waits for views of a grid that are not there yet, which a viewer does not report as missing.
    """
    with serving(scene) as link:
        browser.get(link)
        for _ in range(10):
            pixels = np.asarray(Image.open(BytesIO(settled_picture(browser))).convert("RGB"))
            if until(pixels):
                break
        errors = [
            entry["message"]
            for entry in browser.get_log("browser")
            # neuroglancer looks for an array first, then for a group; and a page has no icon
            if entry["level"] == "SEVERE" and ".zarray - Failed" not in entry["message"]
            and "favicon" not in entry["message"]
        ]  # fmt: skip
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        browser.get("about:blank")
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return pixels, errors, [url for url in urls if not url.startswith((link[:20], "data:", "blob:", "about:"))]


def share(pixels: np.ndarray, test: Any) -> float:
    """Return which part of the pixels passes a test of red, green and blue."""
    red, green, blue = (pixels[..., channel].astype(int) for channel in range(3))
    return float(np.mean(test(red, green, blue)))


def test_raw_is_grey_as_stored(browser: Any, tmp_path: Path) -> None:
    raw = layer(tmp_path / "a.zarr", "raw", np.full(SIZE, 200, np.uint8), "raw")
    pixels, errors, foreign = drawn(browser, Scene([raw], plane="xy"))
    assert share(pixels, lambda r, g, b: (abs(r - 200) <= 2) & (r == g) & (g == b)) > 0.5
    assert (errors, foreign) == ([], [])


def test_labels_are_coloured_where_they_are(browser: Any, tmp_path: Path) -> None:
    raw = layer(tmp_path / "a.zarr", "raw", np.full(SIZE, 128, np.uint8), "raw")
    ids = np.full((4, 32, 64), 7, np.uint64)
    labels = layer(tmp_path / "a.zarr", "labels", ids, "labels", offset=(0, 128, 0))  # the lower half
    pixels, errors, _ = drawn(browser, Scene([raw, labels], plane="xy"))
    coloured = np.ptp(pixels.astype(int), axis=-1) > 30
    rows = np.flatnonzero(coloured.mean(axis=1) > 0.5)
    grey = np.flatnonzero((abs(pixels.astype(int) - 128) <= 2).all(axis=-1).mean(axis=1) > 0.5)
    assert len(rows) > 150
    assert len(grey) > 150
    assert grey.max() <= rows.min() + 2  # the border runs where the labels begin
    assert errors == []


def test_channels_are_red_green_and_blue(browser: Any, tmp_path: Path) -> None:
    affinities = np.stack([np.full(SIZE, value, np.float32) for value in (1.0, 0.5, 0.0)])
    shown = layer(tmp_path / "a.zarr", "affs", affinities, "channels", attributes={"scale": 1})
    pixels, errors, _ = drawn(browser, Scene([shown], plane="xy"))
    # an overlay: 60 % of the colour over black or grey
    assert share(pixels, lambda r, g, b: (r - g > 40) & (g - b > 40)) > 0.5
    assert errors == []


@pytest.mark.parametrize("meaning", ["probabilities", "error"])
def test_maps_cover_raw_where_they_are_high(browser: Any, tmp_path: Path, meaning: Meaning) -> None:
    raw = layer(tmp_path / "a.zarr", "raw", np.full(SIZE, 128, np.uint8), "raw")
    values = np.zeros(SIZE, np.uint8)
    values[:, :32] = 200
    shown = layer(tmp_path / "a.zarr", "map", values, meaning, attributes={"scale": 255})
    pixels, errors, _ = drawn(browser, Scene([raw, shown], plane="xy"))
    assert 0.25 < share(pixels, lambda r, g, b: (abs(r - 128) <= 2) & (r == g) & (g == b)) < 0.6
    assert share(pixels, lambda r, g, b: r - b > 15) > 0.25
    assert errors == []


def test_boxes_and_a_grid_are_drawn(browser: Any, tmp_path: Path) -> None:
    raw = layer(tmp_path / "a.zarr", "raw", np.full(SIZE, 100, np.uint8), "raw")
    other = layer(tmp_path / "a.zarr", "other", np.full(SIZE, 250, np.uint8), "raw")
    boxes = {"regions": {"one": NanometreRoi((0, 40, 40), (32, 150, 150))}}

    def grey(pixels: np.ndarray) -> bool:
        return share(pixels, lambda r, g, b: (abs(r - 100) <= 2) & (r == g)) > 0.15

    scene = Scene([raw, other], boxes=boxes, grid=[[[0], [1]]], plane="xy")
    pixels, errors, _ = drawn(browser, scene, grey)
    middle = pixels.shape[1] // 2
    left, right = pixels[:, :middle], pixels[:, middle:]
    assert share(left, lambda r, g, b: (abs(r - 100) <= 2) & (r == g)) > 0.3
    assert share(right, lambda r, g, b: (abs(r - 250) <= 2) & (r == g)) > 0.3
    # the colour of the boxes, #cc6677, on both
    for half in (left, right):
        assert share(half, lambda r, g, b: (abs(r - 204) < 8) & (abs(g - 102) < 8) & (abs(b - 119) < 8)) > 0.001
    assert errors == []


def coloured(pixels: np.ndarray) -> float:
    """Return which part of the view, without its bars at the top, has a colour."""
    return float(np.mean(np.ptp(pixels[80:].astype(int), axis=-1) > 60))


def test_meshes_are_drawn_in_three_dimensions(browser: Any, tmp_path: Path) -> None:
    corners = [[0, 0, 0], [0, 0, 400], [0, 400, 0], [0, 400, 400]]
    write_meshes(tmp_path, {7: (corners, [[0, 1, 2], [1, 3, 2], [2, 1, 0], [2, 3, 1]])})
    pixels, errors, foreign = drawn(browser, Scene([], objects=find_objects(tmp_path), plane="3d"))
    assert coloured(pixels) > 0.1
    assert (errors, foreign) == ([], [])


@pytest.mark.parametrize("form", ["precomputed", "swc"])
def test_skeletons_are_drawn_in_three_dimensions(browser: Any, tmp_path: Path, form: str) -> None:
    nodes = np.array([[0, 0, at] for at in range(0, 500, 20)] + [[0, at, 240] for at in range(20, 500, 20)], float)
    edges = np.array(
        [[number, number + 1] for number in range(24)] + [[number, number + 1] for number in range(25, 48)]
    )
    write_skeletons(tmp_path, {3: (nodes, edges)}, swc=form == "swc")
    pixels, errors, foreign = drawn(browser, Scene([], objects=find_objects(tmp_path), plane="3d"))
    assert 0.0005 < coloured(pixels) < 0.1  # thin lines
    assert (errors, foreign) == ([], [])


def test_edges_of_a_graph_are_blue_to_red_by_their_score(browser: Any, tmp_path: Path) -> None:
    raw = layer(tmp_path / "a.zarr", "seg/raw", np.full(SIZE, 100, np.uint8), "raw")
    graph = ParquetGraph(tmp_path / "a.zarr" / "seg" / "graph")
    y, x = np.array([60, 60, 190, 190.0]), np.array([40, 210, 40, 210.0])
    graph.write_nodes(0, {"id": np.arange(4).astype(np.uint64), "z": np.full(4, 16.0), "y": y, "x": x})
    ends = {"u": np.array([0, 2], np.uint64), "v": np.array([1, 3], np.uint64)}
    graph.write_edges(0, {**ends, "score": np.array([0.0, 1.0])})

    def found(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        red, green, blue = (pixels[80:, :, channel].astype(int) for channel in range(3))
        high = (red > 180) & (green > 50) & (green < 130) & (blue < 90)  # the axes are pure red and green
        return np.argwhere(high), np.argwhere((blue > 180) & (red < 110) & (green < 160))

    scene = Scene([raw], objects=find_objects(graph.folder), plane="xy")
    pixels, errors, foreign = drawn(browser, scene)
    assert (errors, foreign) == ([], [])
    high, low = found(pixels)
    assert min(len(high), len(low)) > 150
    assert low[:, 0].mean() + 100 < high[:, 0].mean()  # the line of the low score is above


def test_places_to_paint_are_boxes_in_their_section(browser: Any, tmp_path: Path) -> None:
    raw = layer(tmp_path / "a.zarr", "raw", np.full(SIZE, 100, np.uint8), "raw")
    places = {"place 1": NanometreRoi((8, 80, 80), (16, 80, 80))}
    pixels, errors, _ = drawn(browser, Scene([raw], places=places, plane="xy"))
    assert share(pixels, lambda r, g, b: (abs(r - 204) < 8) & (abs(g - 102) < 8) & (abs(b - 119) < 8)) > 0.001
    assert errors == []
