"""Omniboard on two trainings in MongoDB: what a person looks for is there, and reads well."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
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
# The table is drawn anew whenever Omniboard learns something: headings and rows are had in one look
LOOK = """
const text = cell => cell.innerText.trim();
const headings = [...document.querySelectorAll('.public_fixedDataTable_header [role=columnheader]')].map(text);
const rows = [...document.querySelectorAll('.public_fixedDataTable_bodyRow')].map(
  row => [...row.querySelectorAll('[role=gridcell]')]);
"""
TABLE = f"{LOOK} return [headings, ...rows.map(row => row.map(text))];"
CELL = f"""{LOOK}
const found = rows.find(row => row.length == headings.length && text(row[headings.indexOf('Id')]) == arguments[0]);
return found ? found[headings.lastIndexOf(arguments[1])].querySelector(arguments[2]) : null;
"""


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


@contextlib.contextmanager
def start_omniboard(url: str) -> Iterator[str]:
    """Start Omniboard as docs/tracking.md says, and give the address of its page of trainings.

    Where its port is taken it tries the next one, so the address is the one that it names.
    """
    command = ["node", str(OMNIBOARD / "start.js"), url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = ""
        while "Connection to" not in said or (found := re.search(r"Open (\S+)\n", said)) is None:
            said += (line := process.stdout.readline())
            assert line, f"Omniboard ended: {said}"
        threading.Thread(target=process.stdout.read, daemon=True).start()  # it writes a line for each request
        yield found[1]
    finally:
        process.terminate()
        process.wait()


def rows(page: Page) -> dict[str, dict[str, str]]:
    """The texts of the table's cells, by id of the run and heading of the column; none while it is being drawn."""
    headings, *lines = page.driver.execute_script(TABLE)
    if any(len(line) != len(headings) for line in lines):
        return {}
    cells = [dict(zip(headings, line, strict=True)) for line in lines]
    return {line["Id"]: line for line in cells if "Id" in line}


def cell(page: Page, run_id: int, column: str, css: str) -> Any:
    """What a CSS selector finds within a cell of the table; stale as soon as the table is drawn anew."""
    from selenium.common.exceptions import NoSuchElementException

    found = page.driver.execute_script(CELL, str(run_id), column, css)
    if found is None:
        raise NoSuchElementException(f"no {css} in {column} of run {run_id}")
    return found


def open_table(page: Page, board: Board) -> None:
    """Open the table, in a window that has room for all of its columns."""
    page.driver.set_window_size(5600, 1000)
    page.open(board.url)
    page.wait(lambda: len(rows(page)) == 2, "there are not two runs")


def see(page: Page, run_id: int, column: str, is_right: Callable[[str], bool]) -> None:
    """Wait until a cell of the table shows what it should: the table is drawn bit by bit, and more than once."""

    def shows() -> bool:
        with contextlib.suppress(ValueError):  # neither number nor JSON yet
            return is_right(rows(page).get(str(run_id), {}).get(column, ""))
        return False

    page.wait(shows, f"{column} of run {run_id} is not what it should be")


def open_details(page: Page, board: Board, run_id: int, tab: str) -> None:
    page.driver.set_window_size(1700, 1100)
    page.open(board.url)
    page.wait(lambda: len(rows(page)) == 2, "there are not two runs")
    page.click(lambda: cell(page, run_id, "", "a"), "the run cannot be opened")  # the arrow's column has no heading
    page.click_link(tab)


def choose(page: Page, find: Callable[[], Any], value: str) -> None:
    """Type a value into one of Omniboard's drop-down boxes and take what it offers."""
    page.wait(lambda: type_into(find(), value), f"{value} cannot be typed")
    page.wait(lambda: page.all("[id*=-option-]"), f"{value} is not offered")
    page.wait(lambda: find().send_keys("\n") is None, f"{value} cannot be taken")


def type_into(box: Any, value: str) -> bool:
    """Type a value; says whether the box has it."""
    if box.get_attribute("value") != value:
        box.clear()
        box.send_keys(value)
    return bool(box.get_attribute("value") == value)


def test_the_table_tells_the_runs_apart(page: Page, board: Board) -> None:
    open_table(page, board)
    for run_id, name in enumerate(NAMES, start=1):
        record, rate = board.store.get(run_id), (1e-4, 1e-2)[run_id - 1]
        see(page, run_id, "Experiment Name", lambda text, name=name: text == name)
        circle = page.wait(
            lambda run_id=run_id: cell(page, run_id, "Experiment Name", ".circle").get_attribute("class"),
            "there is no sign of the run's state",
        )
        assert "completed" in circle
        see(page, run_id, "Status", lambda text: text == "COMPLETED")
        see(page, run_id, "Result", lambda text, record=record: json.loads(text) == record.result)
        see(page, run_id, "Command", lambda text: text == "train")
        see(page, run_id, "C Training", lambda text, rate=rate: json.loads(text)["optimizer"]["lr"] == rate)
    see(page, 1, "Notes", lambda text: "a slow learner" in text)
    see(page, 2, "Notes", lambda text: "looks promising" in text)
    see(page, 2, "Tags", lambda text: {"er", "draft"} <= set(re.findall(r"\w+", text)))
    page.picture("table")


