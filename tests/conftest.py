"""What every test relies on."""

import logging
import os
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["browser.fixtures", "mongo_server.fixtures"]

# How long an example takes says more of what else the machine does than of what is tested.
settings.register_profile("busy_machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy_machine")

# A shell that starts a command in the background makes it ignore ctrl-C, and nohup the closing of the terminal; what
# it starts inherits that. The tests of interruption mean the behaviour at a terminal, wherever they are started from.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Records of blockwise jobs go to a folder of this session's own, in child processes too.
os.environ["INCASEM_JOBS"] = tempfile.mkdtemp(prefix="incasem-test-jobs-")
# So does what is kept of measured speeds, fetched checkpoints and listed runs.
os.environ["INCASEM_CACHE"] = tempfile.mkdtemp(prefix="incasem-test-cache-")


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """Put the level of the root logger back, which scripts called within this process set by their --loglevel."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


@pytest.fixture(autouse=True)
def _watch_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of other machines that look dead are written by nobody in tests, unless the test says so."""
    monkeypatch.setattr("incasem_like.tracking.liveness.SECONDS_TO_WATCH", 0.05)
