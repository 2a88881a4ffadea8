"""A folder of tables or files that appears whole, says how it was made, and is not made twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incasem_like.disk import check_writable, only_writer, whole_folder
from incasem_like.errors import DataError, InputError
from incasem_like.volumes import Volume, make_provenance
from incasem_like.volumes.chunk_files import digest

PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class ResultFolder:
    """A folder, and what it is made from.

    Attributes:
        path: The folder; it must not exist, or hold an earlier result.
        tool: What makes it.
        parameters: All that the result depends on beside the volumes, JSON-serializable.
        inputs: The volumes.
        overwrite: Whether a result of other options or volumes is replaced.

    >>> import tempfile
    >>> folder = ResultFolder(Path(tempfile.mkdtemp()) / "tables", "measure", {"surfaces": True})
    >>> with folder.fill(run_id=None) as partial:
    ...     _ = (partial / "objects.csv").write_text("id")
    >>> folder.is_finished(), sorted(path.name for path in folder.path.iterdir())
    (True, ['objects.csv', 'provenance.json'])
    """

    path: Path
    tool: str
    parameters: Mapping[str, Any]
    inputs: Sequence[Volume] = field(default=())
    overwrite: bool = False

    def is_finished(self) -> bool:
        """Return whether the folder holds the result already.

        Raises:
            InputError: It holds something else, and ``overwrite`` is False; or something that no tool here made; or
                it cannot be made.
        """
        if not self.path.exists():
            check_writable(self.path, "name another folder")
            return False
        try:
            found = json.loads((self.path / PROVENANCE).read_text(encoding="utf-8"))
            same = self._identity(found) == self._identity(make_provenance(self.tool, self.parameters, self.inputs))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path} exists and holds no result of this script: name another folder.") from error
        if not same and not self.overwrite:
            raise InputError(
                f"{self.path} was made with other options or from other volumes: add --overwrite to replace it, or "
                "name another folder."
            )
        return same

    @property
    def parts(self) -> Path:
        """The hidden folder beside it where blocks leave their parts until all are done."""
        identity = self._identity(make_provenance(self.tool, self.parameters, self.inputs))
        return self.path.with_name(f".{self.path.name}-{digest(identity)[:10]}")

    @contextmanager
    def making(self) -> Iterator[None]:
        """Claim the parts, and remove them if the input is refused; an interrupted call leaves them to resume.

        Raises:
            InputError: Another process makes the same.
        """
        with only_writer(self.parts / "claim"):
            try:
                yield
            except (DataError, InputError):
                shutil.rmtree(self.parts, ignore_errors=True)
                raise

    @contextmanager
    def fill(self, run_id: int | None) -> Iterator[Path]:
        """Yield an empty folder to fill, which then replaces an earlier result; the parts are removed after it.

        Raises:
            InputError: As ``is_finished``; another process may have written its result in the meantime.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        parts, provenance = self.parts, make_provenance(self.tool, self.parameters, self.inputs, run_id)
        old = self.path.with_name(f".{self.path.name}.old")
        with whole_folder(self.path) as folder:
            yield folder
            (folder / PROVENANCE).write_text(json.dumps(provenance, indent=1), encoding="utf-8")
            self.is_finished()
            if self.path.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(self.path, old)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(parts, ignore_errors=True)

    @staticmethod
    def _identity(provenance: Mapping[str, Any]) -> list[Any]:
        contents = [item["content_hash"] for item in provenance["inputs"]]
        return [provenance["tool"], provenance["parameters"], contents]
