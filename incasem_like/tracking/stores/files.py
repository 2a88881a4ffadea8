"""Runs kept as files, in the layout of Sacred's file storage: ``incasem_<kind>/<id>/run.json`` and so on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from incasem_like.disk import copy_whole, exclusive, write_whole
from incasem_like.errors import InputError, RunNotFoundError, StoreError
from incasem_like.tracking.metrics_log import AlreadyWrittenError, MetricsLog, is_held, read_log
from incasem_like.tracking.model.checkpoints import DELETED_PREFIX, folder_size
from incasem_like.tracking.run_folder import (
    ANNOTATIONS,
    METRICS_LOG,
    PortableRun,
    RenewedIds,
    RunFolder,
)
from incasem_like.tracking.series import Metric
from incasem_like.tracking.sessions import id_taken
from incasem_like.tracking.stores.base import NOTHING, Freed, RunRecord, RunStore
from incasem_like.tracking.stores.index import FolderIndex
from incasem_like.tracking.values import as_mapping, as_sequence, as_utc, naive_utc

if TYPE_CHECKING:
    from incasem_like.tracking.model.summaries import RunSummary
    from incasem_like.tracking.run_folder import PortableRun, RenewedIds, RunFolder

SHELVES = ("_sources", "_resources")


def keep(shelf: Path, source: Path) -> Path:
    """Store one copy of a file for all runs, named by its content's MD5 as Sacred does; return its path."""
    with open(source, "rb") as content:
        digest = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    target = shelf / f"{source.stem}_{digest}{source.suffix}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_whole(source, target)
    return target


def named_by(document: Mapping[str, Any]) -> set[str]:
    """List the files that a run's document names, by their paths below the folder of the runs."""
    sources = as_mapping(document.get("experiment")).get("sources")
    pairs = [*as_sequence(sources), *as_sequence(document.get("resources"))]
    names = [pair[1] for pair in pairs if isinstance(pair, list) and len(pair) == 2]
    return {name for name in names if isinstance(name, str) and name.startswith(tuple(f"{each}/" for each in SHELVES))}


def unnamed(folder: Path, names: Iterable[str], near: int = 0) -> set[str]:
    """Find those of some files that no run names; none while a run is being begun or one cannot be read.

    Args:
        folder: The folder of the runs.
        names: Paths below it.
        near: Runs of neighbouring ids are asked first, for they share most.
    """
    left, runs = set(names), [path for path in folder.iterdir() if path.name.isdecimal()]
    for run in sorted(runs, key=lambda run: abs(int(run.name) - near)):
        if not left:
            break
        try:
            text = (run / "run.json").read_text(encoding="utf-8")
            json.loads(text)
        except (OSError, ValueError):
            return set()  # it has not said yet, or cannot say, which it needs
        left = {name for name in left if json.dumps(name) not in text}
    return left


def free_unnamed_files(folder: Path, names: Iterable[str], near: int = 0) -> Freed:
    """Delete those of some files that no run names; see ``unnamed``."""
    freed = Freed()
    with exclusive(folder):  # no run can begin meanwhile, which might find its sources kept here already
        for name in unnamed(folder, names, near):
            path = folder / name
            if path.is_file():
                freed += Freed(sources=1, bytes=path.stat().st_size)
                path.unlink()
    return freed


HIGHEST_ID = "highest_id"


def make_run_folder(folder: Path, wanted: int | None, id_above: int = 0) -> Path:
    """Make the folder of a new run below a store's folder.

    Args:
        folder: The store's; made where it is missing.
        wanted: The id that was asked for; None for the next one, above all that ever were.
        id_above: The next one is above this too.

    Raises:
        InputError: There is a run of the wanted id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        highest = highest_id(folder)
        run_id = max(highest, id_above) + 1 if wanted is None else wanted
        try:
            (folder / str(run_id)).mkdir()
        except FileExistsError:
            raise id_taken(run_id, str(folder)) from None
        if run_id > highest:
            _note(folder, run_id)
    return folder / str(run_id)


def note_id(folder: Path, run_id: int) -> None:
    """Note that an id is used, whatever becomes of its run."""
    with exclusive(folder):
        if run_id >= highest_id(folder):
            _note(folder, run_id)


def _note(folder: Path, run_id: int) -> None:
    write_whole(folder / HIGHEST_ID, lambda file: file.write(f"{run_id}\n".encode()))


def highest_id(folder: Path) -> int:
    """Find the highest id that a store of files ever gave, to runs that were deleted since too."""
    file = folder / HIGHEST_ID
    noted = file.read_text().strip() if file.is_file() else ""
    present = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
    return max([0, *present, *([int(noted)] if noted.isdecimal() else [])])


def _file_of(key: str) -> str:
    """Return the name of the file that holds a field of a run's document."""
    return {"config": "config.json", "info": "info.json", "omniboard": ANNOTATIONS}.get(
        key.partition(".")[0], "run.json"
    )


