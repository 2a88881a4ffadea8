"""``runs show``: all details of one run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from incasem_like.commands.runs.listing import plain
from incasem_like.commands.runs.metrics import metric_summaries
from incasem_like.commands.runs.options import Reference, RunReference, StoreChoice, kind_option, store_options
from incasem_like.commands.tables import Column, cell, print_table, size
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.model.summaries import origins

if TYPE_CHECKING:
    from incasem_like.tracking import RunRecord
    from incasem_like.tracking.model.summaries import RunSummary

_LINES_OF_TRACE = 12
_SHOWN_OF_HASHES = 12


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
        from incasem_like.commands.command_line import format_config

        print(format_config(record.config), end="")
    elif what == "output":
        print(record.captured_output, end="")
    elif what == "json":
        print(json.dumps(_whole(record), indent=2))
    else:
        _show(record)


def _show(record: RunRecord) -> None:
    facts = [*_identity(record), *_times(record), *_code(record), *_origin(record), *_people(record)]
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        first, *more = text.splitlines() or [""]
        print(f"{name.ljust(width)}  {first}")
        for line in more:
            print(f"{'':{width}}  {line}")
    _show_metrics(record)
    _show_result(record)
    if record.fail_trace:
        lines = record.fail_trace.rstrip().splitlines()
        print("\nFailed with\n  " + "\n  ".join(lines[-_LINES_OF_TRACE:]))


def _identity(record: RunRecord) -> Iterator[tuple[str, str]]:
    yield "run", f"{singular(record.kind)} {record.id}"
    yield "store", record.store.description
    if record.name:
        yield "name", record.name
    recorded = record.recorded_status
    by_clocks = ", and only the clocks of two machines speak against it" if record.seems_dead else ""
    yield "status", record.status if recorded == record.status else f"{record.status} (it says {recorded}{by_clocks})"
    if record.comment:
        yield "comment", record.comment


def _times(record: RunRecord) -> Iterator[tuple[str, str]]:
    end = record.stop_time or record.heartbeat
    took = (end - record.start_time).total_seconds() if end and record.start_time else None
    if record.start_time:
        yield "started", cell(record.start_time) + (f", took {cell(took, 'seconds')}" if took is not None else "")
    if record.heartbeat and record.stop_time is None:
        yield "last heartbeat", cell(record.heartbeat)
    host = record.host
    if host.get("hostname"):
        yield "machine", str(host["hostname"]) + (f", process {host['pid']}" if host.get("pid") else "")
    sessions = record.info.get("sessions") or ()
    for number, session in enumerate(sessions if len(sessions) > 1 else (), 1):
        yield f"session {number}", ", ".join(_session_words(session))


def _session_words(session: Mapping[str, Any]) -> Iterator[str]:
    """Yield where and from which iteration a run was continued, and how the previous session had ended."""
    if session.get("start"):
        yield cell(datetime.fromisoformat(str(session["start"])).replace(tzinfo=UTC))
    if session.get("hostname"):
        yield f"on {session['hostname']}"
    if session.get("from_iteration"):
        yield f"from iteration {session['from_iteration']}"
    if session.get("before"):
        yield f"the one before ended {session['before']}"


def _code(record: RunRecord) -> Iterator[tuple[str, str]]:
    if script := record.experiment.get("mainfile"):
        yield "script", str(script)
    for repository in record.experiment.get("repositories") or ():
        changed = " with changes" if repository.get("dirty") else ""
        yield "commit", f"{str(repository.get('commit'))[:10]}{changed} of {repository.get('url')}"
    if record.config.get("seed") is not None:
        yield "seed", str(record.config["seed"])


def _origin(record: RunRecord) -> Iterator[tuple[str, str]]:
    read: dict[str, None] = {}
    for entry in record.inputs:
        hashes = entry.get("content_hashes") or {entry.get("address") or entry.get("file"): entry.get("content_hash")}
        for address, content_hash in hashes.items():
            read[f"{address}  {str(content_hash or '')[:_SHOWN_OF_HASHES]}".rstrip()] = None
    if read:
        yield "data", "\n".join(read)
    if isinstance(record.parent, dict):
        yield "parent", "\n".join(", ".join(_parent_words(origin)) for origin in origins(record.parent))
    for word, key in (("repeats", "repeats"), ("resumes", "prediction_run_id")):
        if (other := record.info.get(key)) is not None and (word == "repeats" or record.kind == "predictions"):
            yield word, f"{singular(record.kind)} {other}"
    children = record.store.children(record.id)
    if children:
        yield "led to", ", ".join(_named(child) for child in children)
    checkpoints = record.checkpoints
    if checkpoints:
        iterations = ", ".join(str(checkpoint.iteration) for checkpoint in checkpoints)
        yield "checkpoints", f"{iterations} ({size(sum(checkpoint.bytes for checkpoint in checkpoints))})"
    if record.artifacts:
        yield "artifacts", ", ".join(record.artifacts)


def _parent_words(parent: Mapping[str, Any]) -> Iterator[str]:
    for key, value in sorted(parent.items(), key=lambda entry: not entry[0].endswith("_run_id")):
        if value is None:
            continue
        if key.endswith("_run_id"):
            yield f"{key.removesuffix('_run_id')} {value}"
        else:
            yield f"{key} {value[:_SHOWN_OF_HASHES] if key == 'sha256' else cell(value)}"


def _people(record: RunRecord) -> Iterator[tuple[str, str]]:
    if record.tags:
        yield "tags", ", ".join(record.tags)
    if record.notes:
        yield "notes", record.notes


def _named(run: RunSummary) -> str:
    return f"{singular(run.kind)} {run.id}" + (f" ({run.name})" if run.name else "")


def _show_metrics(record: RunRecord) -> None:
    summary = metric_summaries(record)
    if not summary:
        return
    rows = [
        [name, *(cell(numbers.get(key)) for key in ("last", "last_step", "min", "min_step", "max", "max_step"))]
        for name, numbers in sorted(summary.items())
    ]
    titles: Sequence[str] = ("last", "at", "smallest", "at", "largest", "at")
    print()
    print_table([Column("metric"), *(Column(title, right=True) for title in titles)], rows)


def _show_result(record: RunRecord) -> None:
    if record.result is None:
        return
    from incasem_like.tracking.model.summaries import flatten

    flat = flatten(record.result) if isinstance(record.result, dict) else {"": record.result}
    print("\nresult")
    width = max(map(len, flat), default=0)
    for key, value in flat.items():
        print(f"  {key:{width}}  {cell(value)}".rstrip())


def _whole(record: RunRecord) -> dict[str, object]:
    attributes = (
        "id kind name status recorded_status start_time stop_time heartbeat comment tags notes result parent inputs "
        "info config meta host experiment artifacts fail_trace"
    )
    return {name: plain(getattr(record, name)) for name in attributes.split()}
