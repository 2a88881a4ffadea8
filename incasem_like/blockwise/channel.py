"""What a scheduler and a worker say to each other: JSON in frames, each proved by the run's token; knows no sockets.

Each side first sends a magic word and a random number. Both numbers and the token give the key of the connection;
every frame carries an HMAC over its direction, its place in the stream and its content. A frame that cannot be proved
ends the connection, so that nobody without the token is heard, and nothing that was said once can be said again.
Nothing a worker sends is ever unpickled.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
from typing import Any, Literal

Message = dict[str, Any]
Role = Literal["scheduler", "worker"]

MAGIC = b"incasem-like blockwise 1\n"
TOKEN_VARIABLE = "INCASEM_WORKER_TOKEN"  # of the environment; workers that inherit their connection find it there
_NONCE = 32
_MAC = 32
_LENGTH = struct.Struct(">I")
_COUNTER = struct.Struct(">Q")
LONGEST_OF_STRANGERS = 2**16  # bytes; from a peer that has not proved the token yet
LONGEST = 2**28


class ProtocolError(Exception):
    """What came is not from a holder of the token."""


class Channel:
    """One end of a connection: bytes in, messages out, and the other way round.

    Args:
        token: The run's secret.
        role: Which end this is.
    """

    def __init__(self, token: bytes, role: Role) -> None:
        self._token, self._role = token, role
        self._nonce = os.urandom(_NONCE)
        self._key = b""
        self._received = bytearray()
        self._count_in = self._count_out = 0

    @property
    def proved(self) -> bool:
        """Whether the other side has shown that it holds the token."""
        return self._count_in > 0

    @property
    def ready(self) -> bool:
        """Whether the other side's random number is in, without which nothing can be packed."""
        return bool(self._key)

    def opening(self) -> bytes:
        """Return what has to be sent before anything else."""
        return MAGIC + self._nonce

    def pack(self, message: Message) -> bytes:
        """Return the frame of a message."""
        body = json.dumps(message, separators=(",", ":")).encode()
        mac = self._mac(self._role, self._count_out, body)
        self._count_out += 1
        return _LENGTH.pack(len(body)) + mac + body

    def feed(self, data: bytes) -> list[Message]:
        """Take what arrived and return the messages that are whole by now.

        Raises:
            ProtocolError: The other side speaks otherwise or does not hold the token.
        """
        self._received += data
        if not self._key and not self._open():
            return []
        messages = []
        while (body := self._next_body()) is not None:
            messages.append(self._read(body))
        return messages

    def _open(self) -> bool:
        whole = len(MAGIC) + _NONCE
        if not MAGIC.startswith(bytes(self._received[: len(MAGIC)])):
            raise ProtocolError("it speaks another protocol")
        if len(self._received) < whole:
            return False
        theirs = bytes(self._received[len(MAGIC) : whole])
        del self._received[:whole]
        both = self._nonce + theirs if self._role == "scheduler" else theirs + self._nonce
        self._key = hmac.digest(self._token, MAGIC + both, hashlib.sha256)
        return True

    def _next_body(self) -> bytes | None:
        """Take one frame off what was received, checked; None while it is not whole."""
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if length > (LONGEST if self.proved else LONGEST_OF_STRANGERS):
            raise ProtocolError("a message is too long")
        begin = _LENGTH.size + _MAC
        if len(self._received) < begin + length:
            return None
        mac = bytes(self._received[_LENGTH.size : begin])
        body = bytes(self._received[begin : begin + length])
        other: Role = "worker" if self._role == "scheduler" else "scheduler"
        if not hmac.compare_digest(mac, self._mac(other, self._count_in, body)):
            raise ProtocolError("it does not hold the token of this run")
        del self._received[: begin + length]
        self._count_in += 1
        return body

    def _mac(self, role: Role, count: int, body: bytes) -> bytes:
        return hmac.digest(self._key, role[:1].encode() + _COUNTER.pack(count) + body, hashlib.sha256)

    @staticmethod
    def _read(body: bytes) -> Message:
        try:
            message = json.loads(body)
        except ValueError as error:
            raise ProtocolError("a message is no JSON") from error
        if not isinstance(message, dict):
            raise ProtocolError("a message is no mapping")
        return message
