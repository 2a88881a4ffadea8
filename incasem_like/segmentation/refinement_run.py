"""The tracked run that refines a segmentation, and its dry run: both report what is removed before they write."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.disk import write_whole
from incasem_like.errors import InputError
from incasem_like.formatting.components import find_parts, save_table
from incasem_like.formatting.derive import MOST_CONTEXT
from incasem_like.segmentation import refinement
from incasem_like.segmentation.measurements import measure_task, read_added_up
from incasem_like.segmentation.morphology import MORPHOLOGY
from incasem_like.segmentation.planning import is_made
from incasem_like.segmentation.refinement import Decision, Table
from incasem_like.tracking import run_experiment
from incasem_like.volumes import Volume, check_outputs, make_provenance, open_volume, parse_address
from incasem_like.volumes.chunk_files import digest
from incasem_like.volumes.values import check_label_dtype

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunStore

TOOL = "refine_segmentation"
OPTIONS = {  # of each operation
    "filter": ("min_size", "max_size", "outliers", "min_sections"),
    "remap": ("remap", "merge"),
    "fill_holes": (),
    **dict.fromkeys(MORPHOLOGY, ("steps", "in_plane")),
}
LISTS = {"remap": refinement.read_remap, "merge": refinement.read_merges}


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Refinement request: the tracked configuration of a refinement run.

    Attributes:
        operation: A name in ``OPTIONS``.
        segmentation: Address of the instance labels, (z, y, x).
        output: Address of the refined labels, of the same data type; None for a dry run.
        min_size, max_size, outliers, min_sections: As for ``refinement.filtered``.
        remap, merge: CSV lists, see ``refinement.read_remap`` and ``read_merges``.
        steps: Layers of voxels to erode or dilate.
        in_plane: Erode and dilate within sections only.
        most_removed: Largest share of the labelled voxels that may be removed.
        block_shape: Voxels that a worker processes at once; rounded up to whole chunks.
    """

    operation: str
    segmentation: str
    output: str | None = None
    min_size: int | None = None
    max_size: int | None = None
    outliers: float | None = None
    min_sections: int | None = None
    remap: str | None = None
    merge: str | None = None
    steps: int | None = None
    in_plane: bool = False
    most_removed: float = 0.5
    block_shape: tuple[int, int, int] = (128, 256, 256)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the operation that are given, and what remap and merge lists say."""
        return {name: value for name, value in self._given.items() if name in OPTIONS[self.operation]}

    @property
    def _given(self) -> dict[str, Any]:
        """The options of all operations that are given; 0 is."""
        values = {name: getattr(self, name) for names in OPTIONS.values() for name in names}
        return {name: value for name, value in values.items() if value is not None and value is not False}

    def check(self) -> None:
        """Check that the options suit the operation.

        Raises:
            InputError: They do not.
        """
        if others := self._given.keys() - self.options.keys():
            raise InputError(f"{self.operation} has no --{min(others)}: leave it out.")
        if self.operation == "filter" and not self.options:
            raise InputError("filter needs a limit: give --min_size, --max_size, --outliers or --min_sections.")
        if self.operation == "remap" and len(self.options) != 1:
            raise InputError("remap needs one list: give --remap or --merge.")
        for name, value in self.options.items():
            if isinstance(value, int | float) and value <= 0:
                raise InputError(f"--{name} is {value:g}: give more than 0, or leave it out.")
            if isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"--{name} is {value:g}: give a number.")
        if (self.steps or 0) > MOST_CONTEXT:
            raise InputError(f"--steps is {self.steps}, more than the {MOST_CONTEXT} that blocks can read: give fewer.")
        if self.min_size and self.max_size and self.min_size > self.max_size:
            raise InputError(f"--min_size {self.min_size} is above --max_size {self.max_size}: exchange them.")
        if not 0 <= self.most_removed <= 1:
            raise InputError(f"--most_removed is {self.most_removed:g}: give a share from 0 to 1.")

    def parameters(self) -> dict[str, Any]:
        """Return what the result depends on beside the segmentation."""
        lists = {
            name: digest(sorted(LISTS[name](Path(getattr(self, name))).items()))
            for name in LISTS
            if getattr(self, name)
        }
        options = {**self.options, **lists}  # lists by content, not by file
        return {"operation": self.operation, **options}


@dataclass(frozen=True)
class Change:
    """A refinement that is decided: the report, the objects that it removes, and how its blocks are written."""

    report: dict[str, Any]
    decision: Decision
    function: Callable[[Block, Mapping[str, Any]], None]
    save: Callable[[Path], None] | None = None  # writes the table that blocks look up


def decide(request: Refinement, source: Volume, how: Mapping[str, Any]) -> Change:
    """Look at the whole volume, block by block, and return what the refinement does.

    Args:
        request: The request.
        source: Its segmentation.
        how: ``num_workers`` and ``workers`` of ``run_blockwise``.

    Raises:
        InputError: More than ``most_removed`` would be removed, or a new id does not fit into the data type.
    """
    if request.operation in ("filter", "remap"):
        change = _by_table(request, source, how)
    elif request.operation == "fill_holes":
        change = _by_parts(request, source, how)
    else:
        change = _by_morphology(request, source, how)
    report = change.report
    if report["removed_voxels"] > request.most_removed * report["voxels"]:
        raise InputError(
            f"{request.operation} would remove {report['removed_voxels']} of {report['voxels']} labelled voxels, more "
            f"than the share --most_removed {request.most_removed:g}: change the options, or raise it."
        )
    return change


def _by_table(request: Refinement, source: Volume, how: Mapping[str, Any]) -> Change:
    task = measure_task(source, {}, surfaces=False, block_shape=request.block_shape)
    task.run(**how, description="Counting objects")
    parts = list(read_added_up(task.folder / "objects", ("id",)))
    names = ("id", "size", "z_first", "z_last")
    objects: Table = {name: np.concatenate([part[name] for part in parts] or [np.zeros(0, np.int64)]) for name in names}
    if request.operation == "filter":
        decision = refinement.filtered(objects, **request.options)
    else:
        ((name, value),) = request.options.items()
        decision = refinement.remapped(objects, LISTS[name](Path(value)), value)
    highest = int(decision.new_ids.max(initial=0))
    if highest > np.iinfo(source.dtype).max:
        raise InputError(f"The new id {highest} does not fit into {source.dtype} of {source.address}: choose another.")
    task.forget()

    def save(path: Path) -> None:
        new_ids = decision.new_ids.astype(source.dtype)
        write_whole(path, lambda file: np.savez_compressed(file, ids=decision.ids, new_ids=new_ids))

    return Change(decision.report(), decision, refinement.relabel_block, save)


def _by_parts(request: Refinement, source: Volume, how: Mapping[str, Any]) -> Change:
    parts = find_parts(source, source, request.block_shape, **how)
    values = refinement.filled_values(parts)
    filled = (parts.values == 0) & (values != 0)
    labelled = parts.values != 0
    ids = np.unique(parts.values[labelled]).astype(np.uint64)
    decision = Decision(ids, np.ones(len(ids), np.int64), ids)
    report = {
        "objects": len(ids),
        "voxels": int(parts.sizes[labelled].sum()),
        "holes": len(np.unique(parts.component[filled])),
        "added_voxels": int(parts.sizes[filled].sum()),
        "removed_objects": 0,
        "removed_voxels": 0,
    }
    return Change(report, decision, refinement.filled_block, lambda path: save_table(parts, values, path))


def _by_morphology(request: Refinement, source: Volume, how: Mapping[str, Any]) -> Change:
    parameters = {"operation": request.operation, "steps": request.steps or 1, "in_plane": request.in_plane}
    inputs = (str(source.address),)
    task = LedgerTask("count changes", source, inputs, refinement.count_changes, parameters, request.block_shape)
    task.run(**how, description="Counting changes")
    ids, before, after = refinement.changed_sizes(list(task.results()))
    task.forget()
    vanished = (before > 0) & (after == 0)
    decision = Decision(ids, before, np.where(vanished, np.uint64(0), ids), {request.operation: vanished})
    change = after - before
    report = {
        **decision.report(),
        "added_voxels": int(change[change > 0].sum()),
        "removed_voxels": int(-change[change < 0].sum()),
    }
    return Change(report, decision, refinement.morphology_block)


def refine_as_run(
    request: Refinement,
    *,
    store: RunStore | None,
    overwrite: bool = False,
    num_workers: int = 1,
    workers: Workers | None = None,
    removed_list: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Refine a segmentation, tracked as a run; without an output, only report what would be removed.

    Args:
        request: The request.
        store: Run store, of kind ``segmentations``; None does not track the run, nor is a dry run tracked.
        overwrite: Replace an output that was made with other options.
        num_workers, workers: As for ``run_blockwise``.
        removed_list: CSV file to write with the objects that are removed and why.
        **options: run_name, comment, run_id, as ``tracking.run_experiment`` takes them.

    Returns:
        ``report``, and, of a run that wrote something, ``address`` and ``run_id``; of an output that exists already,
        ``address`` alone.

    Raises:
        InputError: See ``Refinement.check`` and ``decide``; or the output was made with other options.
        DataError: The segmentation is missing, or a list does not belong to it.
    """
    request.check()
    source = open_volume(request.segmentation)
    source.require_zyx()
    check_label_dtype(source)
    parameters = request.parameters()
    how: dict[str, Any] = {"num_workers": num_workers, "workers": workers}
    if request.output is None:
        change = decide(request, source, how)
        if removed_list is not None:
            refinement.write_removed(change.decision, removed_list)
        return {"report": change.report}
    address = parse_address(request.output)
    check_outputs([address], [source.address], "choose another --output")
    if is_made(address.container, address.dataset, parameters, [source], overwrite):
        return {"address": str(address)}

    def work(run: Run) -> dict[str, Any]:
        run.inputs([source.as_input()])
        run.set_info("segmentation_run_id", (source.provenance or {}).get("run_id"))
        change = decide(request, source, how)
        with tempfile.TemporaryDirectory() as folder:
            path = removed_list or Path(folder) / "removed.csv"
            refinement.write_removed(change.decision, path)
            run.add_artifact(path, "removed.csv")
        output = create_or_resume_output(
            str(address),
            shape=source.shape,
            dtype=source.dtype,
            voxel_size=source.voxel_size,
            offset=source.offset,
            chunk_shape=source.chunk_shape,
            overwrite=overwrite,
            provenance=make_provenance(TOOL, parameters, [source], run.id or None),
        )
        needed = dict(parameters)
        name = f".{Path(output.dataset).name}.{digest(parameters)[:10]}.npz"  # another job may decide otherwise
        table = Path(str(output.address)).with_name(name)
        if change.save is not None:
            change.save(table)
            needed = {"operation": request.operation, "table": table.name, "options": parameters}
        elif request.operation in MORPHOLOGY:
            needed = {"steps": 1, "in_plane": False, **parameters}
        task = BlockTask("refine", output, (str(source.address),), change.function, needed, request.block_shape)
        run_blockwise(task, **how, description="Refining")
        for path in table.parent.glob(f"{table.name}*"):
            path.unlink()
        return {"report": change.report, "address": str(output.address), "run_id": run.id}

    return run_experiment(name="refine_segmentation", config=asdict(request), main=work, store=store, **options)
