"""The tracked run that measures objects: a table of objects and one of their contacts, as CSV and Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
from pyarrow import csv, parquet

from incasem_like.errors import DataError, InputError
from incasem_like.segmentation.label_arrays import Array
from incasem_like.segmentation.measurements import (
    DIRECTIONS,
    FRACTION_STEPS,
    PAIRS,
    measure_task,
    pair_areas,
    read_added_up,
)
from incasem_like.segmentation.result_folder import ResultFolder
from incasem_like.tracking import run_experiment
from incasem_like.volumes import Volume, describe_roi, open_volume
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.values import check_label_dtype, probability_scale

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunStore

FACES = sum(sum(map(abs, step)) == 1 for step in DIRECTIONS)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Measurement request: the tracked configuration of a measurement run.

    Attributes:
        segmentation: Address of the objects, (z, y, x).
        output: Folder of the tables.
        intensity: Address of grey values on the same grid, or None.
        probability: Address of probabilities on the same grid, or None.
        block_shape: Voxels that a worker measures at once; None chooses.
    """

    segmentation: str
    output: str
    intensity: str | None = None
    probability: str | None = None
    block_shape: tuple[int, int, int] | None = None

    def open(self) -> tuple[Volume, dict[str, Volume]]:
        """Open and check the volumes.

        Raises:
            DataError: They do not hold what their name says, or do not cover the segmentation on its grid.
            InputError: The output is inside of a volume's container.
        """
        segmentation = open_volume(self.segmentation)
        segmentation.require_zyx()
        segmentation.require_voxel_size()
        check_label_dtype(segmentation)
        given = {"intensity": self.intensity, "probability": self.probability}
        values = {name: open_volume(address) for name, address in given.items() if address}
        for volume in (segmentation, *values.values()):
            if Path(self.output).resolve().is_relative_to(Path(volume.container).resolve()):
                raise InputError(f"{self.output} is inside of {volume.container}: name a folder outside of it.")
        for name, volume in values.items():
            check_same_voxels(volume, segmentation)
            if name == "probability":
                probability_scale(volume)
            if not volume.roi.contains(segmentation.roi):
                raise DataError(
                    f"{volume.address} covers {describe_roi(volume.roi)}, but the segmentation "
                    f"{describe_roi(segmentation.roi)}: crop the segmentation, or leave out --{name}."
                )
        return segmentation, values