def take_from_sight(folder: Path, run_id: int) -> None:
    """Rename a run's folder, so that no reader takes it for a run any more."""
    with errors_of_writing(folder):
        aside = folder / f"{DELETED_PREFIX}{run_id}"
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder / str(run_id), aside)


@contextlib.contextmanager
def nobody_else_writing(directory: Path, description: str) -> Iterator[None]:
    """Lock a run that is over, so that no process resumes it meanwhile.

    Raises:
        InputError: Somebody just did.
    """
    log = MetricsLog(directory / METRICS_LOG)
    if not log.path.is_file():
        yield  # Sacred's own observer wrote it
        return
    try:
        with errors_of_writing(directory):
            log.open()
    except AlreadyWrittenError:
        raise InputError(f"Run {directory.name} in {description} still goes on: stop it first.") from None
    try:
        yield
    finally:
        log.close()


def half_deleted(folder: Path) -> list[int]:
    """List the ids of runs that were taken from sight and are not gone yet."""
    if not folder.is_dir():
        return []
    names = (entry.name.removeprefix(DELETED_PREFIX) for entry in folder.glob(f"{DELETED_PREFIX}*"))
    return sorted(int(name) for name in names if name.isdecimal())


def free_folder(folder: Path, run_id: int) -> Freed:
    """Delete what is left of a run that was taken from sight, and the sources and resources that no other run names.

    Args:
        folder: The folder of the runs.
        run_id: The run.
    """
    aside = folder / f"{DELETED_PREFIX}{run_id}"
    run = RunFolder(aside)
    document, metrics = run.read_leniently("run.json"), run.read_leniently("metrics.json")
    artifacts = as_sequence(document.get("artifacts"))
    with errors_of_writing(folder):
        freed = Freed(runs=1, metrics=len(metrics), artifacts=len(artifacts), bytes=folder_size(aside))
        freed += free_unnamed_files(folder, named_by(document), run_id)
        shutil.rmtree(aside)
    return freed


