"""Whether the process of a run lives, for every place it may be looked at from."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from incasem_like.tracking import liveness
from incasem_like.tracking.liveness import is_alive
from incasem_like.tracking.recording.surroundings import describe_process
from incasem_like.tracking.sacred_parts import get_host_info

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=9)


@pytest.fixture
def here() -> dict[str, Any]:
    return {**get_host_info([]), **describe_process()}


def test_this_process_lives_however_old_its_heartbeat_is(here: dict[str, Any]) -> None:
    assert is_alive(here, LONG_AGO, LONG_AGO)
    assert is_alive(here, None, None)


def test_a_process_that_was_killed_is_dead_at_once_also_before_anybody_waited_for_it(here: dict[str, Any]) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    starts = {"process_start": liveness.process_start(process.pid), "process_ticks": liveness.start_ticks(process.pid)}
    child = {**here, "pid": process.pid, **starts}
    assert is_alive(child, NOW, NOW)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(child, NOW, NOW)
    process.communicate()
    assert not is_alive(child, NOW, NOW)


def test_a_process_that_took_over_the_number_is_another(here: dict[str, Any]) -> None:
    assert not is_alive({**here, "process_ticks": here["process_ticks"] - 100}, NOW, NOW)
    known_by_its_time = {key: value for key, value in here.items() if key != "process_ticks"}
    assert not is_alive({**known_by_its_time, "process_start": here["process_start"] - 100}, NOW, NOW)
    assert is_alive({**known_by_its_time, "process_start": here["process_start"] - 1}, LONG_AGO, None)


def test_a_clock_that_was_set_does_not_make_a_process_another(here: dict[str, Any]) -> None:
    assert is_alive({**here, "process_start": here["process_start"] - 3600}, LONG_AGO, None)
    assert is_alive({**here, "process_start": here["process_start"] + 3600}, LONG_AGO, None)


def test_a_boot_ago_nothing_lives(here: dict[str, Any]) -> None:
    before_the_boot = liveness.boot_time() - timedelta(minutes=1)
    assert not is_alive({**here, "boot_id": "another"}, before_the_boot, LONG_AGO, now=liveness.boot_time())


@pytest.mark.parametrize("other", [{"hostname": "another"}, {"pid_namespace": "pid:[1]"}, {"boot_id": "another"}])
def test_elsewhere_the_heartbeat_counts(here: dict[str, Any], other: dict[str, str]) -> None:
    elsewhere = {**here, **other}
    assert liveness.find_process(elsewhere, NOW, LONG_AGO) is None, "its process would be out of sight"
    assert is_alive(elsewhere, NOW - timedelta(minutes=4), LONG_AGO, now=NOW)
    assert is_alive(elsewhere, NOW.replace(tzinfo=None), None, now=NOW)
    assert not is_alive(elsewhere, NOW - timedelta(minutes=6), NOW, now=NOW)
    assert is_alive(elsewhere, None, NOW - timedelta(minutes=4), now=NOW)
    assert not is_alive(elsewhere, None, NOW - timedelta(minutes=6), now=NOW)


def test_what_names_no_process_is_known_by_its_heartbeat_alone() -> None:
    assert is_alive({"hostname": "here"}, NOW, None, now=NOW)
    assert not is_alive({}, LONG_AGO, None)
    assert not is_alive({}, None, None)


def test_a_process_id_that_is_none_is_passed_over(here: dict[str, Any]) -> None:
    assert is_alive({**here, "pid": "4 of them"}, NOW, None, now=NOW)
    assert not is_alive({**here, "pid": "4 of them"}, LONG_AGO, None)
    assert is_alive({**here, "process_start": "today", "process_ticks": "many"}, LONG_AGO, None)
