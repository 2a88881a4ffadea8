"""neuroglancer in a browser opens what we write, with its voxel size and in its place."""

import functools
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from incasem_like.volumes import create_volume

pytestmark = [pytest.mark.browser, pytest.mark.slow]


class _OpenToBrowsers(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("neuroglancer")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    handler = functools.partial(_OpenToBrowsers, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    neuroglancer = pytest.importorskip("neuroglancer")
    webdriver = pytest.importorskip("neuroglancer.webdriver", reason="needs selenium")
    if shutil.which("chromium") is None and shutil.which("google-chrome") is None:
        pytest.skip("needs Chromium")
    neuroglancer.set_server_bind_address("127.0.0.1")
    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with webdriver.Webdriver(neuroglancer.Viewer(), headless=True, extra_command_line_args=flags) as driver:
        yield driver.driver
    neuroglancer.stop()


def space_of(browser: Any, source: str) -> dict[str, tuple[float, str]]:
    """Open a source in a page of its own and return the step along each axis once neuroglancer has read it."""
    import neuroglancer

    viewer = neuroglancer.Viewer()
    with viewer.txn() as state:
        state.layers["volume"] = neuroglancer.ImageLayer(source=source)
    browser.get(viewer.get_viewer_url())
    deadline = time.monotonic() + 90
    while not viewer.state.dimensions.names and time.monotonic() < deadline:
        time.sleep(0.1)
    found = viewer.state.dimensions
    return {
        name: (float(scale), unit) for name, scale, unit in zip(found.names, found.scales, found.units, strict=True)
    }


@pytest.mark.parametrize(
    ("container", "format_name", "scheme"),
    [("a.zarr", "zarr2", "zarr"), ("b.zarr", "zarr3", "zarr"), ("c.n5", "n5", "n5")],
)
def test_neuroglancer_reads_voxel_size(
    browser: Any, url: str, folder: Path, container: str, format_name: str, scheme: str
) -> None:
    options: dict[str, Any] = {"dtype": "uint8", "voxel_size": (40, 4.6, 4), "format": format_name}
    create_volume(folder / container, "volumes/raw", shape=(20, 30, 40), offset=(80, 46, 0), **options).write(
        np.ones((20, 30, 40), np.uint8)
    )
    create_volume(folder / container, "volumes/prob", shape=(2, 20, 30, 40), axes="czyx", **options)
    space = {"z": (4e-8, "m"), "y": (4.6e-9, "m"), "x": (4e-9, "m")}
    assert space_of(browser, f"{scheme}://{url}/{container}/volumes/raw") == space
    assert space_of(browser, f"{scheme}://{url}/{container}/volumes/prob") == {"c": (1.0, ""), **space}
    if scheme == "zarr":
        assert space_of(browser, f"{scheme}://{url}/{container}/volumes") == space
