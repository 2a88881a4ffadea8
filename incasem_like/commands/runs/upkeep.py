"""``runs reap`` and ``runs sync``: close the records of dead runs, and upload pending records."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import click

from incasem_like.commands.runs.options import KindOfRun, StoreChoice, called_first, store_options
from incasem_like.commands.tables import cell
from incasem_like.tracking.kinds import KINDS, singular

if TYPE_CHECKING:
    from incasem_like.tracking import RunStore
    from incasem_like.tracking.model.summaries import RunSummary

_one_kind = click.option("--kind", type=KindOfRun(), help=f"Runs of this kind only: {', '.join(KINDS)}.")


def chosen_stores(stores: StoreChoice, kind: str | None) -> Mapping[str, RunStore]:
    """Open the stores of one kind of run, or of all."""
    return stores.open_all() if kind is None else {kind: stores.open(kind)}


@click.command("reap")
@_one_kind
@store_options
def reap_runs(kind: str | None, stores: StoreChoice) -> None:
    """Mark runs as KILLED that are recorded as RUNNING but whose process has ended.

    A run of this machine is checked by its process. One of another machine counts as dead if its last heartbeat is
    five minutes old; since the clocks of two machines may differ, it is then watched for 25 s before it is marked.
    Pending records of a dead run are uploaded first.
    """
    reaped = 0
    for store in chosen_stores(stores, kind).values():
        dead = [run for run in store.summaries() if run.recorded_status == "RUNNING" and run.status != "RUNNING"]
        heard_of = store.heard_of(run.id for run in dead)
        for run in dead:
            if run.id in heard_of:
                print(f"{called_first(run)} is alive: the clock of {run.hostname} and that of this machine differ.")
            else:
                reaped += _reap(store, run)
    print(f"{reaped} run{'' if reaped == 1 else 's'} reaped." if reaped else "No run says RUNNING without a process.")


def _reap(store: RunStore, run: RunSummary) -> bool:
    """Close one record; return False if uploading it showed that the run had ended normally."""
    for journal in store.pending(run.id):
        store.deliver(journal)
    record = store.get(run.id)
    if record.recorded_status not in ("RUNNING", "KILLED"):
        return False
    last: datetime | None = record.heartbeat or record.start_time
    if record.recorded_status == "RUNNING":
        store.set_state(run.id, "KILLED", last)
    print(f"{called_first(run)} was KILLED, last heartbeat {cell(last)}.")
    return True


@click.command("sync")
@_one_kind
@store_options
def sync_runs(kind: str | None, stores: StoreChoice) -> int:
    """Upload records that the run store has not received: after an outage, and of runs begun with --offline.

    Searches the runs directory of this machine; active runs upload their own records. The exit status is 1 if some
    records could not be uploaded.
    """
    from incasem_like.tracking.moving.sync import sync_journals

    synced = [one for store in chosen_stores(stores, kind).values() for one in sync_journals(store)]
    for one in synced:
        print(f"{singular(one.kind).capitalize()} run {one.run_id}: {one.what}.")
    if not synced:
        print(f"Nothing waits in {stores.runs_directory}.")
    return 1 if any(one.delivered_as is None for one in synced) else 0
