"""The cache of measurements in the user's cache folder, keyed by everything that they depend on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incasem_like.disk import write_whole
from incasem_like.tracking.model.cache import cache_directory
from incasem_like.volumes.provenance import digest


class Kept:
    """One file of the cache.

    Args:
        kind: Kind of measurement; the name of its folder.
        facts: Everything that the content depends on; JSON-serializable.
    """

    def __init__(self, kind: str, facts: Mapping[str, Any]) -> None:
        self.path: Path = cache_directory() / kind / f"{digest(dict(facts))[:32]}.json"

    def read(self) -> Any:
        """Return the cached value; None if the file does not exist or is damaged."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write(self, value: Any) -> None:
        """Store a JSON-serializable value; if the cache cannot be written, it is measured again next time."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, lambda file: file.write(json.dumps(value).encode()))
