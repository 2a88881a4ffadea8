"""JSON documents beside the chunks, in TensorStore's key-value stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from incasem_like.errors import DataError
from incasem_like.volumes.address import Address
from incasem_like.volumes.faults import translated

Document = dict[str, Any]


class Documents:
    """The JSON documents and keys of one container, on a local disk or remote."""

    def __init__(self, address: Address) -> None:
        self.address = address

    @property
    def _keys(self) -> Any:
        from incasem_like.volumes.context import open_keys  # TensorStore is loaded when the first array is opened

        return open_keys(self.address)

    def read(self, key: str) -> Document | None:
        """Read a JSON document, or None when there is none of that name.

        Raises:
            DataError: It is not a JSON object, or cannot be reached.
        """
        return self._read(key)[0]

    def _read(self, key: str) -> tuple[Document | None, bytes]:
        with translated(f"{self.address.container}/{key}", "reading"):
            found = self._keys.read(key).result()
        if found.state != "value":
            return None, found.stamp.generation
        try:
            document = json.loads(found.value)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise DataError(
                f"{self.address.container}/{key} is damaged: it holds no JSON object; restore or rewrite it."
            )
        return document, found.stamp.generation

    def write(self, key: str, document: Document) -> None:
        """Write a JSON document atomically: a reader sees the old one or the new one, never a part.

        Raises:
            DiskFullError, InputError: When it cannot be written.
        """
        with translated(self.address.container, "writing"):
            self._keys.write(key, _encode(document)).result()

    def update(self, key: str, change: Callable[[Document], Document]) -> Document:
        """Read, change and write a document; retried when another process wrote it meanwhile.

        Args:
            key: Name inside the container.
            change: Receives the document (empty when there is none) and returns the new one.
        """
        while True:
            before, generation = self._read(key)
            after = change(dict(before or {}))
            if before is not None and after == before:
                return after
            with translated(self.address.container, "writing"):
                stamp = self._keys.write(key, _encode(after), if_equal=generation).result()
            if stamp.generation:  # empty when another process was first
                return after

    def delete(self, folder: str, first: str) -> None:
        """Delete every key of a folder, the key ``first`` before all others."""
        with translated(self.address.container, "writing"):
            keys = self._below(folder)
            keys.write(first, None).result()
            keys.delete_range(keys.KeyRange()).result()

    def list(self, folder: str = "") -> list[str]:
        """List the keys below a folder, by their names in it.

        Raises:
            DataError: The store is unreachable, or cannot list keys (HTTP).
        """
        with translated(self.address.container, "reading"):
            keys = self._below(folder).list().result()
        return sorted(key.decode() for key in keys)

    def _below(self, folder: str) -> Any:
        return self._keys / f"{folder}/" if folder else self._keys


def _encode(document: Document) -> bytes:
    return json.dumps(document, indent=4).encode()
