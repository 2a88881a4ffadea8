"""A training recorded by another program, converted to this package's run format but not yet stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from incasem_like.errors import ConfigError
from incasem_like.pretrained.manifest import PublishedModel
from incasem_like.pretrained.translation import parent_of, translate
from incasem_like.tracking.model.summaries import unpickled
from incasem_like.tracking.series import Metric
from incasem_like.tracking.values import plain, without_credentials

ORIGIN = "imported"


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
    kept = without_credentials(plain(unpickled(original)))
    try:
        translated = translate(original, source)
    except ConfigError as error:
        return Configuration(kept, {"original_config": kept}, str(error))
    notes = {"left_out": list(translated.left_out), "replaced": list(translated.replaced)}
    info = {"original_config": kept, "translation": notes}
    parent = parent_of(original)
    return Configuration(without_credentials(translated.config), {**info, **({"parent": parent} if parent else {})})


def origin(identity: str, source: str, foreign_id: int | None) -> dict[str, Any]:
    """Return the record of an imported run's origin.

    Args:
        identity: See ``ForeignRun``.
        source: File or folder that it was read from.
        foreign_id: Its id there, or None.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {ORIGIN: {"identity": identity, "from": source, "original_id": foreign_id, "time": now}}


def blank_document(run_id: int | None, name: str, comment: str) -> dict[str, Any]:
    """Make the record of a training known only by its configuration; its times are those of the import."""
    now = datetime.now(UTC)
    options = {"--name": name, "--comment": comment, "--id": run_id}
    return {
        "experiment": {
            "name": name,
            "base_dir": "",
            "sources": [],
            "dependencies": [],
            "repositories": [],
            "mainfile": None,
        },
        "command": "train",
        "host": {},
        "meta": {"command": "train", "comment": comment, "options": options},
        "status": "COMPLETED",
        "start_time": now,
        "stop_time": now,
        "heartbeat": now,
        "result": None,
        "config": {},
        "info": {},
        "captured_out": "",
        "fail_trace": [],
    }


def model_info(model: PublishedModel | None) -> dict[str, Any]:
    """Return the properties of a published model, for the record of its run."""
    if model is None:
        return {}
    voxel_size = list(model.voxel_size)
    return {"model": {"organelle": model.organelle, "fixation": model.fixation, "voxel_size": voxel_size}}


def model_tags(model: PublishedModel | None) -> tuple[str, ...]:
    """Return the tags of a published model: ``pretrained``, ``er``, ``CF``."""
    return () if model is None else ("pretrained", *model.name.split("_"))
