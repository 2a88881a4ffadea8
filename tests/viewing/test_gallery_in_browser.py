"""The gallery of runs in a browser: filtered, sorted, compared; without errors, and nothing is asked of others."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.fixtures import Page

from incasem_like.commands.options import StoreChoice
from incasem_like.commands.runs.serve import Gallery
from incasem_like.errors import InputError
from incasem_like.tracking import open_store, run_experiment
from incasem_like.viewing.pages import serving_pages
from incasem_like.viewing.screenshot import start_browser

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Page]:
    def train(run: Any) -> None:
        for step in range(4):
            run.log_scalar("loss_train_0", run.config["lr"] / (step + 1), step)
        if run.config["lr"] == 3:
            raise RuntimeError("no memory left")

    store = open_store(None, "trainings", tmp_path / "runs")
    for rate in (1, 2, 3):
        with contextlib.suppress(RuntimeError):
            run_experiment(name="train", config={"lr": rate}, main=train, store=store, run_name=f"<i>rate</i> {rate}")
    predictions = open_store(None, "predictions", tmp_path / "runs")
    run_experiment(name="predict", config={}, main=lambda run: {"dice": 0.5}, store=predictions)
    try:
        driver = start_browser((1300, 900))
    except InputError as missing:
        pytest.skip(str(missing))
    made = Gallery(StoreChoice(None, tmp_path / "runs"))
    with serving_pages(made.answers(), 0, made.pictures()) as link:
        page = Page(driver, tmp_path)
        page.open(link)
        yield page
        errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
        urls = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
        driver.quit()
    errors = [error for error in errors if "list?filter=" not in error]  # the browser's note of a mistyped filter
    assert errors == []
    assert [url for url in urls if not url.startswith((link, "data:"))] == []


def runs(page: Page) -> list[str]:
    return [str(row.get_attribute("data-run")) for row in page.all("tbody tr")]


def expect(page: Page, *wanted: str) -> None:
    page.wait(lambda: runs(page) == list(wanted), f"the list is not {wanted}")


def test_a_list_is_filtered_sorted_and_compared(gallery: Page) -> None:
    page, trainings = gallery, ["trainings/3", "trainings/2", "trainings/1"]
    expect(page, "predictions/1", *trainings)
    assert "<i>rate</i> 3" in page.text("tbody")
    page.wait(lambda: len(page.all("tbody img")) == 3, "the trainings have no pictures")
    page.click_link("trainings")
    expect(page, *trainings)
    page.one("#filter").send_keys("lr<3 loss<5")
    expect(page, "trainings/2", "trainings/1")
    page.click_link("loss")
    page.click_link("loss ↓")
    expect(page, "trainings/1", "trainings/2")
    page.click(lambda: page.all("tbody tr")[0].find_element("css selector", "td button"), "the state is no button")
    page.wait(lambda: "status=COMPLETED" in page.one("#filter").get_attribute("value"), "no filter of the state")
    for run in ("trainings/1", "trainings/2"):
        page.click(lambda run=run: page.one(f"tr[data-run='{run}'] input"), f"{run} cannot be selected")
    page.click_link("Compare")
    page.wait(lambda: "Comparison of training 1, training 2" in page.text("h1"), "no comparison")
    assert "loss_train_0 (min) 0.25 * 0.5" in page.text("table")
    drawn = "return [...document.images].filter(one => !one.loading || one.loading != 'lazy')[0].naturalWidth"
    assert page.driver.execute_script(drawn) > 300
    page.click_link("training 2")
    page.wait(lambda: "Run 2: <i>rate</i> 2" in page.text("h1"), "no page of the run")
    page.click_link("All runs")
    page.wait(lambda: "Selected: trainings/1, trainings/2" in page.text("#selected"), "the selection is lost")


def test_a_mistyped_filter_is_explained_and_leaves_the_list(gallery: Page) -> None:
    expect(gallery, "predictions/1", "trainings/3", "trainings/2", "trainings/1")
    gallery.one("#filter").send_keys("lorning=3")
    gallery.wait(lambda: "lorning" in gallery.text("#said.wrong"), "the mistake is not explained")
    assert len(runs(gallery)) == 4
