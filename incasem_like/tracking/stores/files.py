"""Runs kept as files, in the layout of Sacred's file storage: ``incasem_<kind>/<id>/run.json`` and so on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from incasem_like.disk import copy_whole, exclusive, is_locked, write_whole
from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.tracking.metrics_log import AlreadyWrittenError, read_log
from incasem_like.tracking.model.checkpoints import DELETED_PREFIX, folder_size
from incasem_like.tracking.model.summaries import RunSummary
from incasem_like.tracking.run_folder import ANNOTATIONS, METRICS_LOG, RunFolder, Shared, numbered
from incasem_like.tracking.series import Metric
from incasem_like.tracking.sessions import id_taken
from incasem_like.tracking.stores.base import DELETING, MISSING, NOTHING, Freed, RunStore, errors_of_writing
from incasem_like.tracking.stores.index import cached_summaries, folder_source
from incasem_like.tracking.stores.records import shared_files
from incasem_like.tracking.values import as_sequence, naive_utc

SHELVES = ("_sources", "_resources")
HIGHEST_ID = "highest_id"


def highest_id(folder: Path) -> int:
    """Find the highest id that a store of files ever gave, to runs that were deleted since too."""
    file = folder / HIGHEST_ID
    noted = file.read_text().strip() if file.is_file() else ""
    return max([0, *map(int, numbered(folder)), *([int(noted)] if noted.isdecimal() else [])])


def _file_of(key: str) -> str:
    """Return the name of the file that holds a field of a run's document."""
    return {"config": "config.json", "info": "info.json", "omniboard": ANNOTATIONS}.get(
        key.partition(".")[0], "run.json"
    )


