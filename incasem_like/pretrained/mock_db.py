"""``mock_db``: the folder of JSON configurations that incasem's branches without a database use."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from incasem_like.config.reading import parse_json, read_text
from incasem_like.errors import InputError
from incasem_like.pretrained.foreign import ForeignRun, blank_document, configuration, origin

LEDGER = "ledger.json"
_NAME_AND_ID = re.compile(r"(?P<name>.*?)_?(?P<id>\d+)$")
_COMMENT = "configuration imported from incasem's {file}; metrics, times and state are not known"


@dataclass(frozen=True)
class MockDb:
    """A ledger and its files.

    Attributes:
        files: The JSON of each run, by id.
        missing: Ids in the ledger whose file is missing.
    """

    files: dict[int, Path]
    missing: tuple[int, ...]

    def trainings(self, wanted: Sequence[int] | None = None) -> Iterator[ForeignRun]:
        """Yield the trainings; all if none are named.

        Raises:
            ConfigError: A file is not JSON.
        """
        for run_id, path in self.files.items():
            if (wanted is None or run_id in wanted) and prediction_of(path, run_id) is None:
                yield read_run(path, run_id)


def is_mock_db(path: Path) -> bool:
    """Return whether a path is such a folder or its ledger."""
    return (path / LEDGER).is_file() or path.name == LEDGER


def read_mock_db(path: Path) -> MockDb:
    """Read the ledger of a folder, or the ledger itself.

    Raises:
        ConfigError: It is not JSON.
        InputError: It is not a mapping from ids to files.
    """
    ledger = path / LEDGER if path.is_dir() else path
    entries = parse_json(read_text(ledger, "The ledger"), str(ledger))
    if not isinstance(entries, Mapping) or not all(
        str(key).isdigit() and isinstance(name, str) and name for key, name in entries.items()
    ):
        raise InputError(f'{ledger} is not a ledger of runs: it must have the form {{"1841": "er_1841.json"}}.')
    files = {int(key): ledger.parent / name for key, name in entries.items()}
    there = {run_id: file for run_id, file in sorted(files.items()) if file.is_file()}
    return MockDb(there, tuple(sorted(set(files) - set(there))))


def is_run_file(path: Path) -> bool:
    """Return whether a file is the JSON of one run, ``er_1841.json``."""
    return path.suffix == ".json" and path.name != LEDGER and _NAME_AND_ID.match(path.stem) is not None


def id_in_name(path: Path) -> int:
    """Read the id of a run from the name of its JSON."""
    found = _NAME_AND_ID.match(path.stem)
    assert found is not None, "only names with an id are asked"
    return int(found["id"])


def prediction_of(path: Path, run_id: int) -> int | None:
    """Return the training that a prediction was made with, None for a training; both are in one ledger.

    The published trainings contain the settings of a prediction too, which refers to themselves.
    """
    prediction = _read(path).get("prediction")
    used = prediction.get("run_id_training") if isinstance(prediction, Mapping) else None
    training = int(str(used)) if str(used).isdigit() else run_id
    return training if training != run_id else None


def read_run(path: Path, run_id: int) -> ForeignRun:
    """Read the JSON of a training.

    Raises:
        ConfigError: It is not JSON.
        InputError: It is not the configuration of a training.
    """
    original = _read(path)
    if not isinstance(original.get("model"), Mapping) or not isinstance(original.get("training"), Mapping):
        raise InputError(f"{path} is not a configuration of a training (no 'training' and 'model'): name another file.")
    settings = configuration(original, f"in {path}")
    found = _NAME_AND_ID.match(path.stem)
    name = str(original.get("name") or (found["name"] if found else "") or path.stem)
    text = json.dumps(original, sort_keys=True)
    identity = f"mock_db run {run_id} of sha256 {hashlib.sha256(text.encode()).hexdigest()}"
    document = blank_document(run_id, name, _COMMENT.format(file=path.name))
    document["config"] = settings.config
    document["info"] = settings.info | origin(identity, str(path), run_id)
    return replace(ForeignRun(run_id, name, identity, document), problem=settings.problem)


def _read(path: Path) -> dict[str, Any]:
    content = parse_json(read_text(path, "The run"), str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a configuration of a training: name another file.")
    return content
