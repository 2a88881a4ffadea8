"""Omniboard on two trainings in MongoDB: what a person looks for is there, and reads well."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser.fixtures import Page

from incasem_like.tracking import RunStore, open_store

pytestmark = [pytest.mark.browser, pytest.mark.mongo, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
OMNIBOARD = ROOT / "scripts" / "omniboard"
NAMES = ("slow learner", "quick learner")


@dataclass(frozen=True)
class Board:
    """Omniboard and the store whose runs it shows."""

    url: str
    store: RunStore


@pytest.fixture(scope="module")
def board(mongo_url: str, tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """Two trainings by train.py in a database of their own, and Omniboard on it."""
    if shutil.which("node") is None or not (OMNIBOARD / "node_modules" / ".complete").is_file():
        pytest.skip("needs Node.js and Omniboard (.ci/install_omniboard)")
    import pymongo

    runs = tmp_path_factory.mktemp("omniboard") / "runs"
    url = f"{mongo_url.rstrip('/')}/omniboard_{os.getpid()}_trainings"
    for name, rate in zip(NAMES, ("1e-4", "1e-2"), strict=True):
        train(tiny_project, runs, url, name, rate)
    store = open_store(url, "trainings", runs)
    store.annotate(2, add_tags=["er", "draft"], notes="looks promising")
    with start_omniboard(url) as address:
        yield Board(address, store)
    with pymongo.MongoClient(mongo_url) as client:
        for name in client.list_database_names():
            if name.startswith(f"omniboard_{os.getpid()}_"):
                client.drop_database(name)


def train(project: Path, runs: Path, url: str, name: str, rate: str) -> None:
    finished = subprocess.run(
        [
            sys.executable, str(ROOT / "scripts" / "02_train" / "train.py"), "--name", name, "--mongodb", url,
            "--comment", f"a {name}", "with", "tiny.yaml", "training.data=train.json", "validation.data=validate.json",
            f"directories.runs={runs}", f"training.optimizer.lr={rate}", "training.iterations=12",
        ],
        cwd=project, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


@contextmanager
def start_omniboard(url: str) -> Iterator[str]:
    """Start Omniboard as docs/tracking.md says, and give the address of its page of trainings."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["node", str(OMNIBOARD / "start.js"), url, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = []
        while "Connection to" not in "".join(said):
            said.append(process.stdout.readline())
            assert said[-1], f"Omniboard ended: {''.join(said)}"
        threading.Thread(target=process.stdout.read, daemon=True).start()  # it writes a line for each request
        yield f"http://127.0.0.1:{port}/trainings"
    finally:
        process.terminate()
        process.wait()


def rows(page: Page) -> dict[str, dict[str, Any]]:
    """The cells of the table, by id of the run and heading of the column; none while it is being drawn."""
    headings = [cell.text.strip() for cell in page.all(".public_fixedDataTable_header [role=columnheader]")]
    found = {}
    for row in page.all(".public_fixedDataTable_bodyRow"):
        elements = row.find_elements("css selector", "[role=gridcell]")
        if len(elements) != len(headings):
            return {}
        cells = dict(zip(headings, elements, strict=True))
        found[cells["Id"].text.strip()] = cells
    return found


def open_table(page: Page, board: Board, column: str = "Id") -> dict[str, dict[str, Any]]:
    """Open the table, in a window that has room for all of its columns; wait for one of them."""
    page.driver.set_window_size(5600, 1000)
    page.open(board.url)
    return page.wait(
        lambda: found if len(found := rows(page)) == 2 and column in found["1"] else None,
        f"there are not two runs with the column {column}",
    )


def open_details(page: Page, board: Board, run_id: int, tab: str) -> None:
    page.driver.set_window_size(1700, 1100)
    page.open(board.url)
    table = page.wait(lambda: found if len(found := rows(page)) == 2 else None, "there are not two runs")
    table[str(run_id)][""].find_element("css selector", "a").click()  # the arrow's column has no heading
    page.link(tab).click()


def choose(page: Page, box: Any, value: str) -> None:
    """Type a value into one of Omniboard's drop-down boxes and take what it offers."""
    box.send_keys(value)
    page.wait(lambda: page.all("[id*=-option-]"), f"{value} is not offered")
    box.send_keys("\n")


