import signal

import pytest

from incasem_like.training.trainer import Interruption


def interrupt_once() -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.requested
        interruption.deliver()


def interrupt_twice() -> None:
    with Interruption():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")


def terminate(seen: list[int]) -> None:
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGTERM)
        assert seen == []
        interruption.deliver()


def test_first_signal_is_only_noted_and_delivered_on_request() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupt_once()
    assert signal.getsignal(signal.SIGINT) is before


def test_second_signal_takes_effect_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()


def test_termination_reaches_the_handler_that_was_there_before() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            terminate(seen)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_stays_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(number)
            assert not interruption.requested
    finally:
        signal.signal(number, before)


def test_a_closed_terminal_is_noted_like_ctrl_c() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: seen.append(number))
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            assert interruption.requested
            assert seen == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_without_a_signal_nothing_is_delivered() -> None:
    with Interruption() as interruption:
        interruption.deliver()
        assert not interruption.requested
