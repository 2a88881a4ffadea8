"""Runs kept as files, in the layout of Sacred's file storage: ``incasem_<kind>/<id>/run.json`` and so on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from incasem_like.errors import DamagedRecordError, RunNotFoundError, StoreError
from incasem_like.tracking.deletion.model_files import DELETED_PREFIX
from incasem_like.tracking.files import changes, transfer
from incasem_like.tracking.files.layout import METRICS_LOG, artifact_file_name
from incasem_like.tracking.metrics_log_reading import read_log
from incasem_like.tracking.moments import as_utc
from incasem_like.tracking.records import Metric, RunRecord
from incasem_like.tracking.store import RunStore, refuse_empty_tags

if TYPE_CHECKING:
    from incasem_like.tracking.deletion.freed import Freed
    from incasem_like.tracking.files.observer import FileObserver
    from incasem_like.tracking.summaries import RunSummary
    from incasem_like.tracking.transfer.portable import PortableRun, RenewedIds


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
        return _read_directory(self.folder / str(run_id))

    def read_artifact(self, run_id: int, name: str) -> bytes:  # noqa: D102
        path = self.folder / str(run_id) / artifact_file_name(name)
        if not path.is_file():
            raise StoreError(f"The file {path} of run {run_id} is missing: restore it from a backup.")
        return path.read_bytes()

    def read_metrics(self, run_id: int) -> dict[str, Metric]:  # noqa: D102
        directory = self.folder / str(run_id)
        log = directory / METRICS_LOG
        if log.is_file():
            return read_log(log)
        return {
            name: Metric(
                name, tuple(points["steps"]), tuple(points["values"]), tuple(map(as_utc, points["timestamps"]))
            )
            for name, points in self.read_metric_documents(run_id).items()
        }

    def read_metric_documents(self, run_id: int) -> dict[str, dict[str, Any]]:  # noqa: D102
        return _read_json(self.folder / str(run_id) / "metrics.json") or {}

    def read_stored(self, run_id: int, what: Literal["sources", "resources"]) -> Iterator[tuple[str, bytes | None]]:  # noqa: D102
        document = _read_json(self._directory(run_id) / "run.json")
        owner = document if what == "resources" else document.get("experiment") or {}
        return transfer.read_stored(self.folder, owner.get(what))

    def is_free(self, run_id: int) -> bool:  # noqa: D102
        return not any((self.folder / name).exists() for name in (str(run_id), f"{DELETED_PREFIX}{run_id}"))

    def receive(  # noqa: D102
        self, portable: PortableRun, wanted: int | None, id_above: int, renew: Callable[[int], RenewedIds]
    ) -> int:
        return transfer.receive(self.folder, portable, wanted, id_above, renew)

    def half_received(self) -> dict[int, float]:  # noqa: D102
        return transfer.half_received(self.folder)

    def free_half_received(self, run_id: int) -> None:  # noqa: D102
        if not (self.folder / str(run_id) / "run.json").exists():
            changes.take_from_sight(self.folder, run_id)
            changes.free_folder(self.folder, run_id)

    def sibling(self, kind: str) -> FileStore:  # noqa: D102
        return FileStore(self.folder.with_name(f"incasem_{kind}"), kind, self.runs_directory)

    def summaries(  # noqa: D102
        self, config_keys: Sequence[str] = (), *, inputs: bool = False, metrics: Sequence[str] = ()
    ) -> list[RunSummary]:
        from incasem_like.tracking.files.summaries import read_summaries

        return read_summaries(self.folder, self.kind, config_keys, inputs)

    def annotate(  # noqa: D102
        self, run_id: int, *, add_tags: Sequence[str] = (), remove_tags: Sequence[str] = (), notes: str | None = None
    ) -> None:
        refuse_empty_tags(add_tags)
        changes.change_annotations(self._directory(run_id), add_tags, remove_tags, notes)

    def set_state(self, run_id: int, status: str, stop_time: datetime | None) -> None:  # noqa: D102
        directory = self._directory(run_id)
        self._without_end(run_id)
        with changes.nobody_else_writing(directory, self.description):
            self._without_end(run_id)  # looked at again, now that it stays as it is
            changes.write_end(directory, _read_json(directory / "run.json"), status, stop_time)

    def note(self, run_id: int, facts: Mapping[str, Any]) -> None:  # noqa: D102
        directory = self._directory(run_id)
        self.refuse_live(run_id)
        with changes.nobody_else_writing(directory, self.description):
            changes.write_notes(directory, _read_json(directory / "info.json") or {}, facts)

    def begin_deletion(self, run_id: int) -> None:  # noqa: D102
        from incasem_like.tracking.files.starting import note_id

        directory = self._directory(run_id)
        with contextlib.suppress(DamagedRecordError):  # which is no reason to keep it
            self.refuse_live(run_id)
        with changes.nobody_else_writing(directory, self.description), changes.errors_of_writing(self.folder):
            note_id(self.folder, run_id)
            changes.take_from_sight(self.folder, run_id)

    def half_deleted(self) -> list[int]:  # noqa: D102
        return changes.half_deleted(self.folder)

    def read_half_deleted(self, run_id: int) -> RunRecord | None:  # noqa: D102
        document = changes.read_what_is_left(self.folder, run_id)
        return None if document is None else RunRecord(self, run_id, document)

    def free_record(self, run_id: int) -> Freed:  # noqa: D102
        return changes.free_folder(self.folder, run_id)

    def _directory(self, run_id: int) -> Path:
        directory = self.folder / str(run_id)
        if not (directory / "run.json").is_file():
            raise RunNotFoundError(self._not_found(run_id))
        return directory

    def metrics_log(self, run_id: int) -> Path | None:  # noqa: D102
        log = self.folder / str(run_id) / METRICS_LOG
        return log if log.is_file() else None

    def observer(self, *, id_above: int = 0) -> FileObserver:  # noqa: D102
        from incasem_like.tracking.files.observer import FileObserver

        return FileObserver(self.folder, id_above=max(id_above, self.id_above))

    def reopen(self, run_id: int, *, after_step: int | Callable[[], int]) -> FileObserver:  # noqa: D102
        from incasem_like.tracking.files.observer import FileObserver
        from incasem_like.tracking.recording.sessions import Continuation

        return FileObserver(self.folder, continues=Continuation(run_id, after_step))


def _read_directory(directory: Path) -> dict[str, Any] | None:
    document = _read_json(directory / "run.json")
    if document is None:
        return None
    if not isinstance(document, dict):
        raise _damaged(directory / "run.json", "it holds no mapping")
    output = directory / "cout.txt"
    return {
        **document,
        "config": _read_json(directory / "config.json"),
        "info": _read_json(directory / "info.json"),
        "omniboard": changes.read_annotations(directory),
        "captured_out": output.read_text(encoding="utf-8", errors="replace") if output.is_file() else "",
    }


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, reason: object) -> DamagedRecordError:
    return DamagedRecordError(
        f"The run record {path} is damaged ({reason}): restore it from a backup, or delete the run with "
        "'incasem-like runs delete'."
    )
