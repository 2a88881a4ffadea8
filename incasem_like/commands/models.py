"""``incasem-like models``: the published models; their download, and tracked runs made of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from incasem_like.commands.lazy_group import LazyGroup, Member
from incasem_like.commands.options import DEBUG_OPTION, StoreChoice, Whole, click_option, predict_command, store_options
from incasem_like.commands.tables import NOTHING, Column, print_table, size
from incasem_like.config.locations import absolute
from incasem_like.errors import InputError, StoreError
from incasem_like.pretrained.foreign import ORIGIN
from incasem_like.pretrained.manifest import (
    CHECKPOINT_FOLDER,
    DownloadLog,
    default_models_directory,
    find_checkpoint,
    read_manifest,
)
from incasem_like.terminal import report_written, shell_command, shown_path

if TYPE_CHECKING:
    from incasem_like.pretrained.importing import Imported, Importer
    from incasem_like.pretrained.sources import Description, Source

Command = TypeVar("Command", bound=Callable[..., Any])
_HERE = "incasem_like.commands.models"
COMMANDS = {
    "list": Member(_HERE, "list_models", "the published models, and which of them are here"),
    "download": Member(_HERE, "download_models", "download checkpoints or the database of trainings"),
    "import": Member(_HERE, "import_models", "make tracked runs of checkpoints, portable models, dumps or mock_db"),
    "export": Member("incasem_like.commands.export_model", "export_model", "write a trained network as portable files"),
}


@click.group(cls=LazyGroup, members=COMMANDS)
def models() -> None:
    """List, download and import the models that incasem published.

    After 'models download 1841' and 'models import 1841', the scripts take the model by its id:
    predict.py --run_id 1841, train.py --start_from 1841.
    """


def place_options(command: Command) -> Command:
    """Add the flags for the folder of models and their list to a command."""
    for decorate in (
        click.option(
            "--manifest",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="List of models.  [default: models/pretrained.yaml]",
        ),
        click.option(
            "--models_directory",
            metavar="DIR",
            type=click.Path(path_type=Path),
            help="Folder of downloaded models.  [default: models, or $INCASEM_MODELS]",
        ),
    ):
        command = decorate(command)
    return command


def models_folder(given: Path | None) -> Path:
    """Return the folder of downloaded models."""
    return absolute(given.expanduser()) if given is not None else default_models_directory()


_FIXATIONS = {"CF": "chemical", "HPF": "high-pressure freezing"}


@click.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with hashes.")
@place_options
@store_options
def list_models(as_json: bool, manifest: Path | None, models_directory: Path | None, stores: StoreChoice) -> None:
    """List the published models: organelle, fixation, voxel size; which are here, and which are runs already."""
    folder = models_folder(models_directory)
    log, models = DownloadLog(folder), read_manifest(manifest).models
    runs = set()
    try:
        store = stores.open("trainings")
        for record in (store.get(model_id) for model_id in set(store.ids()).intersection(models)):
            if (record.info.get(ORIGIN) or {}).get("original_id") == record.id:
                runs.add(record.id)
    except StoreError as error:
        print(f"It is not known which of them are runs: {error}", file=sys.stderr)
    found: list[dict[str, Any]] = []
    for model_id, model in sorted(models.items()):
        file = find_checkpoint(model_id, model, folder)
        logged = log.get(file) if file is not None else None
        sha256 = model.sha256 or (logged.sha256 if logged is not None else None)
        entry: dict[str, Any] = {
            "id": model_id,
            "name": model.name,
            "organelle": model.organelle,
            "fixation": model.fixation,
        }
        entry |= {"voxel_size": list(model.voxel_size), "path": file, "sha256": sha256, "imported": model_id in runs}
        found.append(entry)
    if as_json:
        print(json.dumps(found, indent=2, default=str))
        return
    rows = []
    for entry in found:
        voxel_size = " x ".join(f"{size:g}" for size in entry["voxel_size"])
        where = NOTHING if entry["path"] is None else shown_path(entry["path"])
        run = str(entry["id"]) if entry["imported"] else NOTHING
        names = (str(entry["id"]), entry["name"], entry["organelle"], _FIXATIONS[entry["fixation"]])
        rows.append([*names, voxel_size, where, run])
    titles = ("id", "name", "organelle", "fixation", "voxel size, nm", "file", "run")
    print_table([Column(title, title == "id") for title in titles], rows)
    missing = [str(entry["id"]) for entry in found if entry["path"] is None]
    if missing:
        print(f"Download one: incasem-like models download {missing[0]}")


_TRUST = {
    "manifest": "as published",
    "earlier": "the same as the first time",
    "server": "as the server says",
    "first": "recorded, since its publishers gave none to compare with",
}


@click.command("download")
@click.argument("models", metavar="[ID...]", nargs=-1)
@click.option("--database", is_flag=True, help="Download the archive of the training runs too; without ID, only that.")
@click.option(
    "--url",
    metavar="URL",
    help="A mirror instead of the public bucket: https://…, http://…, s3://bucket, or the URL of the file itself.",
)
@click.option("--proxy", metavar="URL", help="Proxy to go through.  [default: HTTPS_PROXY]")
@click.option("--accept_changed", is_flag=True, help="Accept a file that differs from the one downloaded first.")
@click_option(DEBUG_OPTION)
@place_options
def download_models(
    models: tuple[str, ...],
    database: bool,
    url: str | None,
    proxy: str | None,
    accept_changed: bool,
    debug: bool,
    manifest: Path | None,
    models_directory: Path | None,
) -> None:
    """Download published models, by id or name; all of them where neither ID nor --database is given.

    An interrupted download resumes where it stopped. A file is stored only if it is complete and has the expected hash;
    the hash of a file that is downloaded for the first time is recorded in models/downloads.json.
    """
    from incasem_like.pretrained.downloading import Downloader
    from incasem_like.pretrained.fetching import open_session

    listed, folder = read_manifest(manifest), models_folder(models_directory)
    chosen = list(dict.fromkeys(map(listed.find, models))) or ([] if database else sorted(listed.models))
    downloader = Downloader(folder, url or listed.endpoint, open_session(proxy))
    if accept_changed:
        for model_id in chosen:
            downloader.log.forget(folder / CHECKPOINT_FOLDER / listed.models[model_id].file)
    words: list[str] = []
    wanted: list[int | None] = [None, *chosen] if database else [*chosen]
    for which in wanted:
        if which is None:
            found = downloader.database(listed.database)
            words.append(shown_path(found.path))
        else:
            found = downloader.model(which, listed.models[which])
        length = size(found.path.stat().st_size)
        if found.is_new:
            report_written(length, shown_path(found.path))
        else:
            print(f"Already there: {shown_path(found.path)} ({length})")
        print(f"  SHA-256 {found.sha256} ({_TRUST[found.trust]})")
    words += map(str, chosen if models else ())
    for flag, path in (("--manifest", manifest), ("--models_directory", models_directory)):
        words += [] if path is None else [flag, shown_path(path.expanduser().absolute())]
    print(f"Next: {shell_command('incasem-like', 'models', 'import', *words)}")


@click.command("import")
@click.argument("what", metavar="[WHAT...]", nargs=-1)
@click.option("--run", "wanted", metavar="ID", type=int, multiple=True, help="Only this run of a database; repeatable.")
@click.option("--id", "run_id", metavar="ID", type=Whole(min=1), help="Id for the imported run.  [default: its own]")
@click.option("--remap", is_flag=True, help="Use the next free id if an id is taken.")
@click.option("--replace", is_flag=True, help="Replace runs of the same id that were imported earlier.")
@click.option("--name", metavar="NAME", help="Name of the run made of a checkpoint.")
@click.option(
    "--voxel_size",
    metavar="Z Y X",
    nargs=3,
    type=float,
    help="Voxel size that a checkpoint was trained at, three numbers in nm; the file does not contain it.  "
    "[default: that of the published model of this content, or of --config]",
)
@click.option(
    "--iteration", metavar="N", type=Whole(min=0), help="Updates seen.  [default: the count of its Adam, else 0]"
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Configuration that a checkpoint was trained with, YAML or JSON.  [default: incasem's]",
)
@click.option(
    "--scaling_factor",
    metavar="F",
    type=click.FloatRange(0, min_open=True),
    help="What raw values are multiplied by for a network that Keras stored (.h5).",
)
@click.option(
    "--raw_type",
    type=click.Choice(["uint8", "uint16"]),
    default="uint16",
    show_default=True,
    help="Type of the raw volumes that such a network will predict.",
)
@click.option(
    "--sigma",
    metavar="NM",
    type=click.FloatRange(0, min_open=True),
    help="Sigma in nm, at --voxel_size, of the descriptors that a network of bootstrapper reads or predicts.",
)
@click.option("--database", metavar="NAME", help="Database of a dump.  [default: the one with runs]")
@click.option("--no_upload", is_flag=True, help="Leave the upload of checkpoints into a database to runs sync.")
@place_options
@store_options
def import_models(
    what: tuple[str, ...],
    wanted: tuple[int, ...],
    run_id: int | None,
    remap: bool,
    replace: bool,
    name: str | None,
    voxel_size: tuple[float, float, float] | None,
    iteration: int | None,
    config_file: Path | None,
    scaling_factor: float | None,
    raw_type: str,
    sigma: float | None,
    database: str | None,
    no_upload: bool,
    manifest: Path | None,
    models_directory: Path | None,
    stores: StoreChoice,
) -> None:
    """Make tracked runs of published models, so that scripts take them by id.

    WHAT is the id or name of a downloaded model; a checkpoint file (.pt); a file or bioimage.io package that models
    export wrote, which is verified by the crop in it; a U-Net that ExLLSM's Keras code stored (.h5), or one of
    bootstrapper (plain or of Lightning, with its net_config.json beside it or as --config), which is converted and
    verified; the archive or folder of incasem's database that mongodump wrote; or a
    mock_db folder or one of its JSON files. By default everything downloaded is imported. Runs keep their ids. Runs
    that exist already are left unchanged.
    """
    from incasem_like.pretrained.importing import Importer
    from incasem_like.pretrained.sources import ORDER, Description, Sources

    sources = Sources(read_manifest(manifest), models_folder(models_directory))
    found = [sources.find(word) for word in what] or sources.downloaded()
    found.sort(key=lambda source: ORDER.index(source.kind))
    description = Description(name, voxel_size, iteration, config_file, scaling_factor, raw_type, sigma)
    _check_import(found, wanted, description, run_id)
    importer = Importer(stores.open("trainings"), run_id=run_id, remap=remap, replace=replace, upload=not no_upload)
    first: Imported | None = None
    for source in found:
        empty = True
        for run, checkpoint in sources.read(source, description, wanted or None, database):
            imported = importer.add(run, checkpoint)
            _report_import(imported, importer)
            first, empty = first or imported, False
        if empty:
            print(f"{shown_path(source.path)} holds no trainings.")
    if first is not None:
        print(f"Next: {predict_command(stores, first.run_id)}")


def _check_import(found: list[Source], wanted: tuple[int, ...], description: Description, run_id: int | None) -> None:
    """Check that flags for a single run are used with exactly one.

    Raises:
        InputError: They are not.
    """
    portable = len(found) == 1 and found[0].kind == "portable"
    single = len(found) == 1 and (found[0].kind != "database" or len(wanted) == 1)
    if run_id is not None and not single:
        raise InputError("--id is for a single run: name one checkpoint, or add --run ID; for several use --remap.")
    stated = any((description.voxel_size, description.config_file, description.scaling_factor, description.sigma))
    stated = stated or description.iteration is not None
    if stated and portable:
        raise InputError(
            f"{found[0].path.name} says itself how it was trained: leave --voxel_size, --iteration, --config, "
            "--scaling_factor and --sigma out."
        )
    given = stated or (description.name is not None and not portable)
    if given and (len(found) != 1 or found[0].kind != "checkpoint"):
        raise InputError(
            "--name, --voxel_size, --iteration, --config, --scaling_factor and --sigma are for a single checkpoint: "
            "name its file."
        )
    if wanted and not any(source.kind == "database" for source in found):
        raise InputError("--run chooses among the runs of a database: name the dump or mock_db too.")


def _report_import(found: Imported, importer: Importer) -> None:
    """Print how a run was imported."""
    origin = f", there run {found.run.id}" if found.run.id not in (None, found.run_id) else ""
    label = f"run {found.run_id} ({found.run.name}{origin})"
    if found.how == "there":
        print(f"Already there: {label}")
        return
    record = importer.store.get(found.run_id)
    words = {"imported": "Imported", "checkpoint": "Added its checkpoint to"}[found.how]
    files = ", ".join(shown_path(checkpoint.path) for checkpoint in record.checkpoints)
    print(f"{words} {label}: {files or 'its record; its checkpoint is not here'}")
    if found.run.problem:
        print(f"  its record only, since it cannot be used here: {found.run.problem}", file=sys.stderr)
    if found.run.missing:
        print(f"  without {', '.join(found.run.missing)}, which are incomplete in the dump", file=sys.stderr)
