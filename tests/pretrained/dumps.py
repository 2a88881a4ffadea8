"""Writes what ``mongodump`` writes, from the description of the format, without the package's reader."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bson

TERMINATOR = b"\xff\xff\xff\xff"
Collections = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]


def crc64(data: bytes) -> int:
    """CRC-64 of ECMA-182, reflected, bit by bit."""
    register = 2**64 - 1
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0xC96C5795D7870F42 if register & 1 else 0)
    return register ^ 2**64 - 1


def archive_bytes(collections: Collections, segment: int = 3, crcs: bool = True) -> bytes:
    """Give an archive whose collections take turns, ``segment`` documents at a time."""
    parts = [
        bytes.fromhex("6de29981"),
        bson.encode(
            {"concurrent_collections": 4, "version": "0.1", "server_version": "5.0.2", "tool_version": "100.5"}
        ),
    ]
    for (database, collection), documents in collections.items():
        size = sum(len(bson.encode(document)) for document in documents)
        metadata = json.dumps({"options": {}, "indexes": []})
        parts.append(
            bson.encode({"db": database, "collection": collection, "metadata": metadata, "size": size, "type": ""})
        )
    parts.append(TERMINATOR)
    waiting = {name: [bson.encode(document) for document in documents] for name, documents in collections.items()}
    whole = {name: b"".join(documents) for name, documents in waiting.items()}
    while waiting:
        for name in list(waiting):
            taken, waiting[name] = waiting[name][:segment], waiting[name][segment:]
            if taken:
                parts += [_header(name), *taken, TERMINATOR]
            if not waiting[name]:
                number = crc64(whole[name]) if crcs else 0
                parts += [_header(name, True, number - 2**64 if number >= 2**63 else number), TERMINATOR]
                del waiting[name]
    return b"".join(parts)


def write_folder(path: Path, collections: Collections, compressed: bool = False) -> None:
    """Write a folder for each database, a ``.bson`` and a ``.metadata.json`` for each collection."""
    write, end = (gzip.compress, ".gz") if compressed else (bytes, "")
    for (database, collection), documents in collections.items():
        folder = path / database
        folder.mkdir(parents=True, exist_ok=True)
        content = b"".join(map(bson.encode, documents))
        (folder / f"{collection}.bson{end}").write_bytes(write(content))
        (folder / f"{collection}.metadata.json{end}").write_bytes(write(json.dumps({"indexes": []}).encode()))


def _header(name: tuple[str, str], end: bool = False, crc: int = 0) -> bytes:
    return bson.encode({"db": name[0], "collection": name[1], "EOF": end, "CRC": bson.Int64(crc)})