def test_a_new_database_comes_with_columns_of_what_one_compares(page: Page, board: Board) -> None:
    open_table(page, board)
    for run_id, rate in ((1, 1e-4), (2, 1e-2)):
        metrics = board.store.get(run_id).metrics
        loss, best = metrics["loss_train_0"].values[-1], max(metrics["dice_class_1"].values)
        expected = {"Learning rate": rate, "Loss": loss, "Dice, best": best, "Iteration": 12}
        for column, value in expected.items():
            see(page, run_id, column, lambda text, value=value: float(text) == value)


def test_a_metric_column_shows_the_best_of_each_run(page: Page, board: Board) -> None:
    open_table(page, board)
    page.driver.set_window_size(1700, 1100)
    page.click_link("+/- Metric Columns")
    page.click_link("Add Column")
    page.one("[test-attr=column-name-text-0]").send_keys("Highest Dice")
    boxes = "//*[contains(@class, 'modal-body')]//input[starts-with(@id, 'react-select')]"
    for number, value in enumerate(("dice_class_1", "max"), start=1):
        choose(page, lambda number=number: page.driver.find_element("xpath", f"({boxes})[{number}]"), value)
    page.picture("metric_column_dialog")
    page.click_link("Apply")
    page.wait(lambda: not page.all(".modal-body"), "the dialog is still there")
    open_table(page, board)
    for run_id in (1, 2):
        best = max(board.store.get(run_id).metrics["dice_class_1"].values)
        see(page, run_id, "Highest Dice", lambda text, best=best: float(text) == best)
    page.picture("metric_column")


def numbers(page: Page, css: str) -> list[float]:
    """The numbers that the elements of a selector show; none while one of them is being drawn."""
    texts = [element.text.replace("\u2212", "-") for element in page.all(css)]
    return [float(text) for text in texts] if all(texts) else []


def test_the_plot_shows_the_metrics(page: Page, board: Board) -> None:
    open_details(page, board, 2, "Metrics Plot")
    metrics = set(board.store.get(2).metrics)
    page.wait(
        lambda: {entry.get_attribute("data-unformatted") for entry in page.all(".legendtext")} == metrics,
        f"the legend is not {sorted(metrics)}",
    )
    page.picture("metrics_plot")
    highest = page.wait(lambda: max(numbers(page, ".ytick"), default=None), "the axis has no numbers")
    assert highest <= 2, "a metric of another size flattens all curves"


def test_output_artifacts_and_facts_of_a_run_can_be_read(page: Page, board: Board) -> None:
    open_details(page, board, 2, "Captured Out")
    page.wait(lambda: "Training run 2" in page.text(), "the output is not there")
    page.picture("captured_output")
    page.click_link("Artifacts")
    page.wait(lambda: "validation_data.json" in page.text(), "the artifacts are not listed")
    artifact = "//*[text()='training_data.json']"
    page.click(lambda: page.driver.find_element("xpath", artifact), "the artifact cannot be chosen")
    page.wait(lambda: "volumes/labels/ball" in page.text(), "the artifact cannot be read")
    page.picture("artifacts")
    for tab, expected in (("Run Info", "checkpoints"), ("Host Info", "hostname"), ("Source Files", "train.py")):
        page.click_link(tab)
        page.wait(lambda expected=expected: expected in page.text(), f"{tab} does not show {expected}")
        page.picture(tab.lower().replace(" ", "_"))


def test_a_tag_that_is_given_in_omniboard_is_the_runs(page: Page, board: Board) -> None:
    open_table(page, board)
    choose(page, lambda: cell(page, 1, "Tags", "input"), "baseline")
    page.wait(lambda: list(board.store.get(1).tags) == ["baseline"], "the tag did not arrive in the store")


def test_only_its_own_page_may_ask_omniboard(board: Board) -> None:
    address = board.url.replace("/trainings", "/api/v1/databases")
    for headers in ({"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(address, headers=headers))
        assert caught.value.code == 403
    with urllib.request.urlopen(address) as answer:
        assert "trainings" in {entry["key"] for entry in json.load(answer)}
