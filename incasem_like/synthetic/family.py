"""Families of synthetic volumes: each volume is made by one worker, existing ones are left unchanged.

A work item is a whole volume: noise, blur and percentiles depend on all of it, and a single stream of random numbers
is used, so that it cannot be computed in parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incasem_like.blockwise import WorkItem
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.blockwise.workers_file import Workers
from incasem_like.synthetic.parameters import OpticLobeParameters
from incasem_like.synthetic.writing import VolumeOrder, columns_there, make_volume, refuse_what_is_there
from incasem_like.volumes import check_outputs


@dataclass(frozen=True)
class VolumeWritten:
    """A volume that has been written.

    Attributes:
        output: Folder or container.
        columns: Number of labelled columns.
        already_complete: Whether an earlier call had written it.
    """

    output: Path
    columns: int
    already_complete: bool


def make_volumes(
    orders: Sequence[VolumeOrder], *, num_workers: int = 1, workers: Workers | None = None, overwrite: bool = False
) -> Iterator[VolumeWritten]:
    """Generate and write volumes, each on one worker; existing equal ones are left unchanged.

    Each worker needs the memory of one whole volume.

    Args:
        orders: The volumes of one family: equal except for index and output.
        num_workers: Maximum number of processes.
        workers: Workers of a workers file, instead of local processes.
        overwrite: Replace existing outputs.

    Yields:
        Each volume when all are done; the voxels depend only on its ``VolumeOrder``, not on worker or time.

    Raises:
        InputError: An output holds something else, or another family was begun there, without ``overwrite``.
        IncasemError: As ``run_blockwise``.
    """
    check_outputs([order.output for order in orders], [], "choose another --output")
    there = [None if overwrite else columns_there(order) for order in orders]
    if None in there:
        for order, columns in zip(orders, there, strict=True):
            if columns is None and not overwrite:
                refuse_what_is_there(order)
        orders[0].output.parent.mkdir(parents=True, exist_ok=True)
        task = _family_task(orders, overwrite)
        options: dict[str, Any] = {"num_workers": num_workers, "workers": workers, "description": "Generating"}
        task.run(overwrite=overwrite, **options)
        if any(columns_there(order) is None for order in orders):  # one was removed since an earlier call
            task.run(overwrite=True, **options)
        task.forget()
    for order, columns in zip(orders, there, strict=True):
        yield VolumeWritten(order.output, columns_there(order) or 0, columns is not None)


def _family_task(orders: Sequence[VolumeOrder], overwrite: bool) -> LedgerTask:
    first = orders[0]
    names = tuple(order.output.name for order in orders)
    family = {key: value for key, value in first.record.items() if key != "index"}
    parameters = {**family, "volumes": len(orders), "format": first.format, "outputs": [str(o.output) for o in orders]}
    stem = first.output.stem.removesuffix("_000")
    return LedgerTask(
        "generate volumes",
        names,
        (),
        make_one,
        {**parameters, "overwrite": overwrite},
        place=first.output.with_name(f".{stem}.ledger"),
        unit="volumes",
    )


def make_one(item: WorkItem, parameters: Mapping[str, Any]) -> None:
    """Generate and write the volume of a work item, unless it exists."""
    order = VolumeOrder(
        Path(parameters["outputs"][item.number]),
        parameters["format"],
        tuple(parameters["shape"]),
        tuple(parameters["voxel_size"]),
        parameters["seed"],
        item.number,
        OpticLobeParameters.model_validate(parameters["parameters"]),
    )
    if parameters["overwrite"] or columns_there(order) is None:
        make_volume(order, parameters["overwrite"])