def measure_as_run(
    request: Measurement,
    *,
    store: RunStore | None,
    overwrite: bool = False,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure all objects, tracked as a run; a second call resumes the blocks that are missing.

    Args:
        request: The request.
        store: Run store, of kind ``measurements``; None does not track the run.
        overwrite: Replace tables of another request.
        num_workers, workers: As for ``run_blockwise``.
        **options: run_name, comment, run_id, as ``tracking.run_experiment`` takes them.

    Returns:
        ``folder``, numbers of ``objects`` and ``contacts``, total ``voxels``, and the ``run_id``; of tables that exist
        already ``folder`` alone.
    """
    segmentation, values = request.open()
    inputs = [segmentation, *values.values()]
    folder = ResultFolder(Path(request.output), "measure_objects", {"values": list(values)}, inputs, overwrite)
    if folder.is_finished():
        return {"folder": request.output}

    def work(run: Run) -> dict[str, Any]:
        run.inputs([volume.as_input() for volume in inputs])
        task = measure_task(segmentation, values, block_shape=request.block_shape, place=folder.parts)
        task.run(num_workers=num_workers, workers=workers, description="Measuring objects")
        scales = {name: probability_scale(volume) if name == "probability" else 1 for name, volume in values.items()}
        with folder.fill(run.id or None) as partial:
            objects = (
                object_columns(rows, segmentation, scales) for rows in read_added_up(task.folder / "objects", ("id",))
            )
            contacts = (
                contact_columns(rows, segmentation) for rows in read_added_up(task.folder / "contacts", ("u", "v"))
            )
            found = {
                **write_tables(partial / "objects", objects, object_columns({}, segmentation, scales), ("size",)),
                "contacts": write_tables(partial / "contacts", contacts, contact_columns({}, segmentation))["rows"],
            }
        run.set_info("segmentation_run_id", (segmentation.provenance or {}).get("run_id"))
        return {
            "folder": request.output, "objects": found["rows"], "voxels": found["size"], "contacts": found["contacts"],
            "run_id": run.id,
        }  # fmt: skip

    with folder.making():
        return run_experiment(name="measure_objects", config=asdict(request), main=work, store=store, **options)


def object_columns(rows: dict[str, Array], segmentation: Volume, scales: dict[str, float]) -> dict[str, Array]:
    """Return the table of objects from sums: sizes, positions, surfaces and means in world units."""
    voxel_size, roi = segmentation.require_voxel_size(), segmentation.roi
    column: Callable[[str], Array] = lambda name: rows.get(name, np.zeros(0, np.int64))  # noqa: E731
    size = column("size")
    table = {
        "id": rows.get("id", np.zeros(0, np.uint64)),
        "size": size,
        "volume_nm3": size * float(np.prod(voxel_size)),
    }
    for axis, nm in zip("zyx", voxel_size, strict=True):
        table[axis] = (column(f"{axis}_sum") / size + 0.5) * nm
    for axis in "zyx":
        table[f"{axis}_begin"] = column(f"{axis}_first")
    for axis in "zyx":
        table[f"{axis}_end"] = column(f"{axis}_last") + 1
    edges = [
        (table[f"{axis}_begin"] == first) | (table[f"{axis}_end"] == end)
        for axis, first, end in zip("zyx", roi.begin, roi.end, strict=True)
    ]
    table["at_border"] = np.any(edges, axis=0)
    table["surface_nm2"] = _areas(rows, segmentation)
    for name, scale in scales.items():
        whole, steps = (column(f"{name}_{what}").astype(np.float64) for what in ("whole", "steps"))
        table[f"mean_{name}"] = (whole + steps / FRACTION_STEPS) / (size * scale)
    return table


def contact_columns(rows: dict[str, Array], segmentation: Volume) -> dict[str, Array]:
    """Return the table of contacts from numbers of pairs: objects that share a face, and the area of their contact."""
    if not rows:
        rows = {"u": np.zeros(0, np.uint64), "v": np.zeros(0, np.uint64)}
    faces = np.sum([rows.get(name, np.zeros(0, np.int64)) for name in PAIRS[:FACES]], axis=0).astype(np.int64)
    touching = faces > 0
    area = _areas(rows, segmentation)
    return {"u": rows["u"][touching], "v": rows["v"][touching], "faces": faces[touching], "area_nm2": area[touching]}


def _areas(rows: dict[str, Array], segmentation: Volume) -> Array:
    pairs = np.stack([rows.get(name, np.zeros(0, np.int64)) for name in PAIRS])
    # an explicit sum in one order, so that the result is the same for each row whatever the rows beside it
    areas = pair_areas(segmentation.require_voxel_size())
    return np.asarray(sum(count * area for count, area in zip(pairs, areas, strict=True)))


def write_tables(
    path: Path, tables: Iterator[dict[str, Array]], empty: dict[str, Array], totals: Sequence[str] = ()
) -> dict[str, int]:
    """Write tables of equal columns, one after the other, as ``PATH.parquet`` and ``PATH.csv``.

    Args:
        path: Without ending.
        tables: The tables.
        empty: One without rows, for the columns.
        totals: Columns whose sum is returned.

    Returns:
        Number of ``rows``, and the sums.
    """
    counts = {"rows": 0, **dict.fromkeys(totals, 0)}
    schema = pyarrow.table(empty).schema
    with ExitStack() as stack:
        writers = [
            stack.enter_context(parquet.ParquetWriter(path.with_suffix(".parquet"), schema)),
            stack.enter_context(csv.CSVWriter(path.with_suffix(".csv"), schema)),
        ]
        for table in tables:
            content = pyarrow.table(table, schema=schema)
            for writer in writers:
                writer.write_table(content)
            counts["rows"] += content.num_rows
            for name in totals:
                counts[name] += int(table[name].sum())
    return counts
