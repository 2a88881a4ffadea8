"""A file that a run tracked, and the places where it can be had: folders, the cache, the run store, a URL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from incasem_like.errors import CheckpointError, StoreError
from incasem_like.tracking.checkpoints.cache import cached_path, fetch_into_cache, find_in_cache
from incasem_like.tracking.checkpoints.hashing import file_sha256

if TYPE_CHECKING:
    from incasem_like.tracking.mongo.checkpoint_files import CheckpointFiles, StoredFile

_SECONDS_WITHOUT_A_BYTE = 60
_BYTES_AT_ONCE = 1 << 20
# Under this a run notes which folders of runs it wrote to before it was continued with another one
EARLIER_FOLDERS = "earlier_runs_directories"


class Places:
    """Where the files of one run may be.

    Args:
        run_id: The run.
        folders: Folders of runs that its paths may be relative to: this machine's first, then those that the run wrote
            to, on whatever machine, the latest first.
        host: Name of the machine it ran on, or empty.
        stored_files: The run store's own copies; None for a store that keeps none.
        description: The run store, for messages.
    """

    def __init__(
        self,
        run_id: int,
        folders: Iterable[Path],
        host: str,
        stored_files: CheckpointFiles | None,
        description: str,
    ) -> None:
        self.run_id, self.host, self.description = run_id, host, description
        self.folders = list(dict.fromkeys(folders))
        self.stored_files = stored_files

    @cached_property
    def stored(self) -> dict[str, StoredFile]:
        """The run store's copies by hash, as they were when first asked for."""
        found = self.stored_files.of_run(self.run_id) if self.stored_files is not None else []
        return {copy.sha256: copy for copy in found}


@dataclass(frozen=True)
class TrackedFile:
    """A file as it was when a run registered it.

    Attributes:
        registered: Its path, relative to the runs directory or absolute.
        sha256: Of its content.
        bytes: Its length.
        places: Where it may be.
        url: Where it was published, or None.
    """

    registered: str
    sha256: str
    bytes: int
    places: Places = field(compare=False, repr=False)
    url: str | None = None

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], places: Places) -> TrackedFile:
        """Read what a run registered: path, sha256, bytes and perhaps a url."""
        url = entry.get("url")
        path = entry.get("path") or PurePosixPath(url or "").name
        return cls(path, entry["sha256"], int(entry["bytes"]), places, url)

    @property
    def entry(self) -> dict[str, Any]:
        """What ``from_entry`` reads."""
        entry: dict[str, Any] = {"path": self.registered, "sha256": self.sha256, "bytes": self.bytes}
        return entry if self.url is None else {**entry, "url": self.url}

    @property
    def name(self) -> str:
        """The name of the file."""
        return PurePosixPath(self.registered).name

    @property
    def candidates(self) -> list[Path]:
        """Paths where it may be, the likeliest first: below this machine's runs directory, where the run wrote it."""
        return list(dict.fromkeys(folder / self.registered for folder in self.places.folders))

    @property
    def path(self) -> Path:
        """The candidate that has a file of its length, else one that has a file, else the likeliest."""
        by_length = [path for path in self.candidates if self._has_its_length(path)]
        return (by_length or [path for path in self.candidates if path.is_file()] or self.candidates)[0]

    def can_be_had(self) -> bool:
        """Say whether it seems to be somewhere; lengths are looked at, but no file is read."""
        is_here = self.seems_here() or self._has_its_length(cached_path(self.name, self.sha256))
        return is_here or self.url is not None or self.sha256 in self.places.stored

    def is_nowhere(self) -> bool:
        """Say whether there is no trace of it: it cannot be had, and no other file stands in its place."""
        return not self.can_be_had() and not any(path.is_file() for path in self.candidates)

    def seems_here(self) -> bool:
        """Say whether a file of its length is where it should be in the folders of runs; nothing is read."""
        return any(map(self._has_its_length, self.candidates))

    def here(self) -> Path | None:
        """Find it in the folders of runs; files are held against their hash."""
        return next((path for path in self.candidates if not self._difference(path)), None)

    def fetch(self) -> Path:
        """Find it, fetch it if need be, and make sure that it is the one that was tracked.

        Raises:
            CheckpointError: It is nowhere to be had, or the copy elsewhere is damaged.
            StoreError: The run store, or where it was published, does not answer.
        """
        problems = []
        for path in self.candidates:
            difference = self._difference(path)
            if not difference:
                return path
            problems.append((path, difference))
        found = find_in_cache(self.name, self.sha256)
        return found or self._fetch_from_afar() or self._give_up(problems)

    def _fetch_from_afar(self) -> Path | None:
        copy = self.places.stored.get(self.sha256)
        if copy is not None:
            assert self.places.stored_files is not None
            read = partial(self.places.stored_files.read, copy)
            return fetch_into_cache(self.name, self.sha256, self.bytes, read, self.places.description)
        if self.url is not None:
            return fetch_into_cache(self.name, self.sha256, self.bytes, partial(_download, self.url), self.url)
        return None

    def _has_its_length(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_size == self.bytes

    def _difference(self, path: Path) -> str:
        """Say how a file differs from the one that was tracked; empty when it is that one."""
        if not path.is_file():
            return "missing"
        if (size := path.stat().st_size) != self.bytes:
            return f"{size} bytes, not {self.bytes}"
        digest = file_sha256(path)
        return "" if digest == self.sha256 else f"SHA-256 {digest[:12]}…, not {self.sha256[:12]}…"

    def _give_up(self, problems: list[tuple[Path, str]]) -> Path:
        """Say truthfully where it was looked for and what was found there."""
        changed = [f"{path} is another file ({difference})" for path, difference in problems if difference != "missing"]
        missing = [str(path) for path, difference in problems if difference == "missing"]
        absent = f"{' and '.join(missing)} {'do' if len(missing) > 1 else 'does'} not exist" if missing else ""
        machine = f" on {self.places.host}" if self.places.host else ""
        copies = f", and {self.places.description} has no copy" if self.places.stored_files is not None else ""
        raise CheckpointError(
            f"The checkpoint file {self.name} that run {self.places.run_id}{machine} tracked cannot be had here: "
            f"{', '.join([*changed, *filter(None, [absent])])}{copies}; restore the file, or choose another checkpoint."
        )


def _download(url: str) -> Iterator[bytes]:
    from urllib.error import URLError
    from urllib.request import urlopen  # takes 30 ms to import, which every command would pay

    try:
        with urlopen(url, timeout=_SECONDS_WITHOUT_A_BYTE) as answer:
            while block := answer.read(_BYTES_AT_ONCE):
                yield block
    except (URLError, OSError, ValueError) as error:
        raise StoreError(
            f"The checkpoint at {url} cannot be downloaded ({error}): check the network and the address."
        ) from None
