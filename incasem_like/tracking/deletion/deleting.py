"""Deleting a run: what stands against it, and in which order its parts go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incasem_like.errors import InputError
from incasem_like.tracking.checkpoints import listed
from incasem_like.tracking.deletion.freed import Freed
from incasem_like.tracking.deletion.model_files import free_model_files

if TYPE_CHECKING:
    from incasem_like.tracking.store import RunStore


def delete_run(store: RunStore, run_id: int, *, force: bool) -> Freed:
    """Delete a run, see ``RunStore.delete``.

    The run is taken from sight first, so that a deletion that breaks off leaves no run that is only half there: what
    remains of it is known to ``RunStore.half_deleted`` and goes with ``finish_deletion``.
    """
    if not force:
        _refuse_parent(store, run_id)
    store.begin_deletion(run_id)
    return finish_deletion(store, run_id)


def finish_deletion(store: RunStore, run_id: int) -> Freed:
    """Free what is left of a run whose deletion has begun: its files on this machine first, its record last."""
    record = store.read_half_deleted(run_id)
    freed = free_model_files(record) if record is not None else Freed()
    return freed + store.free_record(run_id)


def _refuse_parent(store: RunStore, run_id: int) -> None:
    children = store.children(run_id)
    if not children:
        return
    kinds = dict.fromkeys(child.kind for child in children)
    named = ", ".join(
        f"{kind.removesuffix('s')} {listed(sorted(child.id for child in children if child.kind == kind))}"
        for kind in kinds
    )
    raise InputError(
        f"Run {run_id} in {store.description} is what other runs came from ({named}): delete those first, or force it."
    )
