"""Check that the outputs of a command overlap none of its inputs, however the addresses are spelled."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from incasem_like.disk import check_writable
from incasem_like.errors import InputError
from incasem_like.volumes.address import Address, parse_address

Location = str | Path | Address


def check_outputs(outputs: Sequence[Location], inputs: Sequence[Location], remedy: str) -> None:
    """Check that outputs can be made, and replace no input and no other output; call it before anything is touched.

    Paths are compared as the file system resolves them: through symbolic links, mounts, relative paths, the case of
    letters where it is ignored, and wherever container and dataset are separated. Remote addresses are normalised.

    Args:
        outputs: Datasets, or folders of files as ``Path``.
        inputs: Likewise. A folder of files may hold an output, an array may not.
        remedy: What to do, such as ``choose another --out_dataset``.

    Raises:
        InputError: An output is an input, holds one (which would be deleted with it) or lies in one, or two outputs
            overlap; or a new one cannot be written.
    """
    placed = [_Place.of(output) for output in outputs]
    for source in map(_Place.of, inputs):
        for output in placed:
            if output.is_at(source):
                raise InputError(f"The output {output.shown} would replace the input {source.shown}: {remedy}.")
            if output.holds(source):
                raise InputError(
                    f"The output {output.shown} holds the input {source.shown}, which would be deleted with it: "
                    f"{remedy}."
                )
            if source.holds(output) and not source.is_folder:
                raise InputError(f"The output {output.shown} lies inside the input {source.shown}: {remedy}.")
    for index, output in enumerate(placed):
        for other in placed[:index]:
            if output.holds(other) or other.holds(output):
                raise InputError(f"The outputs {other.shown} and {output.shown} overlap: {remedy}.")
    for output in placed:
        if output.path is not None and not output.path.exists():
            check_writable(output.path, remedy)


@dataclass(frozen=True)
class _Place:
    """A resolved address.

    Attributes:
        shown: The address as given.
        chain: Names of the address and of each folder above it, from the outermost; addresses that share a name at
            their end are the same.
        is_folder: Whether it is a folder of files, not an array.
        path: Where it is on this machine; None where it is remote.
    """

    shown: str
    chain: tuple[frozenset[Hashable], ...]
    is_folder: bool
    path: Path | None

    @classmethod
    def of(cls, location: Location) -> _Place:
        if isinstance(location, Path):
            return cls(str(location), _local_chain(location), is_folder=True, path=location)
        address = parse_address(location) if isinstance(location, str) else location
        path = Path(address.location) if address.is_local else None
        chain = _remote_chain(address.location) if path is None else _local_chain(path)
        return cls(str(address), chain, is_folder=False, path=path)

    def is_at(self, other: _Place) -> bool:
        return not self.chain[-1].isdisjoint(other.chain[-1])

    def holds(self, other: _Place) -> bool:
        """Whether the other address is this one or lies below it."""
        return any(not self.chain[-1].isdisjoint(names) for names in other.chain)


def _local_chain(path: Path) -> tuple[frozenset[Hashable], ...]:
    """Return names of every folder down to a path: the resolved path, and device and inode where it exists."""
    resolved = Path(os.path.realpath(path))
    chain: list[frozenset[Hashable]] = []
    identity: tuple[Hashable, ...] = ()
    for part in (*reversed(resolved.parents), resolved):
        try:
            status = part.stat()
        except OSError:
            identity = (*identity, part.name)
        else:
            identity = (status.st_dev, status.st_ino) if status.st_ino else (str(part),)
        chain.append(frozenset({str(part), identity}))
    return tuple(chain)


def _remote_chain(url: str) -> tuple[frozenset[Hashable], ...]:
    """Return names of every prefix of a URL; the host is compared case-insensitively."""
    parts = urlsplit(url)
    host = f"{parts.scheme.lower()}://{parts.netloc.lower()}"
    path = PurePosixPath(os.path.normpath(f"/{unquote(parts.path).lstrip('/')}"))
    return tuple(frozenset({f"{host}{prefix}"}) for prefix in (*reversed(path.parents), path))
