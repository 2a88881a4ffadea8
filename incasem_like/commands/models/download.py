"""``models download``: published checkpoints and the database of their trainings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from incasem_like.commands.models.options import find_models, models_folder, place_options
from incasem_like.commands.tables import size
from incasem_like.terminal import Progress, report_written, shell_command, shown_path

if TYPE_CHECKING:
    from incasem_like.pretrained.downloading.downloader import Downloaded

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
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
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
    from incasem_like.pretrained.downloading.downloader import Downloader
    from incasem_like.pretrained.downloading.fetching import open_session
    from incasem_like.pretrained.manifest import CHECKPOINT_FOLDER, read_manifest

    listed, folder = read_manifest(manifest), models_folder(models_directory)
    chosen = find_models(listed, models) if models or not database else []
    with Bars() as bars:
        downloader = Downloader(folder, url or listed.endpoint, open_session(proxy), bars.show)
        if accept_changed:
            for model_id in chosen:
                downloader.log.forget(folder / CHECKPOINT_FOLDER / listed.models[model_id].file)
        here = [downloader.database(listed.database)] if database else []
        for found in here:
            _report(found)
        for model_id in chosen:
            here.append(downloader.model(model_id, listed.models[model_id]))

            _report(here[-1])
    words = [*([shown_path(here[0].path)] if database else []), *map(str, chosen if models else ())]
    for flag, path in (("--manifest", manifest), ("--models_directory", models_directory)):
        words += [] if path is None else [flag, shown_path(path.expanduser().absolute())]
    print(f"Next: {shell_command('incasem-like', 'models', 'import', *words)}")


def _report(found: Downloaded) -> None:
    """Print what was downloaded and how its hash was verified."""
    length = size(found.path.stat().st_size)
    if found.how == "fetched":
        report_written(f"{length}", shown_path(found.path))
    else:
        print(f"Already there: {shown_path(found.path)} ({length})")
    print(f"  SHA-256 {found.sha256} ({_TRUST[found.trust]})")


class Bars:
    """A progress bar for each file, opened when its length is known."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def show(self, name: str) -> Callable[[int, int | None], None]:
        """Return the function that shows the progress of one file."""
        bar: Progress | None = None
        before = 0

        def show(received: int, total: int | None) -> None:
            nonlocal bar, before
            if total is None:
                return
            if bar is None or received < before:  # the first piece, or a restart from the beginning
                self._stack.close()
                # rate and time remaining are those of this process: bytes of earlier ones do not count
                bar = self._stack.enter_context(Progress(f"Downloading {name}", total - received, "B"))
            else:
                bar.advance(received - before)
            before = received
            if received == total:
                self._stack.close()

        return show
