"""Deleting a run: what stands against it, and in which order its parts go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incasem_like.errors import InputError
from incasem_like.tracking.model.checkpoints import listed
from incasem_like.tracking.moving.model_files import free_model_files
from incasem_like.tracking.stores.base import Freed

if TYPE_CHECKING:
    from incasem_like.tracking.stores.base import RunStore


def delete_run(store: RunStore, run_id: int, *, force: bool = False) -> Freed:
    """Delete a run with its metrics, artifacts, sources that no other run needs, and checkpoints.

    Checkpoints on this machine go with their folder, TensorBoard logs and snapshots, but only where their hashes prove
    that they are this run's, and no run of another store shares them.

    The run is taken from sight first, so that a deletion that breaks off leaves no run that is only half there: what
    remains of it is known to ``RunStore.half_deleted`` and goes with ``finish_deletion``.

    Args:
        store: Of the run.
        run_id: The run.
        force: Delete it even if other runs came from it.

    Raises:
        RunNotFoundError: There is no such run.
        InputError: The run goes on, or other runs came from it.
        StoreError: The store cannot be written.
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
