"""TensorBoard on two trainings: its HParams page compares them without any server of ours."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.fixtures import Page

from incasem_like.tracking import RunStore, open_store

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "02_train" / "train.py"
# TensorBoard's pages are made of elements that keep their content to themselves
WALK = """
const found = [];
const walk = root => root.querySelectorAll('*').forEach(element => {
  if (element.matches(arguments[0])) found.push(element);
  if (element.shadowRoot) walk(element.shadowRoot);
});
walk(document);
return found;
"""


def train(project: Path, runs: Path, name: str, rate: str) -> None:
    finished = subprocess.run(
        [
            sys.executable, str(SCRIPT), "--name", name, "with", "tiny.yaml", "training.data=train.json",
            "validation.data=validate.json", f"directories.runs={runs}", f"training.optimizer.lr={rate}",
        ],
        cwd=project, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module")
def trained(tiny_project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunStore]:
    runs = tmp_path_factory.mktemp("tensorboard") / "runs"
    for name, rate in (("slow learner", "1e-4"), ("quick learner", "1e-2")):
        train(tiny_project, runs, name, rate)
    return runs / "tensorboard", open_store(None, "trainings", runs)


@pytest.fixture(scope="module")
def address(trained: tuple[Path, RunStore]) -> Iterator[str]:
    """TensorBoard as train.py says to start it, on a port that it chooses itself."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(trained[0]), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while (found := re.search(r"at http://\S+?:(\d+)/.*Press CTRL\+C", said)) is None:
            said += (line := process.stderr.readline())
            assert line, f"TensorBoard ended: {said}"
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would hold it up
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.terminate()
        process.wait()


def elements(page: Page, css: str) -> list[Any]:
    return list(page.driver.execute_script(WALK, css))


def click(page: Page, css: str, words: str) -> None:
    def clicked() -> bool:
        found = [entry for entry in elements(page, css) if words in entry.text]
        page.driver.execute_script("arguments.length && arguments[0].click()", *found[:1])
        return bool(found)

    page.wait(clicked, f"there is no {words}")


def cells(page: Page) -> list[str]:
    return [cell.text.strip() for cell in elements(page, "vaadin-grid-cell-content") if cell.text.strip()]


def test_the_settings_that_differ_stand_beside_what_came_of_them(
    page: Page, address: str, trained: tuple[Path, RunStore]
) -> None:
    page.driver.set_window_size(2600, 1100)
    page.open(f"{address}/#hparams")
    results = {"result/best_dice_class_1", "result/loss_train_0", "result/iteration"}
    words = {"0001 slow learner", "0002 quick learner", "training.optimizer.lr", *results}
    best = {f"{trained[1].get(run_id).result['best_value']:.5}" for run_id in (1, 2)}

    def is_complete() -> bool:
        shown = cells(page)
        numbers = {f"{float(text):.5}" for text in shown if re.fullmatch(r"[\d.e-]+", text)}
        return words <= set(shown) and best <= numbers

    page.wait(is_complete, f"the table lacks something of {sorted(words | best)}")
    page.picture("hparams_table")
    click(page, "paper-tab", "PARALLEL COORDINATES VIEW")
    axes = {"training.optimizer.lr", "result/best_dice_class_1"}
    page.wait(lambda: axes <= {label.text for label in elements(page, "svg text")}, "the axes are not drawn")
    page.picture("hparams_parallel_coordinates")


def test_curves_and_slices_of_both_runs_are_there(page: Page, address: str) -> None:
    page.driver.set_window_size(1700, 1100)
    page.open(f"{address}/#timeseries")
    for run in ("0001/training", "0002/training", "0001/validation/right"):
        page.wait(lambda run=run: run in page.text(), f"{run} is not listed")
    page.wait(lambda: "loss_0" in page.text(), "there is no curve of the loss")
    page.picture("curves")
    page.open(f"{address}/#images")
    page.wait(lambda: any(image.size["height"] > 50 for image in elements(page, "img")), "no slices are shown")
    page.picture("slices")
