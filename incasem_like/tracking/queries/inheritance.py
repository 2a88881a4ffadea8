"""What runs are about by way of the runs that they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from incasem_like.tracking.queries.fields import Field, organelle_labels

if TYPE_CHECKING:
    from incasem_like.tracking.store import RunStore
    from incasem_like.tracking.summaries import RunSummary

Key = tuple[str, int]


def inherited(field: Field, runs: Sequence[RunSummary], stores: Sequence[RunStore]) -> Field:
    """Make of the field ``organelle`` one that looks at a run's ancestors where its own data name none.

    A prediction reads no labels: it is about what its training was about, and so is what was made of it.

    Args:
        field: The common field.
        runs: Of all kinds that were asked for.
        stores: Theirs.
    """
    known = _with_ancestors(runs, stores)

    def read(run: RunSummary, below: tuple[Key, ...] = ()) -> tuple[str, ...]:
        if own := organelle_labels(run):
            return own
        lineage = (*below, (run.kind, run.id))
        above = [known[parent] for parent in run.parents if parent in known and parent not in lineage]
        return tuple(dict.fromkeys(name for parent in above for name in read(parent, lineage))) or run.tags

    return replace(field, read=read)


def _with_ancestors(runs: Sequence[RunSummary], stores: Sequence[RunStore]) -> dict[Key, RunSummary]:
    """Gather runs by kind and id, with those of further kinds that some of them came from."""
    known = {(run.kind, run.id): run for run in runs}
    read = {store.kind for store in stores}
    while further := {kind for run in known.values() if not organelle_labels(run) for kind, _ in run.parents} - read:
        for kind in sorted(further):
            read.add(kind)
            known |= {(run.kind, run.id): run for run in stores[0].sibling(kind).summaries(inputs=True)}
    return known
