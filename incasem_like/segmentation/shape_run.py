"""The tracked runs that extract skeletons and meshes of the objects of a segmentation."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, InputError
from incasem_like.segmentation import object_files, shapes
from incasem_like.segmentation.label_arrays import Array
from incasem_like.segmentation.measurement_run import Measurement, write_tables
from incasem_like.segmentation.measurements import EXTENT, measure_task, read_added_up
from incasem_like.segmentation.result_folder import ResultFolder
from incasem_like.tracking import run_experiment
from incasem_like.volumes import Volume
from incasem_like.volumes.parts import grown_block

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunStore

VOXELS_IN_BLOCK = 1 << 22
MeshFormat = Literal["precomputed", "ply", "obj"]


@dataclass(frozen=True, kw_only=True)
class ShapeRequest:
    """What skeletons and meshes have in common: the tracked configuration of a run.

    Attributes:
        segmentation: Address of the objects, (z, y, x).
        output: Folder of the files.
        ids: The objects; None for all.
        min_size: Smaller objects are left out, in voxels.
        most_objects: If more are left, the request is refused: each becomes a file.
    """

    segmentation: str
    output: str
    ids: tuple[int, ...] | None = None
    min_size: int = 1000
    most_objects: int = 100_000

    def chosen(self, segmentation: Volume, how: Mapping[str, Any]) -> dict[str, Array]:
        """Return id, size and bounding box of the chosen objects.

        Raises:
            DataError: An id is not in the segmentation, or no object is large enough.
            InputError: There are more than ``most_objects``.
        """
        task = measure_task(segmentation, {}, surfaces=False)
        task.run(**how, description="Finding objects")
        parts = []
        for rows in read_added_up(task.folder / "objects", ("id",)):
            kept = rows["size"] >= self.min_size
            if self.ids is not None:
                kept = np.isin(rows["id"], np.array([one for one in self.ids if one < 2**64], np.uint64))
            parts.append({name: rows[name][kept] for name in ("id", "size", *EXTENT)})
        task.forget()
        objects = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
        found = objects["id"] if objects else np.zeros(0, np.uint64)
        missing = sorted(set(self.ids or ()) - set(found.tolist()))
        if missing:
            raise DataError(f"{segmentation.address} has no object {missing[0]}: correct --ids.")
        if not len(found):
            raise DataError(f"{segmentation.address} has no object of {self.min_size} voxels: give --min_size less.")
        if len(found) > self.most_objects:
            raise InputError(
                f"{len(found)} objects have at least {self.min_size} voxels, more than --most_objects "
                f"{self.most_objects}: raise one of the two, or name --ids."
            )
        return objects


@dataclass(frozen=True, kw_only=True)
class Skeletons(ShapeRequest):
    """Request of skeletons.

    Attributes:
        scale, constant, engine: As for ``shapes.skeletonize``; the constant in nm.
        most_voxels: Objects with a larger bounding box are coarsened to so many voxels.
    """

    scale: float = 1.5
    constant: float = 300.0
    engine: shapes.Engine = "bioimage-cpp"
    most_voxels: int = 1 << 27

    def check(self) -> None:
        """Check that the options have valid values, and that the engine is installed.

        Raises:
            InputError: One has not, or it is not.
        """
        for name in ("scale", "constant"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"--{name} is {getattr(self, name):g}: give 0 or more.")
        if self.engine == "kimimaro" and find_spec("kimimaro") is None:
            raise InputError(
                "kimimaro is not installed: pip install 'incasem-like[kimimaro]' (GPL), or leave out --engine."
            )


@dataclass(frozen=True, kw_only=True)
class Meshes(ShapeRequest):
    """Request of meshes.

    Attributes:
        formats: What is written: ``precomputed`` for neuroglancer, ``ply`` and ``obj`` for other programs.
        reduction: Share of the faces that are removed where surfaces are flat, from 0 to below 1.
        block_shape: Voxels that a worker meshes at once; None chooses.
    """

    formats: tuple[MeshFormat, ...] = ("precomputed",)
    reduction: float = 0.0
    block_shape: tuple[int, int, int] | None = None

    def check(self) -> None:
        """Check that the options have valid values.

        Raises:
            InputError: One has not.
        """
        if len(set(self.formats)) < len(self.formats):
            raise InputError(f"--formats names {max(self.formats, key=self.formats.count)} twice: name each once.")
        if not 0 <= self.reduction < 1:
            raise InputError(f"--reduction is {self.reduction:g}: give a share from 0 to below 1.")


def extract_as_run(
    request: Skeletons | Meshes,
    *,
    store: RunStore | None,
    overwrite: bool = False,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Extract skeletons or meshes, tracked as a run; a second call resumes what is missing.

    Args:
        request: Which.
        store: Run store, of kind ``measurements``; None does not track the run.
        overwrite: Replace files that were made with other options.
        num_workers, workers: As for ``run_blockwise``.
        **options: run_name, comment, run_id, as ``tracking.run_experiment`` takes them.

    Returns:
        ``folder``; of files that did not exist yet also the number of ``objects``, the ``run_id`` and, of skeletons,
        the total ``length_nm``.

    Raises:
        InputError: An option has an invalid value, or as ``ShapeRequest.chosen``.
        DataError: As ``ShapeRequest.chosen``.
    """
    request.check()
    segmentation, _ = Measurement(segmentation=request.segmentation, output=request.output).open()
    tool = "extract_meshes" if isinstance(request, Meshes) else "extract_skeletons"
    left_out = {"segmentation", "output", "most_objects", "block_shape"}
    parameters = {name: value for name, value in asdict(request).items() if name not in left_out}
    folder = ResultFolder(Path(request.output), tool, parameters, [segmentation], overwrite)
    if folder.is_finished():
        return {"folder": request.output}
    how: dict[str, Any] = {"num_workers": num_workers, "workers": workers}

    def work(run: Run) -> dict[str, Any]:
        run.inputs([segmentation.as_input()])
        run.set_info("segmentation_run_id", (segmentation.provenance or {}).get("run_id"))
        objects = request.chosen(segmentation, how)
        shapes.save_objects(folder.parts, objects)
        given = (segmentation, objects, folder, run.id or None, how)
        found = _meshes(request, *given) if isinstance(request, Meshes) else _skeletons(request, *given)
        return {"folder": request.output, "objects": len(objects["id"]), **found, "run_id": run.id}

    with folder.making():
        return run_experiment(name=tool, config=asdict(request), main=work, store=store, **options)


