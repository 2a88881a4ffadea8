"""Runs that are kept as files, on the move: what lies beside a run's own files, and taking a run in."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.files.changes import errors_of_writing
from incasem_like.tracking.files.layout import ANNOTATIONS, METRICS_LOG, artifact_file_name, copy_whole, write_whole
from incasem_like.tracking.files.shared_files import keep
from incasem_like.tracking.files.starting import make_run_folder
from incasem_like.tracking.metrics_log import is_held
from incasem_like.tracking.plain import plain

if TYPE_CHECKING:
    from incasem_like.tracking.transfer.portable import PortableRun, RenewedIds


def read_stored(folder: Path, entries: Any) -> Iterator[tuple[str, bytes | None]]:
    """Read a run's sources or resources: name, content or None.

    Args:
        folder: The store's.
        entries: Of the run's document: pairs of name and path below ``folder``.
    """
    for entry in entries or ():
        if not (isinstance(entry, (list, tuple)) and len(entry) == 2):
            continue
        path = folder / str(entry[1])
        yield str(entry[0]), path.read_bytes() if path.is_file() else None


def receive(
    folder: Path, portable: PortableRun, wanted: int | None, id_above: int, renew: Callable[[int], RenewedIds]
) -> int:
    """Take a run in, see ``RunStore.receive``; without ``run.json``, written last, its folder counts as no run."""
    with errors_of_writing(folder):
        directory = make_run_folder(folder, wanted, id_above)
        try:
            _write(folder, directory, portable, renew(int(directory.name)))
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    return int(directory.name)


def half_received(folder: Path) -> dict[int, float]:
    """List the runs without ``run.json``: id, seconds since their folder or a file in it last changed."""
    if not folder.is_dir():
        return {}
    found = [path for path in folder.iterdir() if path.name.isdecimal() and not (path / "run.json").exists()]
    now = time.time()
    return {
        int(path.name): now - max(each.stat().st_mtime for each in (path, *path.glob("*")))
        for path in found
        if path.is_dir() and not is_held(path / METRICS_LOG)
    }


def _write(folder: Path, directory: Path, portable: PortableRun, renewed: RenewedIds) -> None:
    _write_json(directory / "config.json", portable.config, sort_keys=False)
    _write_json(directory / "info.json", renewed.info)
    _write_json(directory / "metrics.json", portable.metrics)
    if portable.annotations:
        _write_json(directory / ANNOTATIONS, portable.annotations)
    write_whole(directory / "cout.txt", lambda file: file.write(portable.output.encode("utf-8", "replace")))
    if portable.metrics_log is not None:
        copy_whole(portable.metrics_log, directory / METRICS_LOG)
    for name, path in portable.artifacts():
        copy_whole(path, directory / artifact_file_name(name))
    experiment = dict(portable.document.get("experiment") or {})
    experiment["sources"] = [_keep(folder, "_sources", *each) for each in portable.stored("sources")]
    resources = [_keep(folder, "_resources", *each) for each in portable.stored("resources")]
    changed = {"experiment": experiment, "resources": resources, "result": renewed.result}
    _write_json(directory / "run.json", {**portable.document, **changed})


def _keep(folder: Path, shelf: str, name: str, path: Path | None, noted: str) -> list[str]:
    return [name, noted if path is None else keep(folder / shelf, path).relative_to(folder).as_posix()]


def _write_json(path: Path, value: Mapping[str, Any], *, sort_keys: bool = True) -> None:
    text = json.dumps(plain(value), indent=2, sort_keys=sort_keys)
    write_whole(path, lambda file: file.write(text.encode()))
