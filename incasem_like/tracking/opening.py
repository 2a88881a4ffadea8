"""Opening the run store that an address names."""

from __future__ import annotations

from pathlib import Path

from incasem_like.errors import InputError
from incasem_like.terminal import nearest
from incasem_like.tracking.address import FolderAddress, parse_address
from incasem_like.tracking.kinds import KINDS
from incasem_like.tracking.stores.base import RunStore
from incasem_like.tracking.stores.files import FileStore


def open_store(url: str | Path | None, kind: str, runs_directory: Path) -> RunStore:
    """Open the store of one kind of run.

    Args:
        url: See ``parse_address``; None keeps runs as files in ``<runs_directory>/tracking/incasem_<kind>/<id>/``.
        kind: One of ``KINDS``.
        runs_directory: The folder of training runs.

    Raises:
        InputError: The address cannot be understood, or the server refuses the credentials.
        StoreError: No server answers there.

    Example:
        >>> store = open_store(None, "trainings", Path("training_runs"))
        >>> store.ids()
        []
    """
    if kind not in KINDS:
        raise InputError(f"Unknown kind of runs '{kind}'{nearest(kind, KINDS)}: choose one of {', '.join(KINDS)}.")
    address = parse_address(url, Path(runs_directory))
    if isinstance(address, FolderAddress):
        return FileStore(address.folder / f"incasem_{kind}", kind, runs_directory)

    from incasem_like.tracking.stores.mongo import connect

    return connect(address, kind, runs_directory)
