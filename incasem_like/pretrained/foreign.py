"""A training that was recorded elsewhere, in the terms of this project's runs, before it is in a store."""

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
    """A training of another store.

    Attributes:
        id: Its id there; None where it had none.
        name: Its name there.
        identity: What it is recognized by when it comes a second time.
        document: Its record, with the keys of ``RunStore.read_document`` but ``artifacts``.
        metrics: Its metrics by name.
        artifacts: The content of its files, by name.
        sources: The same of the code that it was made with.
        tags: As Omniboard shows them.
        notes: As Omniboard shows them.
        problem: Why its configuration could not be translated, so that the record is of use only for reading; empty
            where it could.
        missing: Names of files of its that were not to be had whole.
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
    """The configuration of an import, and what is to be noted about it.

    Attributes:
        config: In this project's form; as it was where that failed.
        info: ``original_config`` and what became of it.
        problem: See ``ForeignRun``.
    """

    config: dict[str, Any]
    info: dict[str, Any]
    problem: str = ""


def configuration(original: Mapping[str, Any], source: str) -> Configuration:
    """Translate a configuration; one that cannot be is kept as it is, with the reason.

    Args:
        original: As its store had it.
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
    """Note where an imported run comes from.

    Args:
        identity: See ``ForeignRun``.
        source: File or folder that it was read from.
        foreign_id: Its id there, or None.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {ORIGIN: {"identity": identity, "from": source, "original_id": foreign_id, "time": now}}


def blank_document(run_id: int | None, name: str, comment: str) -> dict[str, Any]:
    """Make the record of a training of which only the configuration is known: its times are those of the import."""
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
    """What is known of a published model, for the record of its run."""
    if model is None:
        return {}
    voxel_size = list(model.voxel_size)
    return {"model": {"organelle": model.organelle, "fixation": model.fixation, "voxel_size": voxel_size}}


def model_tags(model: PublishedModel | None) -> tuple[str, ...]:
    """Tags that a published model is found by: ``pretrained``, ``er``, ``CF``."""
    return () if model is None else ("pretrained", *model.name.split("_"))