class FileStore(RunStore):
    """Runs below ``folder/<id>/``; needs no server, and a run can be read with any text editor."""

    def __init__(self, folder: Path, kind: str, runs_directory: Path, id_above: int = 0) -> None:
        super().__init__(kind, runs_directory, description=str(folder))
        self.folder, self.id_above = Path(folder), id_above

    def sibling(self, kind: str) -> Self:  # noqa: D102
        return type(self)(self.folder.with_name(f"incasem_{kind}"), kind, self.runs_directory)

    def ids(self) -> list[int]:  # noqa: D102
        return sorted(int(name) for name in numbered(self.folder) if (self.folder / name / "run.json").is_file())

    def read_document(self, run_id: int) -> dict[str, Any] | None:  # noqa: D102
        return self.run_folder(run_id).read_document()

    def summaries(  # noqa: D102
        self, config_keys: Sequence[str] = (), *, inputs: bool = False, metrics: Sequence[str] = ()
    ) -> list[RunSummary]:
        return cached_summaries(folder_source(self.folder), self.kind, config_keys, inputs)

    def read_stored(  # noqa: D102
        self, run_id: int, what: Literal["artifacts", "sources", "resources"], only: str | None = None
    ) -> Iterator[tuple[str, bytes | None]]:
        run = self._existing(run_id)
        document = run.read("run.json")
        if what == "artifacts":
            paths = [(str(name), run.artifact(str(name))) for name in as_sequence(document.get("artifacts"))]
        else:
            paths = [(name, self.folder / str(path)) for name, path in shared_files(document, what)]
        for name, path in paths:
            if only in (None, name):
                yield name, path.read_bytes() if path.is_file() else None

    def read_metrics(self, run_id: int) -> dict[str, Metric]:  # noqa: D102
        log = self.metrics_log(run_id)
        return super().read_metrics(run_id) if log is None else read_log(log)

    def read_metric_documents(self, run_id: int) -> dict[str, dict[str, Any]]:  # noqa: D102
        return self.run_folder(run_id).read("metrics.json")

    def metrics_log(self, run_id: int) -> Path | None:  # noqa: D102
        log = self.run_folder(run_id).log_path
        return log if log.is_file() else None

    def run_folder(self, run_id: int, sessions: Sequence[str] = ()) -> RunFolder:  # noqa: D102
        return RunFolder(self.folder / str(run_id))

    def reserve(self, wanted: int | None, id_above: int = 0, session: str | None = None) -> RunFolder:  # noqa: D102
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder):
            highest = highest_id(self.folder)
            run_id = max(highest, id_above, self.id_above) + 1 if wanted is None else wanted
            try:
                (self.folder / str(run_id)).mkdir()
            except FileExistsError:
                raise id_taken(run_id, self.description) from None
            if run_id > highest:
                self._note_id(run_id)
        return self.run_folder(run_id)

    def keep(self, what: Shared, name: str, path: Path) -> str:  # noqa: D102
        with open(path, "rb") as content:
            digest = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        target = self.folder / f"_{what}" / f"{path.stem}_{digest}{path.suffix}"  # as Sacred names them
        target.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder):
            if target.exists():
                os.utime(target)  # see ``_sweep``
            else:
                copy_whole(path, target)
        return target.relative_to(self.folder).as_posix()

    def patch(self, run_id: int, changes: Mapping[str, Any], expect: Mapping[str, Any] = NOTHING) -> bool:  # noqa: D102
        run = self._existing(run_id)
        with errors_of_writing(run.folder), exclusive(self.folder):
            names = {_file_of(key) for key in (*expect, *changes)}
            files = {name: run.annotations if name == ANNOTATIONS else run.read(name) for name in names}
            if any(files[_file_of(key)].get(key.partition(".")[2] or key) != value for key, value in expect.items()):
                return False
            for key, value in changes.items():
                content, field = files[_file_of(key)], key.partition(".")[2] or key
                if value is MISSING:
                    content.pop(field, None)
                else:
                    content[field] = naive_utc(value) if isinstance(value, datetime) else value
            for name in dict.fromkeys(map(_file_of, changes)):
                run.write(name, files[name])
        return True

    @contextlib.contextmanager
    def hold(self, run_id: int) -> Iterator[None]:  # noqa: D102
        run = self._existing(run_id)
        if not run.log_path.is_file():
            yield  # Sacred's own observer wrote it
            return
        try:
            with errors_of_writing(run.folder):
                run.log.open()
        except AlreadyWrittenError:
            raise InputError(f"Run {run.run_id} in {self.description} is still running: stop it first.") from None
        try:
            yield
        finally:
            run.log.close()

    def hide(self, run_id: int, session: str | None) -> bool:  # noqa: D102
        aside = self._aside(run_id)
        with errors_of_writing(self.folder):
            with exclusive(self.folder):
                if run_id >= highest_id(self.folder):
                    self._note_id(run_id)
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(self.folder / str(run_id), aside)
        return True

    def unfinished(self, what: str) -> dict[int, float]:  # noqa: D102
        if what == DELETING:
            found = list(self.folder.glob(f"{DELETED_PREFIX}*"))
        else:
            found = [self.folder / name for name in numbered(self.folder)]
            found = [path for path in found if not (path / "run.json").exists()]
        named = {path.name.removeprefix(DELETED_PREFIX): path for path in found if path.is_dir()}
        ages = {}  # 0 while a process writes into it
        for name, path in named.items():
            if name.isdecimal():
                newest = max(each.stat().st_mtime for each in (path, *path.glob("*")))
                ages[int(name)] = 0.0 if is_locked(path / METRICS_LOG) else time.time() - newest
        return dict(sorted(ages.items()))

    def read_hidden(self, run_id: int) -> dict[str, Any] | None:  # noqa: D102
        aside = RunFolder(self._aside(run_id))
        if not aside.folder.is_dir():
            return None
        parts = {name: aside.read_leniently(f"{name}.json") for name in ("config", "info")}
        return {**aside.read_leniently("run.json"), **parts}

    def remove(self, run_id: int) -> Freed:  # noqa: D102
        begun = self.run_folder(run_id)
        if begun.folder.is_dir() and not begun.is_run:
            self.hide(run_id, None)
        run = RunFolder(self._aside(run_id))
        if not run.folder.is_dir():
            return Freed()
        with errors_of_writing(self.folder):
            size = folder_size(run.folder)
            shutil.rmtree(run.folder)
            return Freed(size + self._sweep())

    def _sweep(self) -> int:
        """Delete sources and resources that no run names, unless a new run may need them; return their bytes."""
        newest = time.time() - self.LONGEST_START.total_seconds()
        with exclusive(self.folder):
            paths = [path for shelf in SHELVES for path in (self.folder / shelf).glob("*")]
            unused = {f"{path.parent.name}/{path.name}": path for path in paths if path.stat().st_mtime < newest}
            for run in sorted(numbered(self.folder), key=int, reverse=True):
                if not unused:
                    return 0
                record = self.folder / run / "run.json"
                try:
                    text = json.dumps(json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else ""
                except ValueError:
                    return 0  # a damaged record does not tell what it needs
                unused = {name: path for name, path in unused.items() if json.dumps(name) not in text}
            size = sum(path.stat().st_size for path in unused.values())
            for path in unused.values():
                path.unlink()
        return size

    def _note_id(self, run_id: int) -> None:
        write_whole(self.folder / HIGHEST_ID, lambda file: file.write(f"{run_id}\n".encode()))

    def _aside(self, run_id: int) -> Path:
        return self.folder / f"{DELETED_PREFIX}{run_id}"

    def _existing(self, run_id: int) -> RunFolder:
        run = self.run_folder(run_id)
        if not run.is_run:
            raise RunNotFoundError(self._not_found(run_id))
        return run
