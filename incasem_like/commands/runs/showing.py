"""``runs show`` and ``runs checkpoints``: all details of one run, and the files of its checkpoints."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from incasem_like.commands.command_line import format_config
from incasem_like.commands.options import (
    Reference,
    RunReference,
    StoreChoice,
    called_first,
    kind_option,
    store_options,
)
from incasem_like.commands.runs.finding import plain
from incasem_like.commands.tables import NOTHING, Column, cell, print_table, size
from incasem_like.terminal import shown_path
from incasem_like.tracking import CheckpointRecord, RunRecord
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.model.cache import cached_path, file_sha256
from incasem_like.tracking.model.checkpoints import TrackedFile, rank
from incasem_like.tracking.model.summaries import flatten, origins

_LINES_OF_TRACE = 12
_SHOWN_OF_HASHES = 12
_WHOLE = (
    "id kind name status recorded_status start_time stop_time heartbeat comment tags notes result parent inputs "
    "info config meta host experiment artifacts fail_trace"
)


@click.command("show")
@click.argument("run", metavar="ID", type=RunReference())
@click.option("--config", "what", flag_value="config", help="Print only its configuration, as YAML.")
@click.option("--output", "what", flag_value="output", help="Only what it printed.")
@click.option("--json", "what", flag_value="json", help="Print the whole record without its output, as JSON.")
@click.option("--artifact", metavar="NAME", help="Print only the content of a file stored with it.")
@kind_option
@store_options
def show_run(run: Reference, what: str | None, artifact: str | None, kind: str, stores: StoreChoice) -> None:
    """Show a run: state, times, machine, code, data, origin, metrics, checkpoints, tags, notes.

    ID is a run's id, 12, or kind and id, predictions/12.
    """
    record = run.get(stores, kind)
    if artifact is not None:
        sys.stdout.buffer.write(record.artifact(artifact))
    elif what == "config":
        print(format_config(record.config), end="")
    elif what == "output":
        print(record.captured_output, end="")
    elif what == "json":
        print(json.dumps({name: plain(getattr(record, name)) for name in _WHOLE.split()}, indent=2))
    else:
        _show(record)


def _show(record: RunRecord) -> None:
    lines = [*_identity(record), *_surroundings(record), *_lineage(record)]
    width = max(len(name) for name, _ in lines)
    for name, text in lines:
        first, *more = text.splitlines() or [""]
        print(f"{name.ljust(width)}  {first}")
        for line in more:
            print(f"{'':{width}}  {line}")
    if summary := record.metric_summaries:
        keys = ("last", "last_step", "min", "min_step", "max", "max_step")
        rows = [[name, *(cell(numbers.get(key)) for key in keys)] for name, numbers in sorted(summary.items())]
        titles = ("last", "at", "smallest", "at", "largest", "at")
        print()
        print_table([Column("metric"), *(Column(title, right=True) for title in titles)], rows)
    if record.result is not None:
        flat = flatten(record.result) if isinstance(record.result, dict) else {"": record.result}
        width = max(map(len, flat), default=0)
        print("\nresult")
        for key, value in flat.items():
            print(f"  {key:{width}}  {cell(value)}".rstrip())
    if record.fail_trace:
        print("\nFailed with\n  " + "\n  ".join(record.fail_trace.rstrip().splitlines()[-_LINES_OF_TRACE:]))


def _identity(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield what the run is called and its state, as names and texts."""
    yield "run", f"{singular(record.kind)} {record.id}"
    yield "store", record.store.description
    if record.name:
        yield "name", record.name
    status = record.status
    if record.recorded_status != status:
        doubt = ", and only the clocks of two machines differ from that" if record.seems_dead else ""
        status += f" (recorded as {record.recorded_status}{doubt})"
    yield "status", status
    if record.comment:
        yield "comment", record.comment
    if record.tags:
        yield "tags", ", ".join(record.tags)
    if record.notes:
        yield "notes", record.notes


