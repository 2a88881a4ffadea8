"""Fixture of a browser: Chromium without a window, driven by selenium."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

Found = TypeVar("Found")
# Nothing waits for so long where all is well: a machine may have other work, and a first page is slow to come
SECONDS_TO_APPEAR = 90.0
# Without a GPU, and in containers that have no user to drop to and little shared memory
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1700,1100")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, as selenium's driver; one for all tests of a process."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium and chromedriver (.ci/install_browser)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


class Page:
    """What a person does on a page: look for things, wait for them, click, type, take a picture.

    Args:
        driver: Selenium's driver.
        pictures: Folder of the pictures.
    """

    def __init__(self, driver: Any, pictures: Path) -> None:
        self.driver, self.pictures = driver, pictures

    def open(self, url: str) -> None:
        """Go to an address."""
        self.driver.get(url)

    def all(self, css: str) -> list[Any]:
        """All elements that a CSS selector finds now."""
        return list(self.driver.find_elements("css selector", css))

    def one(self, css: str, seconds: float = SECONDS_TO_APPEAR) -> Any:
        """The first element that a CSS selector finds, once it is there."""
        return self.wait(lambda: self.all(css), f"nothing is {css}", seconds)[0]

    def link(self, text: str, seconds: float = SECONDS_TO_APPEAR) -> Any:
        """The link or button of that text, once it is there."""
        path = f"//a[normalize-space()='{text}'] | //button[normalize-space()='{text}']"
        return self.wait(
            lambda: self.driver.find_elements("xpath", path), f"there is no link or button '{text}'", seconds
        )[0]

    def click_link(self, text: str) -> None:
        """Click the link or button of that text, once it is there."""
        self.click(lambda: self.link(text), f"the link or button '{text}' cannot be clicked")

    def click(self, find: Callable[[], Any], otherwise: str) -> None:
        """Click what is found; what is drawn anew or covered by something for a moment is found and clicked again.

        Raises:
            AssertionError: It could not be clicked in time.
        """

        def clicked() -> bool:
            find().click()
            return True

        self.wait(clicked, otherwise)

    def text(self, css: str = "body") -> str:
        """The text that is shown within the first element of a selector."""
        found = self.all(css)
        return str(found[0].text) if found else ""

    def wait(self, look: Callable[[], Found], otherwise: str, seconds: float = SECONDS_TO_APPEAR) -> Found:
        """Look again and again until there is something, and give it; what changes under its eyes is looked at anew.

        Raises:
            AssertionError: There was nothing in time.
        """
        from selenium.common.exceptions import WebDriverException

        deadline = time.monotonic() + seconds
        while True:
            try:
                if found := look():
                    return found
            except WebDriverException:
                pass
            if time.monotonic() > deadline:
                self.picture("failed")
                raise AssertionError(f"{otherwise}; the page shows:\n{self.text()[:2000]}")
            time.sleep(0.1)

    def picture(self, name: str) -> Path:
        """Keep a picture of the page."""
        path = self.pictures / f"{name}.png"
        self.driver.save_screenshot(str(path))
        return path


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Page:
    """A page of the browser; pictures go to the test's folder."""
    return Page(browser, tmp_path)
