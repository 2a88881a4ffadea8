"""Families of synthetic volumes: each volume is made by one worker, those that are there are left alone.

An item is a whole volume: its noise, blur and percentiles are those of all of it, and one stream of random numbers
makes it, so that parts of it could not be made apart and give the same voxels.
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
    """A volume that is there now.

    Attributes:
        output: Folder or container.
        columns: Labelled columns in it.
        already_complete: True when an earlier call had written it.
    """

    output: Path
    columns: int
    already_complete: bool


def make_volumes(
    orders: Sequence[VolumeOrder], *, num_workers: int = 1, workers: Workers | None = None, overwrite: bool = False
) -> Iterator[VolumeWritten]:
    """Generate and write volumes, each on one worker; those that are there and equal are left alone.

    Memory is that of one whole volume on each worker.

    Args:
        orders: The volumes of one family: all alike but for their number and place.
        num_workers: Processes, at most.
        workers: Of a workers file, instead of processes here.
        overwrite: Replace what is there.

    Yields:
        Each volume when all are done; the voxels depend on the order alone, not on who makes it when.

    Raises:
        InputError: A place that holds something else, or another family that was begun there, without ``overwrite``.
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
        if any(columns_there(order) is None for order in orders):  # somebody removed one since an earlier call
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
    """Generate and write the volume that an item stands for, unless it is there."""
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
