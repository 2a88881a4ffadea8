"""``runs reap`` and ``runs doctor``: records of dead runs, and inconsistencies of a store and its runs directory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import click

from incasem_like.commands.options import KindOfRun, StoreChoice, called_first, confirmed, store_options
from incasem_like.commands.tables import cell
from incasem_like.errors import IncasemError
from incasem_like.terminal import counted
from incasem_like.tracking import RunStore
from incasem_like.tracking.address import ENVIRONMENT_VARIABLE
from incasem_like.tracking.doctor import examine
from incasem_like.tracking.kinds import KINDS, singular
from incasem_like.tracking.moving.sync import OFFLINE, sync_journals

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
                continue
            store.set_killed(run.id)
            record = store.get(run.id)
            if record.recorded_status == "KILLED":  # else its upload showed that it had ended normally
                last = record.heartbeat or record.start_time
                print(f"{called_first(run)} was KILLED, last heartbeat {cell(last)}.")
                reaped += 1
    print(f"{counted(reaped, 'run')} reaped." if reaped else "No run is recorded as RUNNING without a process.")


@click.command("sync")
@_one_kind
@store_options
def sync_runs(kind: str | None, stores: StoreChoice) -> int:
    """Upload records that the run store has not received: after an outage, and of runs begun with --offline.

    Searches the runs directory of this machine; active runs upload their own records. The exit status is 1 if some
    records could not be uploaded.
    """
    synced = [one for store in chosen_stores(stores, kind).values() for one in sync_journals(store)]
    for one in synced:
        print(f"{singular(one.kind).capitalize()} run {one.run_id}: {one.what}.")
    if not synced:
        print(f"Nothing is pending in {stores.runs_directory}.")
    return 1 if any(one.delivered_as is None for one in synced) else 0


@click.command("doctor")
@click.option("--repair", is_flag=True, help="Repair what can be repaired.")
@click.option("--yes", is_flag=True, help="Do not ask before repairing.")
@click.option("--thorough", is_flag=True, help="Read checkpoints through and compare their hashes, not lengths only.")
@click.option(
    "--also", metavar="URL", multiple=True, help="Another store with runs in this runs directory; repeatable."
)
@store_options
def examine_stores(repair: bool, yes: bool, thorough: bool, also: Sequence[str], stores: StoreChoice) -> int:
    """Find inconsistencies in the runs of all kinds and in the runs directory.

    These are runs that died but are recorded as running, checkpoints that are missing, changed or not registered,
    leftovers of crashes, and records that were not uploaded. A folder of checkpoints may belong to a run in another
    store: the files in the runs directory and the store of INCASEM_TRACKING_URL are always searched, others with
    --also. Anything that changed in the last hour may still be in use and is left alone. The exit status is 1 while
    there are findings that were not repaired.
    """
    looked_into = stores_of(stores, also)
    findings = examine(looked_into, stores.runs_directory, thorough=thorough)
    for number, finding in enumerate(findings, 1):
        print(f"{number}. {finding.problem}")
        print(f"   {'Repair' if finding.mend is not None else 'What to do'}: {finding.repair}")
    if not findings:
        trainings = [store.description for store in looked_into if store.kind == KINDS[0]]
        print(f"All is consistent in {stores.runs_directory} and the runs of {', '.join(trainings)}.")
        return 0
    able = [(number, finding.mend) for number, finding in enumerate(findings, 1) if finding.mend is not None]
    if not repair:
        if able:
            print(f"\n{len(able)} of {len(findings)} can be repaired: add --repair.")
        return 1
    if able and not yes and not confirmed(f"Repair {'this' if len(able) == 1 else f'these {len(able)}'}?", "repair"):
        print("Nothing was repaired.")
        return 1
    mended = 0
    for number, mend in able:
        try:
            mend()
        except (IncasemError, OSError) as error:
            print(f"{number}. could not be repaired: {error}")
        else:
            print(f"{number}. repaired")
            mended += 1
    print(f"\n{mended} of {len(findings)} repaired.")
    return 0 if mended == len(findings) else 1


def stores_of(choice: StoreChoice, also: Sequence[str]) -> list[RunStore]:
    """Open every store that is known to have runs in the runs directory, each once."""
    urls = [choice.url, *also, os.environ.get(ENVIRONMENT_VARIABLE)]
    folders = [choice.runs_directory / "tracking", choice.runs_directory / OFFLINE]
    places = [*urls[:1], *filter(None, urls[1:]), *(str(folder) for folder in folders if folder.is_dir())]
    opened = [store for place in places for store in StoreChoice(place, choice.runs_directory).open_all().values()]
    return list({store.description: store for store in opened}.values())
