"""Dask's dashboard is shown where it is asked for, to this machine alone."""

import subprocess
import sys
import time
import urllib.request
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from incasem_like.blockwise.job import list_jobs
from incasem_like.blockwise.workers_file import given_workers
from incasem_like.commands.cli import answer
from incasem_like.errors import InputError


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


@pytest.fixture
def shown(
    script: Callable[..., "subprocess.Popen[str]"], accident: Callable[[str], None], tmp_path: Path, jobs: Path
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Start slow blocks with a dashboard, and return the process and the address of the dashboard."""
    accident("slow")
    path = tmp_path / "smooth_script.py"
    workers = "given_workers(Namespace(workers=None, num_workers=2, dashboard=True))"
    text = path.read_text().replace("num_workers=int(sys.argv[3])", f"workers={workers}")
    text = text.replace("import load_workers", "import given_workers, load_workers")
    path.write_text(text.replace("import sys\n", "import sys\nfrom argparse import Namespace\n", 1))
    running = script("shown", 2)
    try:
        yield running, wait_for(lambda: "".join(job.dashboard for job in list_jobs(jobs)))
    finally:
        running.kill()
        running.communicate()


def test_its_address_is_printed_and_shown_and_serves_pages_on_loopback(
    shown: tuple["subprocess.Popen[str]", str], accident: Callable[[str], None], jobs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    running, address = shown
    assert address.startswith("http://127.0.0.1:")
    assert answer(["jobs", "show", list_jobs(jobs)[0].id]) == 0
    assert f"dashboard   {address}\n" in capsys.readouterr().out
    with urllib.request.urlopen(address, timeout=60) as page:
        assert b"Dask" in page.read()
    accident("")
    _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert f"Dashboard: {address}\n" in said
    assert not list_jobs(jobs)[0].dashboard


@pytest.mark.browser
def test_a_browser_shows_the_workers_and_what_they_do(
    shown: tuple["subprocess.Popen[str]", str], accident: Callable[[str], None], page: Any
) -> None:
    accident("wait:3")  # so that there is something to be seen for as long as it takes
    _, address = shown
    page.open(address)
    page.wait(lambda: "Dask" in page.driver.title, "the page has no title")
    page.click_link("Workers")
    page.wait(lambda: "local-1" in shown_in_tables(page) or "local-2" in shown_in_tables(page), "no worker is shown")
    page.open(address.replace("/status", "/info/main/workers.html"))
    page.wait(lambda: "local-" in page.text(), "no worker is listed")


def shown_in_tables(page: Any) -> str:
    """Return the text of bokeh's tables, which draws its elements into shadow roots."""
    script = """
    const texts = (root) => [...root.querySelectorAll("*")].map(
        (one) => one.shadowRoot ? texts(one.shadowRoot) : one.children.length ? "" : one.textContent).join(" ");
    return texts(document);
    """
    return str(page.driver.execute_script(script))


@pytest.mark.parametrize(
    ("arguments", "installed", "sentence"),
    [
        ({"num_workers": 2}, False, r"needs bokeh, which is not installed: pip install 'incasem-like\[dashboard\]'"),
        ({}, True, "there are none: add --workers"),
    ],
)
def test_what_keeps_it_from_being_shown_is_said(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], installed: bool, sentence: str
) -> None:
    if not installed:
        monkeypatch.setattr("incasem_like.blockwise.workers_file.find_spec", lambda name: None)
    with pytest.raises(InputError, match=sentence) as error:
        given_workers(Namespace(workers=None, dashboard=True, **arguments))
    assert error.value.exit_status == 2


def test_work_in_one_process_and_help_do_not_load_dask(tmp_path: Path) -> None:
    words = "import sys, incasem_like.blockwise, incasem_like.blockwise.ledger, incasem_like.blockwise.workers_file\n"
    words += "print([name for name in ('dask', 'distributed', 'torch') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", words], text=True) == "[]\n"
