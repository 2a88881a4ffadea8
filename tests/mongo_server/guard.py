"""A gate before a MongoDB server that knows no users: it asks for name and password by SCRAM, as a real one does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import struct
import threading
from typing import Any

import bson

_HEADER = struct.Struct("<iiii")  # length, request, what it answers, kind
_MESSAGE = 2013
_OPEN_TO_ALL = {"hello", "ismaster", "isMaster", "ping", "buildInfo", "buildinfo"}
_HASHES = {"SCRAM-SHA-1": "sha1", "SCRAM-SHA-256": "sha256"}
_ROUNDS = 4096
_REFUSED = {"ok": 0.0, "code": 18, "codeName": "AuthenticationFailed", "errmsg": "Authentication failed."}


class Guard:
    """Takes connections on 127.0.0.1 and passes on what users say who proved their password.

    Args:
        target: The server's port.
        user: The one user there is.
        password: The user's.

    Attributes:
        port: Where it listens.
        mechanisms: By which mechanism each connection was authenticated.
    """

    def __init__(self, target: int, user: str, password: str) -> None:
        self.target, self.user, self.password = target, user, password
        self.mechanisms: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        conversation = _Conversation(self.user, self.password)
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            try:
                while message := _receive(client):
                    answer = _answer(message, conversation)
                    if answer is None:
                        server.sendall(message)
                        answer = _receive(server)
                    elif conversation.is_proven and conversation.mechanism not in self.mechanisms:
                        self.mechanisms.append(conversation.mechanism)
                    client.sendall(answer)
            except OSError:
                return


class _Conversation:
    """One client's proof that it knows the password (RFC 5802)."""

    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password
        self.mechanism, self.is_proven = "", False

    def start(self, command: dict[str, Any]) -> dict[str, Any]:
        self.mechanism, self.is_proven = command["mechanism"], False
        self._first = bytes(command["payload"]).removeprefix(b"n,,")
        said = _fields(self._first)
        if said["n"] != self._user or self.mechanism not in _HASHES:
            return _REFUSED
        self._salt, self._nonce = os.urandom(16), said["r"] + os.urandom(9).hex()
        self._challenge = f"r={self._nonce},s={base64.b64encode(self._salt).decode()},i={_ROUNDS}".encode()
        return {"ok": 1.0, "conversationId": 1, "done": False, "payload": self._challenge}

    def finish(self, command: dict[str, Any]) -> dict[str, Any]:
        name = _HASHES[self.mechanism]
        bare, _, proof = bytes(command["payload"]).rpartition(b",p=")
        secret = self._password
        if name == "sha1":  # MongoDB's own first step
            secret = hashlib.md5(f"{self._user}:mongo:{secret}".encode(), usedforsecurity=False).hexdigest()
        salted = hashlib.pbkdf2_hmac(name, secret.encode(), self._salt, _ROUNDS)
        said = b",".join((self._first, self._challenge, bare))
        expected = hmac.digest(salted, b"Client Key", name)
        signature = hmac.digest(hashlib.new(name, expected).digest(), said, name)
        key = bytes(one ^ other for one, other in zip(base64.b64decode(proof), signature, strict=True))
        self.is_proven = _fields(bare)["r"] == self._nonce and key == expected
        if not self.is_proven:
            return _REFUSED
        verified = b"v=" + base64.b64encode(hmac.digest(hmac.digest(salted, b"Server Key", name), said, name))
        return {"ok": 1.0, "conversationId": 1, "done": True, "payload": verified}


def _answer(message: bytes, conversation: _Conversation) -> bytes | None:
    """Give the gate's own answer; None for what the server is to answer."""
    _, request, _, kind = _HEADER.unpack_from(message)
    if kind != _MESSAGE:
        return None  # the greeting of older clients
    command = bson.decode(message[21 : 21 + struct.unpack_from("<i", message, 21)[0]])
    name = next(iter(command))
    if name == "saslStart":
        answer = conversation.start(command)
    elif name == "saslContinue":
        answer = conversation.finish(command)
    elif conversation.is_proven or name in _OPEN_TO_ALL:
        return None
    else:
        said = f"Command {name} requires authentication"
        answer = {"ok": 0.0, "code": 13, "codeName": "Unauthorized", "errmsg": said}
    body = bytes(5) + bson.encode(answer)
    return _HEADER.pack(_HEADER.size + len(body), 0, request, _MESSAGE) + body


def _receive(end: socket.socket) -> bytes:
    """Read one message; empty when the other end is gone."""
    start = end.recv(4, socket.MSG_WAITALL)
    if len(start) < 4:
        return b""
    return start + end.recv(struct.unpack("<i", start)[0] - 4, socket.MSG_WAITALL)


def _fields(text: bytes) -> dict[str, str]:
    parts = (part.partition("=") for part in text.decode().split(","))
    return {name: value for name, _, value in parts}