def test_the_table_tells_the_runs_apart(page: Page, board: Board) -> None:
    table = open_table(page, board)
    page.picture("table")
    for run_id, name in enumerate(NAMES, start=1):
        record, cells = board.store.get(run_id), table[str(run_id)]
        assert cells["Experiment Name"].text == name
        assert "completed" in cells["Experiment Name"].find_element("css selector", ".circle").get_attribute("class")
        assert cells["Status"].text == "COMPLETED"
        assert json.loads(cells["Result"].text) == record.result
        assert cells["Command"].text == "train"
        assert json.loads(cells["C Training"].text)["optimizer"]["lr"] == (1e-4, 1e-2)[run_id - 1]
    assert "a slow learner" in table["1"]["Notes"].text
    assert "looks promising" in table["2"]["Notes"].text
    assert {"er", "draft"} <= set(re.findall(r"\w+", table["2"]["Tags"].text))


def test_a_new_database_comes_with_columns_of_what_one_compares(page: Page, board: Board) -> None:
    table = open_table(page, board)
    for run_id, rate in ((1, 1e-4), (2, 1e-2)):
        record, cells = board.store.get(run_id), table[str(run_id)]
        assert float(cells["Learning rate"].text) == rate
        assert float(cells["Loss"].text) == record.metrics["loss_train_0"].values[-1]
        assert float(cells["Dice, best"].text) == max(record.metrics["dice_class_1"].values)
        assert int(cells["Iteration"].text) == 12


def test_a_metric_column_shows_the_best_of_each_run(page: Page, board: Board) -> None:
    open_table(page, board)
    page.driver.set_window_size(1700, 1100)
    page.link("+/- Metric Columns").click()
    page.link("Add Column").click()
    page.one("[test-attr=column-name-text-0]").send_keys("Highest Dice")
    metric, extrema = page.all(".modal-body input[id^=react-select]")
    choose(page, metric, "dice_class_1")
    choose(page, extrema, "max")
    page.picture("metric_column_dialog")
    page.link("Apply").click()
    page.wait(lambda: not page.all(".modal-body"), "the dialog is still there")
    table = open_table(page, board, "Highest Dice")
    page.picture("metric_column")
    for run_id in (1, 2):
        best = max(board.store.get(run_id).metrics["dice_class_1"].values)
        assert float(table[str(run_id)]["Highest Dice"].text) == best


def test_the_plot_shows_the_metrics(page: Page, board: Board) -> None:
    open_details(page, board, 2, "Metrics Plot")
    page.one(".legendtext")
    page.picture("metrics_plot")
    shown = {entry.get_attribute("data-unformatted") for entry in page.all(".legendtext")}
    assert shown == set(board.store.get(2).metrics)
    highest = max(float(tick.text.replace("\u2212", "-")) for tick in page.all(".ytick"))
    assert highest <= 2, "a metric of another size flattens all curves"


def test_output_artifacts_and_facts_of_a_run_can_be_read(page: Page, board: Board) -> None:
    open_details(page, board, 2, "Captured Out")
    page.wait(lambda: "Training run 2" in page.text(), "the output is not there")
    page.picture("captured_output")
    page.link("Artifacts").click()
    page.wait(lambda: "validation_data.json" in page.text(), "the artifacts are not listed")
    page.driver.find_element("xpath", "//*[text()='training_data.json']").click()
    page.wait(lambda: "volumes/labels/ball" in page.text(), "the artifact cannot be read")
    page.picture("artifacts")
    for tab, expected in (("Run Info", "checkpoints"), ("Host Info", "hostname"), ("Source Files", "train.py")):
        page.link(tab).click()
        page.wait(lambda expected=expected: expected in page.text(), f"{tab} does not show {expected}", seconds=60)
        page.picture(tab.lower().replace(" ", "_"))


def test_a_tag_that_is_given_in_omniboard_is_the_runs(page: Page, board: Board) -> None:
    table = open_table(page, board)
    choose(page, table["1"]["Tags"].find_element("css selector", "input"), "baseline")
    page.wait(lambda: list(board.store.get(1).tags) == ["baseline"], "the tag did not arrive in the store")


def test_only_its_own_page_may_ask_omniboard(board: Board) -> None:
    address = board.url.replace("/trainings", "/api/v1/databases")
    for headers in ({"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(address, headers=headers))
        assert caught.value.code == 403
    with urllib.request.urlopen(address) as answer:
        assert "trainings" in {entry["key"] for entry in json.load(answer)}
