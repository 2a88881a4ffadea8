"""``models list``: the published models, and which of them are here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from incasem_like.commands.models.options import models_folder, place_options
from incasem_like.commands.runs.options import StoreChoice, store_options
from incasem_like.commands.tables import NOTHING, Column, print_table
from incasem_like.errors import StoreError
from incasem_like.terminal import shown_path

if TYPE_CHECKING:
    from incasem_like.pretrained.manifest import PublishedModel

COLUMNS = (
    Column("id", right=True),
    Column("name"),
    Column("organelle"),
    Column("fixation"),
    Column("voxel size, nm"),
    Column("file"),
    Column("run"),
)
_FIXATIONS = {"CF": "chemical", "HPF": "high-pressure freezing"}


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with hashes.")
@place_options
@store_options
def list_models(as_json: bool, manifest: Path | None, models_directory: Path | None, stores: StoreChoice) -> None:
    """List the published models: organelle, fixation, voxel size; which are here, and which are runs already."""
    from incasem_like.pretrained.downloading.log import DownloadLog
    from incasem_like.pretrained.manifest import find_checkpoint, read_manifest

    folder = models_folder(models_directory)
    log, models = DownloadLog(folder), read_manifest(manifest).models
    runs = _imported(stores, models)
    found = []
    for model_id, model in sorted(models.items()):
        file = find_checkpoint(model_id, model, folder)
        logged = log.get(file) if file is not None else None
        sha256 = model.sha256 or (logged.sha256 if logged is not None else None)
        found.append(_described(model_id, model) | {"path": file, "sha256": sha256, "imported": model_id in runs})
    if as_json:
        print(json.dumps(found, indent=2, default=str))
        return
    print_table(COLUMNS, [_row(entry) for entry in found])
    missing = [str(entry["id"]) for entry in found if entry["path"] is None]
    if missing:
        print(f"Download one: incasem-like models download {missing[0]}")


def _imported(stores: StoreChoice, models: Iterable[int]) -> set[int]:
    """Return the models that exist as runs of the same id; none, with a warning, if the store does not answer."""
    from incasem_like.pretrained.foreign import ORIGIN

    try:
        store = stores.open("trainings")
        there = [store.get(model_id) for model_id in set(store.ids()).intersection(models)]
    except StoreError as error:
        print(f"It is not known which of them are runs: {error}", file=sys.stderr)
        return set()
    return {record.id for record in there if (record.info.get(ORIGIN) or {}).get("original_id") == record.id}


def _described(model_id: int, model: PublishedModel) -> dict[str, Any]:
    described = {"name": model.name, "organelle": model.organelle, "fixation": model.fixation}
    return {"id": model_id, **described, "voxel_size": list(model.voxel_size)}


def _row(entry: dict[str, Any]) -> list[str]:
    return [
        str(entry["id"]),
        entry["name"],
        entry["organelle"],
        _FIXATIONS[entry["fixation"]],
        " x ".join(f"{size:g}" for size in entry["voxel_size"]),
        NOTHING if entry["path"] is None else shown_path(entry["path"]),
        str(entry["id"]) if entry["imported"] else NOTHING,
    ]
