"""Every kind of layer is on the screen of a browser, in its place; nothing is asked of other machines."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from incasem_like.errors import InputError
from incasem_like.viewing.layers import Layer, Meaning
from incasem_like.viewing.scene import Scene
from incasem_like.viewing.screenshot import start_browser, wait_until_drawn
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


def drawn(browser: Any, scene: Scene) -> tuple[np.ndarray, list[str], list[str]]:
    """Show a scene; return the pixels (y, x, rgb), errors of the console, and addresses of other machines."""
    with serving(scene) as link:
        browser.get(link)
        wait_until_drawn(browser)
        pixels = np.asarray(Image.open(BytesIO(browser.get_screenshot_as_png())).convert("RGB"))
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
    pixels, errors, _ = drawn(browser, Scene([raw, other], boxes=boxes, grid=[[[0], [1]]], plane="xy"))
    middle = pixels.shape[1] // 2
    left, right = pixels[:, :middle], pixels[:, middle:]
    assert share(left, lambda r, g, b: (abs(r - 100) <= 2) & (r == g)) > 0.3
    assert share(right, lambda r, g, b: (abs(r - 250) <= 2) & (r == g)) > 0.3
    # the colour of the boxes, #cc6677, on both
    for half in (left, right):
        assert share(half, lambda r, g, b: (abs(r - 204) < 8) & (abs(g - 102) < 8) & (abs(b - 119) < 8)) > 0.001
    assert errors == []
