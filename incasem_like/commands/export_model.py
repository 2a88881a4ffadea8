"""``incasem-like models export``: a training's network as one file and as a bioimage.io package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from incasem_like.commands.options import Reference, RunReference, StoreChoice, store_options
from incasem_like.errors import InputError
from incasem_like.terminal import report_written, shell_command, shown_path

if TYPE_CHECKING:
    from incasem_like.models import PortableModel


@click.command("export")
@click.argument("run", metavar="ID", type=RunReference())
@click.option("--checkpoint", metavar="WHICH", help="best, last, an iteration, or a file.  [default: best, else last]")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder to write into.  [default: .]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["both", "safetensors", "bioimageio"]),
    default="both",
    show_default=True,
    help="The single file, the package, or both.",
)
@click.option("--noise", is_flag=True, help="Test with noise instead of a crop of the data, which then stay private.")
@click.option("--author", "authors", metavar="NAME", multiple=True, help="Who trained it; repeatable.")
@click.option("--license", metavar="SPDX", help="Licence of the weights, such as CC-BY-4.0.")
@click.option("--cite", metavar="TEXT DOI", nargs=2, multiple=True, help="What to cite besides methods; repeatable.")
@store_options
def export_model(
    run: Reference,
    checkpoint: str | None,
    output: Path,
    form: str,
    noise: bool,
    authors: tuple[str, ...],
    license: str | None,
    cite: tuple[tuple[str, str], ...],
    stores: StoreChoice,
) -> None:
    """Write the network of training ID with all that is needed to use it elsewhere.

    NAME_ID.safetensors holds weights, sizes, normalisation, meaning of the channels, origin, and a crop with the values
    that the network gives for it; nothing in it is pickled. NAME_ID.bioimageio.zip holds that file, and TorchScript
    with a description for programs that read bioimage.io models. models import takes either.
    """
    from incasem_like.models import Credits, portable_model, write_package, write_portable

    if run.kind not in (None, "trainings"):
        raise InputError(f"{run.kind} have no network of their own: name the training run.")
    record = run.get(stores, "trainings")
    model = portable_model(record, checkpoint, Credits(authors, license, cite), with_data=not noise)
    name = "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in model.description.name)
    stem = f"{name}_{record.id:04d}"
    writers: dict[str, tuple[str, Callable[[PortableModel, Path], None]]] = {
        "bioimageio": (f"{stem}.bioimageio.zip", write_package),
        "safetensors": (f"{stem}.safetensors", write_portable),
    }
    folder = output.expanduser().absolute()
    chosen = [writers[kind] for kind in writers if form in ("both", kind)]
    for path in (folder / file for file, _ in chosen):
        if path.exists():
            raise InputError(f"{path} exists: move it away, or choose another folder with --output.")
    folder.mkdir(parents=True, exist_ok=True)
    for file, write in chosen:  # the package first: not every network can be one
        write(model, folder / file)
        report_written("model", shown_path(folder / file))
    print(f"Tested with: {model.description.test.source}")
    if (module := model.description.config["model"].get("module")) is not None:
        print(f"To import it, {module} is needed there too; other programs take the package without it.")
    print(f"Next: {shell_command('incasem-like', 'models', 'import', shown_path(folder / chosen[-1][0]))}")