def _surroundings(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield when, where and with which code it ran."""
    end = record.stop_time or record.heartbeat
    if record.start_time:
        took = "" if end is None else f", took {cell((end - record.start_time).total_seconds(), 'seconds')}"
        yield "started", cell(record.start_time) + took
    if record.heartbeat and record.stop_time is None:
        yield "last heartbeat", cell(record.heartbeat)
    host = record.host
    if host.get("hostname"):
        yield "machine", str(host["hostname"]) + (f", process {host['pid']}" if host.get("pid") else "")
    sessions = record.info.get("sessions") or ()
    for number, session in enumerate(sessions if len(sessions) > 1 else (), 1):
        start = session.get("start")
        words = [cell(datetime.fromisoformat(str(start)).replace(tzinfo=UTC))] if start else []
        for form, key in (
            ("on {}", "hostname"), ("from iteration {}", "from_iteration"), ("the one before ended {}", "before"),
        ):  # fmt: skip
            words += [form.format(session[key])] if session.get(key) else []
        yield f"session {number}", ", ".join(words)
    if script := record.experiment.get("mainfile"):
        yield "script", str(script)
    for repository in record.experiment.get("repositories") or ():
        changed = " with changes" if repository.get("dirty") else ""
        yield "commit", f"{str(repository.get('commit'))[:10]}{changed} of {repository.get('url')}"
    if record.config.get("seed") is not None:
        yield "seed", str(record.config["seed"])


def _lineage(record: RunRecord) -> Iterator[tuple[str, str]]:
    """Yield the data and runs that it came from, and what came of it."""
    read: dict[str, None] = {}
    for entry in record.inputs:
        hashes = entry.get("content_hashes") or {entry.get("address") or entry.get("file"): entry.get("content_hash")}
        for address, content_hash in hashes.items():
            read[f"{address}  {str(content_hash or '')[:_SHOWN_OF_HASHES]}".rstrip()] = None
    if read:
        yield "data", "\n".join(read)
    if isinstance(record.parent, dict):
        parents = []
        for origin in origins(record.parent):
            entries = sorted(origin.items(), key=lambda entry: not entry[0].endswith("_run_id"))
            words = [
                f"{key.removesuffix('_run_id')} {value[:_SHOWN_OF_HASHES] if key == 'sha256' else cell(value)}"
                for key, value in entries
                if value is not None
            ]
            parents.append(", ".join(words))
        yield "parent", "\n".join(parents)
    if (other := record.info.get("repeats")) is not None:
        yield "repeats", f"{singular(record.kind)} {other}"
    if record.kind == "predictions" and (other := record.info.get("prediction_run_id")) is not None:
        yield "resumes", f"{singular(record.kind)} {other}"
    if children := record.store.children(record.id):
        named = (f"{singular(run.kind)} {run.id}" + (f" ({run.name})" if run.name else "") for run in children)
        yield "led to", ", ".join(named)
    if checkpoints := record.checkpoints:
        iterations = ", ".join(str(checkpoint.iteration) for checkpoint in checkpoints)
        yield "checkpoints", f"{iterations} ({size(sum(checkpoint.bytes for checkpoint in checkpoints))})"
    if record.artifacts:
        yield "artifacts", ", ".join(record.artifacts)


@click.command("checkpoints")
@click.argument("run", metavar="ID", type=RunReference())
@click.option("--quick", is_flag=True, help="Compare lengths only, instead of reading and hashing the files.")
@kind_option
@store_options
def list_checkpoints(run: Reference, quick: bool, kind: str, stores: StoreChoice) -> int:
    """List the checkpoints that a run registered: metrics, size, where each one is, and whether it is complete.

    Complete means that the file has the SHA-256 that the run registered. A checkpoint is listed with its state if
    training can be resumed from it. The exit status is 1 if a checkpoint cannot be found anywhere.
    """
    record = run.get(stores, kind)
    checkpoints = record.checkpoints
    if not checkpoints:
        print(f"{called_first(record)} has no checkpoints.")
        return 0
    policy = (record.config.get("training") or {}).get("checkpoints") or {}
    best_metric = policy.get("best_metric")
    ranked = rank(checkpoints, best_metric, policy.get("best_mode") or "max")
    marked = {"best": ranked[0].iteration if ranked else None, "last": checkpoints[-1].iteration}
    known = {name for one in checkpoints for name, value in one.metrics.items() if not math.isnan(value)}
    metrics = [name for name in dict.fromkeys([best_metric, "loss", "dice_class_1"]) if name in known]
    rows, lost = [], 0
    for checkpoint in checkpoints:
        marks = [word for word, iteration in marked.items() if checkpoint.iteration == iteration]
        state = condition(checkpoint, quick=quick)
        lost += state.startswith(("missing", "changed"))
        length = sum(file.bytes for file in checkpoint.files)
        values = [cell(checkpoint.metrics.get(name)) for name in metrics]
        where = ", ".join(places(checkpoint)) or NOTHING
        iteration, mark, path = str(checkpoint.iteration), " ".join(marks) or NOTHING, shown_path(checkpoint.path)
        rows.append([iteration, mark, *values, size(length), where, state, path])
    columns = [Column("iteration", True), Column("mark"), *(Column(name, True) for name in metrics)]
    print_table([*columns, Column("size", True), Column("where"), Column("state"), Column("file")], rows)
    return 1 if lost else 0


def places(file: TrackedFile) -> list[str]:
    """Return the places where a file is available: disk, cache, database, URL."""
    found = ["disk"] if _on_disk(file) else []
    found += ["cache"] if cached_path(file.name, file.sha256).is_file() else []
    found += ["database"] if file.sha256 in file.places.stored else []
    return found + (["URL"] if file.url is not None else [])


def condition(checkpoint: CheckpointRecord, *, quick: bool) -> str:
    """Return whether a checkpoint is complete, and whether the state for resuming from it exists."""
    on_disk = _on_disk(checkpoint)
    if on_disk is not None:
        if not quick and file_sha256(on_disk) != checkpoint.sha256:
            return "changed: other SHA-256"
        model = "length matches" if quick else "complete"
    elif found := places(checkpoint):
        # the database lists a file only once its last chunk is stored
        model = "complete" if "database" in found else "not verified"
    else:
        there = [path for path in checkpoint.candidates if path.is_file()]
        return f"changed: {there[0].stat().st_size} bytes, not {checkpoint.bytes}" if there else "missing"
    if checkpoint.state is not None:
        complete = checkpoint.state.can_be_had()
    else:
        complete = checkpoint.path.with_name(f"training_state_{checkpoint.iteration}").is_file()
    return model if complete else f"{model}, without state"


def _on_disk(file: TrackedFile) -> Path | None:
    right = [path for path in file.candidates if path.is_file() and path.stat().st_size == file.bytes]
    return right[0] if right else None
