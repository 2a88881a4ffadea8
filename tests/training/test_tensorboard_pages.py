"""TensorBoard on two trainings: its HParams page compares them without any server of ours."""

import os
import re
import socket
import subprocess
import sys
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
    """TensorBoard as train.py says to start it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(trained[0]), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = []
        while "Press CTRL+C" not in "".join(said):
            said.append(process.stderr.readline())
            assert said[-1], f"TensorBoard ended: {''.join(said)}"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def elements(page: Page, css: str) -> list[Any]:
    return list(page.driver.execute_script(WALK, css))


def click(page: Page, css: str, words: str) -> None:
    found = page.wait(lambda: [entry for entry in elements(page, css) if words in entry.text], f"there is no {words}")
    page.driver.execute_script("arguments[0].click()", found[0])


def cells(page: Page) -> list[str]:
    return [cell.text.strip() for cell in elements(page, "vaadin-grid-cell-content") if cell.text.strip()]


def test_the_settings_that_differ_stand_beside_what_came_of_them(
    page: Page, address: str, trained: tuple[Path, RunStore]
) -> None:
    page.driver.set_window_size(2600, 1100)
    page.open(f"{address}/#hparams")
    shown = page.wait(lambda: found if "0002 quick learner" in (found := cells(page)) else None, "no run is listed", 40)
    page.picture("hparams_table")
    assert "0001 slow learner" in shown
    assert "training.optimizer.lr" in shown
    assert {"result/best_dice_class_1", "result/loss_train_0", "result/iteration"} <= set(shown)
    for run_id in (1, 2):
        best = trained[1].get(run_id).result["best_value"]
        assert f"{best:.5}" in {f"{float(text):.5}" for text in shown if re.fullmatch(r"[\d.e-]+", text)}
    click(page, "paper-tab", "PARALLEL COORDINATES VIEW")
    axes = {"training.optimizer.lr", "result/best_dice_class_1"}
    page.wait(lambda: axes <= {label.text for label in elements(page, "svg text")}, "the axes are not drawn", 20)
    page.picture("hparams_parallel_coordinates")


def test_curves_and_slices_of_both_runs_are_there(page: Page, address: str) -> None:
    page.driver.set_window_size(1700, 1100)
    page.open(f"{address}/#timeseries")
    for run in ("0001/training", "0002/training", "0001/validation/right"):
        page.wait(lambda run=run: run in page.text(), f"{run} is not listed", 40)
    page.wait(lambda: "loss_0" in page.text(), "there is no curve of the loss")
    page.picture("curves")
    page.open(f"{address}/#images")
    page.wait(lambda: any(image.size["height"] > 50 for image in elements(page, "img")), "no slices are shown", 30)
    page.picture("slices")