def _skeletons(
    request: Skeletons, segmentation: Volume, objects: dict[str, Array], folder: ResultFolder, run_id: int | None,
    how: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    batch = shapes.batches(objects, request.most_voxels)
    shapes.save_objects(folder.parts, {**objects, "batch": batch})
    firsts = [int(objects["id"][batch == number][0]) for number in range(int(batch[-1]) + 1)]
    task = LedgerTask(
        "skeletons",
        tuple(f"objects from {first}" for first in firsts),
        (str(segmentation.address),),
        shapes.skeletonize_batch,
        {name: getattr(request, name) for name in ("scale", "constant", "engine", "most_voxels")},
        place=folder.parts,
        unit="batches",
    )
    task.run(**how, description="Skeletons")
    tables = (shapes.skeleton_table(rows) for rows in task.results())
    empty = shapes.skeleton_table(np.zeros((0, 1 + len(shapes.SKELETON_COLUMNS)), np.uint64))
    total = sum(float(shapes.skeleton_table(rows)["length_nm"].sum()) for rows in task.results())
    with folder.fill(run_id) as partial:
        object_files.write_skeleton_info(task.folder / "precomputed")
        write_tables(partial / "skeletons", tables, empty)
        for name in ("swc", "precomputed"):
            os.replace(task.folder / name, partial / name)
    return {"length_nm": total}


def _meshes(
    request: Meshes, segmentation: Volume, objects: dict[str, Array], folder: ResultFolder, run_id: int | None,
    how: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    task = LedgerTask(
        "meshes",
        segmentation,
        (str(segmentation.address),),
        shapes.mesh_block,
        {},
        request.block_shape or grown_block(segmentation, segmentation.roi, VOXELS_IN_BLOCK),
        place=folder.parts,
    )
    task.run(**how, description="Meshes")
    ids = list(task.results())
    numbers = np.repeat(np.arange(len(ids)), [len(found) for found in ids])
    of = np.concatenate(ids)
    order = np.argsort(of, kind="stable")
    pairs = zip(of[order].tolist(), numbers[order].tolist(), strict=True)
    source = task.folder / "precomputed"
    with folder.fill(run_id) as partial:
        for name in request.formats:
            (partial / name).mkdir()
        for number, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            _write_mesh(request, source, partial, number, [f"{number}:0:{block}" for _, block in group])
        if "precomputed" in request.formats:
            object_files.write_mesh_info(partial / "precomputed")
    return {}


def _write_mesh(request: Meshes, source: Path, folder: Path, number: int, fragments: list[str]) -> None:
    """Write one object's mesh in every format; its fragments are joined, except for neuroglancer, which takes them."""
    writers = {"ply": object_files.write_ply, "obj": object_files.write_obj}
    precomputed = folder / "precomputed"
    if request.reduction or set(request.formats) != {"precomputed"}:
        mesh = object_files.joined_mesh([object_files.read_mesh_fragment(source / name) for name in fragments])
        if request.reduction:  # of the whole surface: where blocks meet, fragments simplified alone would not fit
            mesh = shapes.simplified(*mesh, request.reduction)
        for name in writers.keys() & set(request.formats):
            writers[name](folder / name / f"{number}.{name}", *mesh)
    if "precomputed" not in request.formats:
        return
    if request.reduction:
        fragments = fragments[:1]
        object_files.write_mesh_fragment(precomputed / fragments[0], *mesh)
    else:
        for name in fragments:
            os.replace(source / name, precomputed / name)
    object_files.write_mesh_manifest(precomputed, number, fragments)
