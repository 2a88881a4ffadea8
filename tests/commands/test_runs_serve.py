"""The gallery of runs: what its server answers, and to whom."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from typing import Any
from urllib.parse import quote

import pytest
from commands.lab import Lab, metric
from PIL import Image

from incasem_like.commands.options import StoreChoice
from incasem_like.commands.runs.serve import Gallery
from incasem_like.tracking import run_experiment
from incasem_like.viewing.pages import serving_pages


def fetch(url: str, method: str = "GET") -> tuple[int, bytes, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as found:
            return found.status, found.read(), found.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


@pytest.fixture
def link(lab: Lab) -> Iterator[str]:
    for number in range(1, 4):
        lab.add(
            number, name=f"mito {number}", config={"training": {"optimizer": {"lr": 10.0**-number}}},
            info={"summary": {"dice_class_1": metric(0.5, 0.1, number / 4), "loss": metric(number, number, 9)}},
            status="FAILED" if number == 3 else "COMPLETED",
        )  # fmt: skip
    lab.add(1, "predictions", name="<b>cell</b>")
    gallery = Gallery(StoreChoice(lab.url, lab.directory))
    with serving_pages(gallery.answers(), 0, gallery.pictures()) as address:
        yield address


def listed(link: str, query: str) -> tuple[list[str], dict[str, Any]]:
    status, body, _ = fetch(f"{link}list?{query}")
    assert status == 200, body
    found = json.loads(body)
    return [row["run"] for row in found["rows"]], found


def test_the_list_filters_and_sorts_in_the_words_of_runs_list(link: str) -> None:
    runs, found = listed(link, "")
    assert runs == ["predictions/1", "trainings/3", "trainings/2", "trainings/1"]
    titles = [column["name"] for column in found["columns"]]
    assert titles[:3] == ["kind", "id", "name"]
    assert found["rows"][1]["cells"][titles.index("dice")] == "0.75"
    assert listed(link, "kind=trainings&sort=loss")[0] == ["trainings/1", "trainings/2", "trainings/3"]
    assert listed(link, f"filter={quote('lr<0.05 status=COMPLETED')}&kind=trainings")[0] == ["trainings/2"]
    assert listed(link, f"filter={quote('kind=prediction')}")[0] == ["predictions/1"]
    quoted = listed(link, "filter=" + quote('name="mito 2"'))[1]
    assert (quoted["found"], quoted["total"]) == (1, 4)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [("filter=dyce%3E0", "dice"), ("filter=name%3D%22a", "close the quotes"), ("kind=cells", "choose one of")],
)
def test_a_wrong_question_is_answered_in_a_sentence(link: str, query: str, sentence: str) -> None:
    status, body, _ = fetch(f"{link}list?{query}")
    assert (status, sentence in body.decode()) == (400, True), body


def test_pages_of_a_run_and_of_a_comparison(link: str) -> None:
    status, body, _ = fetch(f"{link}run/predictions/1")
    assert status == 200
    assert "Run 1: &lt;b&gt;cell&lt;/b&gt;" in body.decode()
    page = fetch(f"{link}compare?run=trainings/1&run=trainings/2")[1].decode()
    assert re.search(r"dice_class_1 \(max\)</td><td>0\.25</td><td>0\.5 \*", page)
    assert re.search(r"training\.optimizer\.lr</td><td>0\.1</td><td>0\.01", page)
    assert fetch(f"{link}compare?run=trainings/1")[0] == 400
    assert fetch(f"{link}run/trainings/77")[0] in (400, 500)


def test_only_who_has_the_secret_may_read_and_nobody_may_write(link: str) -> None:
    assert link.startswith("http://127.0.0.1:")
    root = "/".join(link.split("/")[:3])
    assert [fetch(f"{root}{path}")[0] for path in ("/", "/list", "/x/list", "/run/trainings/1")] == [404] * 4
    assert [fetch(f"{link}list", method)[0] for method in ("POST", "PUT", "DELETE")] == [405] * 3
    policy = fetch(link)[2]["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_a_thumbnail_shows_the_curves_of_a_run_that_has_them(lab: Lab) -> None:
    def work(run: Any) -> None:
        for step in range(3):
            run.log_scalar("loss_train_0", 1 / (step + 1), step)

    run_experiment(name="train", config={}, main=work, store=lab.store())
    lab.add(2)
    gallery = Gallery(StoreChoice(lab.url, lab.directory))
    small = Image.open(BytesIO(gallery.thumbnail("trainings/1", {}).body))
    assert (small.height, 200 < small.width <= 320) == (180, True)
    assert gallery.thumbnail("trainings/2", {}).body == b""


def test_the_command_prints_a_link_and_ends_with_ctrl_c(lab: Lab) -> None:
    process = subprocess.Popen(lab.command("runs", "serve", "--no-browser"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert b"<h1>Runs</h1>" in fetch(address)[1]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
