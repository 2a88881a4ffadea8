"""Who does not hold the token is not heard, and nothing said on a connection can be changed or said again."""

import struct

import pytest

from incasem_like.blockwise.channel import LONGEST_OF_STRANGERS, MAGIC, Channel, ProtocolError

TOKEN = bytes(range(32))


def connected(theirs: bytes = TOKEN) -> tuple[Channel, Channel]:
    scheduler, worker = Channel(TOKEN, "scheduler"), Channel(theirs, "worker")
    assert scheduler.feed(worker.opening()) == []
    assert worker.feed(scheduler.opening()) == []
    return scheduler, worker


def test_messages_arrive_in_order_however_they_are_cut() -> None:
    scheduler, worker = connected()
    sent = [{"type": "hello", "name": "wörker"}, {"blocks": list(range(1000))}, {}]
    data = b"".join(worker.pack(message) for message in sent)
    heard = [message for at in range(0, len(data), 7) for message in scheduler.feed(data[at : at + 7])]
    assert heard == sent
    assert scheduler.proved
    assert worker.feed(scheduler.pack({"type": "task"})) == [{"type": "task"}]


def test_another_token_is_not_heard() -> None:
    scheduler, worker = connected(theirs=bytes(32))
    with pytest.raises(ProtocolError, match="token"):
        scheduler.feed(worker.pack({"type": "hello"}))
    assert not scheduler.proved


def test_a_worker_does_not_obey_a_scheduler_without_the_token() -> None:
    scheduler, worker = connected(theirs=bytes(32))
    with pytest.raises(ProtocolError, match="token"):
        worker.feed(scheduler.pack({"type": "task", "payload": "..."}))


def test_a_changed_byte_is_noticed() -> None:
    scheduler, worker = connected()
    frame = bytearray(worker.pack({"type": "results", "results": [[1, 0.1, None]]}))
    frame[-10] ^= 1
    with pytest.raises(ProtocolError, match="token"):
        scheduler.feed(bytes(frame))


def test_nothing_can_be_said_twice_or_sent_back() -> None:
    scheduler, worker = connected()
    frame = worker.pack({"type": "results"})
    assert scheduler.feed(frame)
    with pytest.raises(ProtocolError, match="token"):
        scheduler.feed(frame)
    scheduler, worker = connected()
    with pytest.raises(ProtocolError, match="token"):
        worker.feed(worker.pack({"type": "stop"}))


def test_a_recorded_connection_is_worth_nothing_on_another() -> None:
    first, worker = connected()
    recorded = worker.opening() + worker.pack({"type": "hello"})
    second = Channel(TOKEN, "scheduler")
    with pytest.raises(ProtocolError, match="token"):
        second.feed(recorded)
    assert not first.proved


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100], ids=["http", "zeros"])
def test_other_protocols_are_told_apart_at_once(said: bytes) -> None:
    with pytest.raises(ProtocolError, match="another protocol"):
        Channel(TOKEN, "scheduler").feed(said)


def test_a_stranger_cannot_announce_a_long_message() -> None:
    scheduler = Channel(TOKEN, "scheduler")
    with pytest.raises(ProtocolError, match="too long"):
        scheduler.feed(MAGIC + bytes(32) + struct.pack(">I", LONGEST_OF_STRANGERS + 1))
