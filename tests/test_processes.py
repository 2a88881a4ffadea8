"""Processes beside this one: ctrl-C while they start, and errors that end them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from incasem_like.processes import process_pool

INTERRUPTED_WHILE_STARTING = """
import os, signal
from multiprocessing import forkserver
from incasem_like.processes import process_pool

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda number, frame: None)
    with process_pool(2) as pool:
        work = [pool.submit(pow, 2, number) for number in range(4)]
        os.killpg(0, signal.SIGINT)
        print([future.result() for future in work], signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_ctrl_c_while_processes_start_reaches_only_the_parent(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(INTERRUPTED_WHILE_STARTING)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, start_new_session=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1, 2, 4, 8] False\n", "")


def test_error_in_the_parent_ends_processes_in_the_middle_of_their_work() -> None:
    children, begun = [], []

    def interrupted() -> None:
        with process_pool(1) as pool:
            children.append(pool.submit(os.getpid).result())
            pool.submit(time.sleep, 60)
            begun.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - begun[0] < 45
    _assert_ends(children[0])


LOADED_BY_THE_SERVER = """
import os
from multiprocessing import forkserver
from pathlib import Path

from incasem_like.processes import process_pool

if __name__ == "__main__":
    with process_pool(1) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
    print(Path(f"/proc/{forkserver._forkserver._forkserver_pid}/maps").read_text())
"""


def test_the_fork_server_stays_light(tmp_path: Path) -> None:
    """TensorStore does not survive a fork, so the process that is forked must not have loaded it."""
    script = tmp_path / "script.py"  # a process of its own: a server that was started earlier is used again
    script.write_text(LOADED_BY_THE_SERVER)
    loaded = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    assert "numpy" in loaded
    assert "tensorstore" not in loaded
    assert "torch" not in loaded


def _assert_ends(process: int) -> None:
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        if "Z" in Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1][:3]:
            return
        time.sleep(0.1)
    pytest.fail(f"process {process} is still there")