@contextlib.contextmanager
def errors_of_writing(folder: Path) -> Iterator[None]:
    """Raise one sentence where a folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be changed ({error.strerror or error}): check its rights and the space on its disk."
        ) from None


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


def _write(folder: Path, run: RunFolder, portable: PortableRun, renewed: RenewedIds) -> None:
    run.write("config.json", portable.config)
    run.write("info.json", renewed.info)
    run.write("metrics.json", portable.metrics)
    if portable.annotations:
        run.write(ANNOTATIONS, portable.annotations)
    run.write_output(portable.output)
    if portable.log_path.is_file():
        copy_whole(portable.log_path, run.log_path)
    for name, path in portable.artifacts():
        copy_whole(path, run.artifact(name))
    experiment = dict(portable.document.get("experiment") or {})
    experiment["sources"] = [_keep(folder, "_sources", *each) for each in portable.stored("sources")]
    resources = [_keep(folder, "_resources", *each) for each in portable.stored("resources")]
    changed = {"experiment": experiment, "resources": resources, "result": renewed.result}
    run.write("run.json", {**portable.document, **changed})


def _keep(folder: Path, shelf: str, name: str, path: Path | None, noted: str) -> list[str]:
    return [name, noted if path is None else keep(folder / shelf, path).relative_to(folder).as_posix()]


class FileStore(RunStore):
    """Runs below ``folder/<id>/``; needs no server, and a run can be read with any text editor."""

    def __init__(self, folder: Path, kind: str, runs_directory: Path, id_above: int = 0) -> None:
        super().__init__(kind, runs_directory, description=str(folder))
        self.folder, self.id_above = Path(folder), id_above

    def ids(self) -> list[int]:  # noqa: D102
        if not self.folder.is_dir():
            return []
        return sorted(
            int(entry.name)
            for entry in self.folder.iterdir()
            if entry.name.isdecimal() and str(int(entry.name)) == entry.name and (entry / "run.json").is_file()
        )

    def read_document(self, run_id: int) -> dict[str, Any] | None:  # noqa: D102
        return self.run_folder(run_id).read_document()

    def read_artifact(self, run_id: int, name: str) -> bytes:  # noqa: D102
        path = self.run_folder(run_id).artifact(name)
        if not path.is_file():
            raise StoreError(f"The file {path} of run {run_id} is missing: restore it from a backup.")
        return path.read_bytes()

    def read_metrics(self, run_id: int) -> dict[str, Metric]:  # noqa: D102
        log = self.metrics_log(run_id)
        if log is not None:
            return read_log(log)
        return {
            name: Metric(
                name, tuple(points["steps"]), tuple(points["values"]), tuple(map(as_utc, points["timestamps"]))
            )
            for name, points in self.read_metric_documents(run_id).items()
        }

    def read_metric_documents(self, run_id: int) -> dict[str, dict[str, Any]]:  # noqa: D102
        return self.run_folder(run_id).read("metrics.json")

    def read_stored(self, run_id: int, what: Literal["sources", "resources"]) -> Iterator[tuple[str, bytes | None]]:  # noqa: D102
        document = RunFolder(self._directory(run_id)).read("run.json")
        owner = document if what == "resources" else document.get("experiment") or {}
        return read_stored(self.folder, owner.get(what))

    def is_free(self, run_id: int) -> bool:  # noqa: D102
        return not any((self.folder / name).exists() for name in (str(run_id), f"{DELETED_PREFIX}{run_id}"))

    def put(  # noqa: D102
        self, portable: PortableRun, wanted: int | None, id_above: int, renew: Callable[[int], RenewedIds]
    ) -> int:
        with errors_of_writing(self.folder):
            directory = make_run_folder(self.folder, wanted, id_above)
            try:  # without run.json, written last, the folder is not a run
                _write(self.folder, RunFolder(directory), portable, renew(int(directory.name)))
            except BaseException:
                shutil.rmtree(directory, ignore_errors=True)
                raise
        return int(directory.name)

    def half_received(self) -> dict[int, float]:  # noqa: D102
        return half_received(self.folder)

    def free_half_received(self, run_id: int) -> None:  # noqa: D102
        if not (self.folder / str(run_id) / "run.json").exists():
            take_from_sight(self.folder, run_id)
            free_folder(self.folder, run_id)

    def sibling(self, kind: str) -> FileStore:  # noqa: D102
        return FileStore(self.folder.with_name(f"incasem_{kind}"), kind, self.runs_directory)

    def summaries(  # noqa: D102
        self, config_keys: Sequence[str] = (), *, inputs: bool = False, metrics: Sequence[str] = ()
    ) -> list[RunSummary]:
        return FolderIndex(self.folder).summaries(self.kind, config_keys, inputs)

    def patch(self, run_id: int, changes: Mapping[str, Any], expect: Mapping[str, Any] = NOTHING) -> bool:  # noqa: D102
        run = RunFolder(self._directory(run_id))
        with errors_of_writing(run.folder), exclusive(self.folder):
            names = {_file_of(key) for key in (*expect, *changes)}
            files = {name: run.annotations if name == ANNOTATIONS else run.read(name) for name in names}
            if any(files[_file_of(key)].get(key.partition(".")[2] or key) != value for key, value in expect.items()):
                return False
            for key, value in changes.items():
                content, field = files[_file_of(key)], key.partition(".")[2] or key
                content.pop(field, None)
                if value is not None:
                    content[field] = naive_utc(value) if isinstance(value, datetime) else value
            for name in dict.fromkeys(map(_file_of, changes)):
                run.write(name, files[name])
        return True

    def hold(self, run_id: int) -> AbstractContextManager[None]:  # noqa: D102
        return nobody_else_writing(self._directory(run_id), self.description)

    def tombstone(self, run_id: int, session: str | None) -> bool:  # noqa: D102
        with errors_of_writing(self.folder):
            note_id(self.folder, run_id)
            take_from_sight(self.folder, run_id)
        return True

    def half_deleted(self) -> list[int]:  # noqa: D102
        return half_deleted(self.folder)

    def read_half_deleted(self, run_id: int) -> RunRecord | None:  # noqa: D102
        aside = RunFolder(self.folder / f"{DELETED_PREFIX}{run_id}")
        if not aside.folder.is_dir():
            return None
        parts = {name: aside.read_leniently(f"{name}.json") for name in ("config", "info")}
        return RunRecord(self, run_id, {**aside.read_leniently("run.json"), **parts})

    def free_record(self, run_id: int) -> Freed:  # noqa: D102
        return free_folder(self.folder, run_id)

    def run_folder(self, run_id: int) -> RunFolder:
        """Return the folder of a run, which need not exist."""
        return RunFolder(self.folder / str(run_id))

    def _directory(self, run_id: int) -> Path:
        directory = self.folder / str(run_id)
        if not (directory / "run.json").is_file():
            raise RunNotFoundError(self._not_found(run_id))
        return directory

    def metrics_log(self, run_id: int) -> Path | None:  # noqa: D102
        log = self.run_folder(run_id).log_path
        return log if log.is_file() else None
