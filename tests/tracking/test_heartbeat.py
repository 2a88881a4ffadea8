"""The thread that writes a run's record: nothing that happens to it makes the run wait."""

import logging
import threading
import time

import pytest

from incasem_like.tracking.liveness import Heartbeat


def test_now_returns_when_the_beat_is_done_and_stop_beats_once_more() -> None:
    beats: list[int] = []
    heart = Heartbeat(lambda: beats.append(len(beats)), interval=60)
    heart.start()
    heart.now()
    assert beats == [0]
    heart.stop()
    assert beats == [0, 1]
    assert not heart.is_alive()


def test_a_beat_that_fails_is_told_once_and_the_next_ones_are_made(caplog: pytest.LogCaptureFixture) -> None:
    beats: list[int] = []

    def beat() -> None:
        beats.append(1)
        raise ValueError("secret")

    heart = Heartbeat(beat, interval=60)
    heart.start()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            heart.now()
    heart.stop()
    assert len(beats) == 4
    (line,) = caplog.messages
    assert "ValueError" in line
    assert "secret" not in line


def test_nobody_waits_for_a_thread_that_is_gone() -> None:
    heart = Heartbeat(lambda: None, interval=60)
    heart.start()
    heart.stop()
    start = time.monotonic()
    heart.now()
    assert time.monotonic() - start < 45


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_while_somebody_waits_lets_go_of_him() -> None:
    def beat() -> None:
        raise SystemExit  # ends the thread, as the interpreter's own shutdown may

    heart = Heartbeat(beat, interval=60)
    heart.start()
    waiting = threading.Thread(target=heart.now, daemon=True)
    waiting.start()
    waiting.join(timeout=45)
    assert not waiting.is_alive()


def test_waiting_for_a_beat_that_hangs_ends_in_time() -> None:
    let_go = threading.Event()
    heart = Heartbeat(lambda: (let_go.wait(), None)[1], interval=60)
    heart.start()
    start = time.monotonic()
    assert not heart.wait(heart.ask(), seconds=0.1)
    assert time.monotonic() - start < 45
    let_go.set()
    heart.stop()
