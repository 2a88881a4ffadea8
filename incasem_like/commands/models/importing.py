"""``models import``: tracked runs made of checkpoints, of incasem's database, of its mock_db."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from incasem_like.commands.models.options import models_folder, place_options
from incasem_like.commands.runs.options import StoreChoice, store_options
from incasem_like.errors import InputError
from incasem_like.terminal import shell_command, shown_path

if TYPE_CHECKING:
    from incasem_like.pretrained.importing import Imported, Importer
    from incasem_like.pretrained.sources import Description, Source, Sources


@click.command("import")
@click.argument("what", metavar="[WHAT...]", nargs=-1)
@click.option("--run", "wanted", metavar="ID", type=int, multiple=True, help="Only this run of a database; repeatable.")
@click.option(
    "--id", "run_id", metavar="ID", type=click.IntRange(1), help="Id for the imported run.  [default: its own]"
)
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
    "--iteration", metavar="N", type=click.IntRange(0), help="Updates seen.  [default: the count of its Adam, else 0]"
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
    database: str | None,
    no_upload: bool,
    manifest: Path | None,
    models_directory: Path | None,
    stores: StoreChoice,
) -> None:
    """Make tracked runs of published models, so that scripts take them by id.

    WHAT is the id or name of a downloaded model; a checkpoint file (.pt); a U-Net that ExLLSM's Keras code stored
    (.h5), which is converted and verified; the archive or folder of
    incasem's database that mongodump wrote; or a mock_db folder or one of its JSON files. By default everything
    downloaded is imported. Runs keep their ids. Runs that exist already are left unchanged.
    """
    from incasem_like.pretrained.importing import Importer
    from incasem_like.pretrained.manifest import read_manifest
    from incasem_like.pretrained.sources import ORDER, Description, Sources

    sources = Sources(read_manifest(manifest), models_folder(models_directory))
    found = [sources.find(word) for word in what] or sources.downloaded()
    found.sort(key=lambda source: ORDER.index(source.kind))
    said = Description(name, voxel_size, iteration, config_file, scaling_factor, raw_type)
    _check(found, wanted, said, run_id)
    importer = Importer(stores.open("trainings"), run_id=run_id, remap=remap, replace=replace, upload=not no_upload)
    done = [one for source in found for one in _import(importer, sources, source, said, wanted or None, database)]
    _report_next(done, stores)


def _check(found: list[Source], wanted: tuple[int, ...], said: Description, run_id: int | None) -> None:
    """Check that flags for a single run are used with exactly one.

    Raises:
        InputError: They are not.
    """
    single = len(found) == 1 and (found[0].kind in ("checkpoint", "json") or len(wanted) == 1)
    if run_id is not None and not single:
        raise InputError("--id is for a single run: name one checkpoint, or add --run ID; for several use --remap.")
    given = said.name or said.voxel_size or said.config_file or said.scaling_factor or said.iteration is not None
    if given and (len(found) != 1 or found[0].kind != "checkpoint"):
        raise InputError(
            "--name, --voxel_size, --iteration, --config and --scaling_factor are for a single checkpoint: name its "
            "file."
        )
    if wanted and not any(source.kind in ("dump", "mock_db") for source in found):
        raise InputError("--run chooses among the runs of a database: name the dump or mock_db too.")


def _import(
    importer: Importer,
    sources: Sources,
    source: Source,
    said: Description,
    wanted: tuple[int, ...] | None,
    database: str | None,
) -> list[Imported]:
    done = []
    for run, checkpoint in sources.read(source, said, wanted, database):
        done.append(importer.add(run, checkpoint))

        _report(done[-1], importer)
    for sentence in sources.passed_over(source):
        print(f"Passed over: {sentence}")
    if not done:
        print(f"{shown_path(source.path)} holds no trainings.")
    return done


def _report(found: Imported, importer: Importer) -> None:
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


def _report_next(done: list[Imported], stores: StoreChoice) -> None:
    """Print the command that uses what was imported."""
    if not done:
        return
    flags = [word for word in stores.flags() if word]
    if flags:
        print(f"Next: {shell_command('incasem-like', 'runs', 'show', done[0].run_id, *flags)}")
        return
    print(
        f"Next: python scripts/03_predict/predict.py --run_id {done[0].run_id} with config_prediction.yaml "
        "prediction.data=YOUR_DATA.json"
    )
