"""``runs doctor``: find inconsistencies in a store and its runs directory, and repair them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from incasem_like.commands.runs.options import StoreChoice, store_options
from incasem_like.errors import IncasemError, InputError
from incasem_like.tracking.address import ENVIRONMENT_VARIABLE
from incasem_like.tracking.kinds import KINDS

if TYPE_CHECKING:
    from incasem_like.tracking import RunStore
    from incasem_like.tracking.doctor import Finding


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
    from incasem_like.tracking.doctor import examine

    looked_into = stores_of(stores, also)
    findings = examine(looked_into, stores.runs_directory, thorough=thorough)
    for number, finding in enumerate(findings, 1):
        print(f"{number}. {finding.problem}")
        print(f"   {'Repair' if finding.mend is not None else 'What to do'}: {finding.repair}")
    if not findings:
        trainings = [store.description for store in looked_into if store.kind == KINDS[0]]
        print(f"All is consistent in {stores.runs_directory} and the runs of {', '.join(trainings)}.")
        return 0
    able = [(number, finding) for number, finding in enumerate(findings, 1) if finding.mend is not None]
    if not repair:
        if able:
            print(f"\n{len(able)} of {len(findings)} can be repaired: add --repair.")
        return 1
    if able and not yes and not _agreed(len(able)):
        print("Nothing was repaired.")
        return 1
    mended = sum(_mend(number, finding) for number, finding in able)
    print(f"\n{mended} of {len(findings)} repaired.")
    return 0 if mended == len(findings) else 1


def stores_of(choice: StoreChoice, also: Sequence[str]) -> list[RunStore]:
    """Open every store that is known to have runs in the runs directory, each once."""
    from incasem_like.tracking.moving.sync import OFFLINE

    urls = [choice.url, *also, os.environ.get(ENVIRONMENT_VARIABLE)]
    folders = [choice.runs_directory / "tracking", choice.runs_directory / OFFLINE]
    places = [*urls[:1], *filter(None, urls[1:]), *(str(folder) for folder in folders if folder.is_dir())]
    opened = [store for place in places for store in StoreChoice(place, choice.runs_directory).open_all().values()]
    return list({store.description: store for store in opened}.values())


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise InputError("Nobody can be asked whether to repair: add --yes.")
    return click.confirm(f"Repair {'this' if count == 1 else f'these {count}'}?", default=False)


def _mend(number: int, finding: Finding) -> bool:
    assert finding.mend is not None
    try:
        finding.mend()
    except (IncasemError, OSError) as error:
        print(f"{number}. could not be repaired: {error}")
        return False
    print(f"{number}. repaired")
    return True
