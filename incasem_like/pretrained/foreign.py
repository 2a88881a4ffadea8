"""Trainings recorded by other programs, converted to this package's run format but not yet stored; ``mock_db``.

``mock_db`` is the folder of JSON configurations that incasem's branches without a database use: a ``ledger.json`` of
the form ``{"1841": "er_1841.json"}``, and the named files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from incasem_like.config.reading import parse_json, read_text
from incasem_like.errors import ConfigError, InputError
from incasem_like.pretrained.translation import parent_of, translate
from incasem_like.tracking.model.summaries import unpickled
from incasem_like.tracking.series import Metric
from incasem_like.tracking.values import plain, without_credentials

ORIGIN = "imported"
LEDGER = "ledger.json"
_NAME_AND_ID = re.compile(r"(?P<name>.*?)_?(?P<id>\d+)$")
_COMMENT = "configuration imported from incasem's {file}; metrics, times and state are not known"


@dataclass(frozen=True)
class ForeignRun:
    """A training from another store.

    Attributes:
        id: Its id there; None where it had none.
        name: Its name there.
        identity: Text that identifies it when it is imported a second time.
        document: Its record, with the keys of ``RunStore.read_document`` except ``artifacts``.
        metrics: Its metrics by name.
        artifacts: The content of its files, by name.
        sources: The content of its source files, by name.
        tags: As Omniboard shows them.
        notes: As Omniboard shows them.
        problem: Why its configuration could not be translated, so that the record can only be read; empty
            if it could.
        missing: Names of its files that are missing or incomplete.
    """

    id: int | None
    name: str
    identity: str
    document: dict[str, Any]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    artifacts: Mapping[str, bytes] = field(default_factory=dict)
    sources: Mapping[str, bytes] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    notes: str = ""
    problem: str = ""
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Configuration:
    """The configuration of an import, and notes about its translation.

    Attributes:
        config: The configuration in this package's form; the original if the translation failed.
        info: ``original_config`` and the notes about its translation.
        problem: See ``ForeignRun``.
    """

    config: dict[str, Any]
    info: dict[str, Any]
    problem: str = ""


def configuration(original: Mapping[str, Any], source: str) -> Configuration:
    """Translate a configuration; if that fails, keep the original, with the reason.

    Args:
        original: The configuration in its original store.
        source: See ``translate``.
    """
    unchanged = without_credentials(plain(unpickled(original)))
    try:
        translated = translate(original, source)
    except ConfigError as error:
        return Configuration(unchanged, {"original_config": unchanged}, str(error))
    notes = {"left_out": list(translated.left_out), "replaced": list(translated.replaced)}
    info = {"original_config": unchanged, "translation": notes}
    parent = parent_of(original)
    return Configuration(without_credentials(translated.config), info | ({"parent": parent} if parent else {}))


def origin(identity: str, source: str, foreign_id: int | None) -> dict[str, Any]:
    """Return the record of an imported run's origin.

    Args:
        identity: See ``ForeignRun``.
        source: File or folder that it was read from.
        foreign_id: Its id there, or None.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {ORIGIN: {"identity": identity, "from": source, "original_id": foreign_id, "time": now}}


def blank_document(
    run_id: int | None, name: str, comment: str, config: Mapping[str, Any], info: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the record of a training known only by its configuration; its times are those of the import."""
    now = datetime.now(UTC)
    options = {"--name": name, "--comment": comment, "--id": run_id}
    unknown: dict[str, list[Any]] = {"sources": [], "dependencies": [], "repositories": []}
    return {
        "experiment": {"name": name, "base_dir": "", "mainfile": None, **unknown},
        "command": "train",
        "host": {},
        "meta": {"command": "train", "comment": comment, "options": options},
        "status": "COMPLETED",
        "start_time": now,
        "stop_time": now,
        "heartbeat": now,
        "result": None,
        "config": config,
        "info": info,
        "captured_out": "",
        "fail_trace": [],
    }


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
    present = {run_id: file for run_id, file in sorted(files.items()) if file.is_file()}
    return MockDb(present, tuple(sorted(set(files) - set(present))))


def id_in_name(path: Path) -> int | None:
    """Read the id of a run from the name of its JSON, ``er_1841.json``; None for any other file."""
    found = _NAME_AND_ID.match(path.stem)
    return int(found["id"]) if found is not None and path.suffix == ".json" and path.name != LEDGER else None


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
    digest = hashlib.sha256(json.dumps(original, sort_keys=True).encode()).hexdigest()
    identity = f"mock_db run {run_id} of sha256 {digest}"
    info = settings.info | origin(identity, str(path), run_id)
    document = blank_document(run_id, name, _COMMENT.format(file=path.name), settings.config, info)
    return ForeignRun(run_id, name, identity, document, problem=settings.problem)


def _read(path: Path) -> dict[str, Any]:
    content = parse_json(read_text(path, "The run"), str(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a configuration of a training: name another file.")
    return content
