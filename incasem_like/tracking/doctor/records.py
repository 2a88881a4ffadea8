"""Records of runs: damaged, without an end, half made, half deleted, not delivered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from incasem_like.errors import InputError
from incasem_like.tracking.address import singular
from incasem_like.tracking.deletion.deleting import finish_deletion
from incasem_like.tracking.doctor.finding import Finding
from incasem_like.tracking.summaries import DAMAGED
from incasem_like.tracking.sync import deliver_journal, undelivered

if TYPE_CHECKING:
    from incasem_like.tracking.store import RunStore


def check_records(store: RunStore, settled: timedelta) -> Iterator[Finding]:
    """Check the records of a store."""
    yield from _undelivered(store)
    runs = store.summaries()
    dead = [run.id for run in runs if run.status == "KILLED" and run.recorded_status == "RUNNING"]
    for run in runs:
        name = f"{singular(run.kind).capitalize()} run {run.id}"
        if run.status == DAMAGED:
            problem = f"{name} is damaged: {run.damage}."
            repair = (
                f"Restore it from a backup, or delete {run.kind}/{run.id} with 'incasem-like runs delete' and the "
                "flags of this store."
            )
            yield Finding(store.description, problem, repair)
        elif run.id in dead:
            heard = run.heartbeat or run.start_time
            said = f", last heard of at {heard:%Y-%m-%d %H:%M} UTC" if heard else ""
            problem = f"{name} says RUNNING, but its process is gone{said}."
            yield Finding(store.description, problem, "Set it down as KILLED.", partial(_set_down, store, run.id, dead))
    for run_id in store.half_deleted():
        problem = f"The deletion of {singular(store.kind)} run {run_id} broke off."
        yield Finding(store.description, problem, "Finish it.", partial(finish_deletion, store, run_id))
    for run_id, age in store.half_received().items():
        if age > settled.total_seconds():
            problem = f"{singular(store.kind).capitalize()} run {run_id} was begun or imported, and never came to be."
            mend = partial(store.free_half_received, run_id)
            yield Finding(store.description, problem, "Delete what there is of it.", mend)


def _undelivered(store: RunStore) -> Iterator[Finding]:
    present = set(store.ids())
    for journal in undelivered(store):
        run = f"{singular(store.kind)} run {journal.run_id}"
        if journal.run_id in present:
            problem = f"The record of {run} is not all there: the rest waits in {journal.folder}."
            mend = partial(deliver_journal, store, journal.run_id)
            yield Finding(store.description, problem, "Deliver it.", mend)
        else:
            problem = f"{journal.folder} waits for {run}, which is not there."
            repair = "Deliver it with 'incasem-like runs sync', or delete the folder if the run was deleted on purpose."
            yield Finding(store.description, problem, repair)


def _set_down(store: RunStore, run_id: int, dead: Sequence[int]) -> None:
    """Note that a run was killed, unless somebody did so or continued it meanwhile; watches all that look dead once."""
    deliver_journal(store, run_id)
    record = store.get(run_id)
    if record.recorded_status == "RUNNING" and record.status != "RUNNING":
        if run_id in store.heard_of(dead):
            raise InputError("it goes on; the clock of its machine and that of this one differ.")
        store.set_state(run_id, "KILLED", record.heartbeat or record.start_time)
