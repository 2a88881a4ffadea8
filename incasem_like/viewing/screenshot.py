"""A picture of a scene, taken by a browser without a display."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from incasem_like.disk import write_whole
from incasem_like.errors import InputError

SECONDS = 120
SETTLED = 3  # pictures in a row without a change
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--hide-scrollbars",
)  # fmt: skip


def start_browser(size: tuple[int, int] = (1200, 800)) -> Any:
    """Start Chromium without a display, with WebGL on the processor; returns a selenium driver.

    Raises:
        InputError: Selenium, Chromium or its driver is missing.
    """
    try:
        from selenium import webdriver
    except ImportError:
        raise InputError("A screenshot needs selenium: pip install selenium.") from None
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        raise InputError(
            "A screenshot needs Chromium and chromedriver: install them, for instance as chromium and chromium-driver "
            "of Debian, or open the link in another browser."
        )
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def wait_until_drawn(browser: Any, seconds: float = SECONDS) -> None:
    """Wait until neuroglancer has drawn everything that the view needs.

    Raises:
        InputError: It takes longer than that.
    """
    end, seen = time.monotonic() + seconds, 0
    while seen < 3:  # in a row: a layer that is not known yet counts as drawn
        if time.monotonic() > end:
            raise InputError(f"The view was not drawn within {seconds:g} s: choose a smaller part, or make a pyramid.")
        drawn = browser.execute_script(
            "return !!window.viewer && viewer.display.isReady() && viewer.layerManager.managedLayers.length > 0 && "
            "viewer.layerManager.managedLayers.every(layer => layer.isReady())"
        )
        seen = seen + 1 if drawn else 0
        time.sleep(0.3)


def settled_picture(browser: Any, seconds: float = SECONDS) -> bytes:
    """Wait until the view is drawn and no longer changes, and return it as PNG.

    Lines and boxes of a server come after the rest, and neuroglancer does not report them as missing.

    Raises:
        InputError: As ``wait_until_drawn``.
    """
    wait_until_drawn(browser, seconds)
    end, same, picture = time.monotonic() + seconds, 0, b""
    while same < SETTLED and time.monotonic() < end:
        # moved and back, as users do: on a busy machine the first look at an index of lines may come too early
        browser.execute_script("viewer.navigationState.zoomBy(1.001); viewer.navigationState.zoomBy(1 / 1.001)")
        time.sleep(0.5)
        wait_until_drawn(browser, seconds)
        before, picture = picture, bytes(browser.get_screenshot_as_png())
        same = same + 1 if picture == before else 0
    return picture


def take_screenshot(link: str, path: Path, size: tuple[int, int] = (1200, 800)) -> None:
    """Write a PNG of what a link shows.

    Args:
        link: As ``serving`` yields it.
        path: PNG to write; its folder is created.
        size: Of the window, width and height in pixels.

    Raises:
        InputError: As ``start_browser`` and ``wait_until_drawn``.
    """
    browser = start_browser(size)
    try:
        browser.get(link)
        picture = settled_picture(browser)
    finally:
        browser.quit()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(picture))
