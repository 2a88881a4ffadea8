"""Self-consistency: how far a prediction differs from the affinities or descriptors of its own segmentation.

It needs no ground truth. The error of a voxel is the root of the mean squared difference over its channels, from 0 to
1 in every block of every volume. From it follow a mask and weights for a training on the segmentation, a mean error of
each object, and the segmentation that agrees best with the prediction.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.done_log import refuse_remote
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.disk import only_writer, write_whole
from incasem_like.errors import DataError, InputError
from incasem_like.targets.affinities import affinities
from incasem_like.targets.descriptor_window import DESCRIPTOR_NAMES
from incasem_like.targets.learned import Affinities, Descriptors
from incasem_like.targets.target import LabelBlock
from incasem_like.tracking import run_experiment
from incasem_like.volumes import Roi, Volume, check_outputs, describe_roi, open_volume, parse_address
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.chunk_files import digest
from incasem_like.volumes.parts import aligned_parts, grown_block, shuffled_parts
from incasem_like.volumes.provenance import make_provenance
from incasem_like.volumes.values import check_label_dtype, check_labels, inside, probability_scale

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunStore

Array = npt.NDArray[Any]
TOOL = "self_consistency"
STORED = 255  # the stored value of an error, or weight, of 1
CHUNK = 64
VOXELS_AT_ONCE = 1 << 23
ERROR_MAP, TRUSTED, WEIGHT, OBJECTS = "error_map", "trusted", "weight", "objects.npz"
JUDGED = ".objects-{}.npz"  # while blocks read it, by the hash of the untrusted ids


@dataclass(frozen=True)
class Recomputed:
    """What a network predicted, to be computed from a segmentation.

    Attributes:
        target: ``affinities`` or ``lsd``.
        options: Offsets; or sigma in nm, mode, downsample, per_section and components.
    """

    target: str
    options: Mapping[str, Any]

    @classmethod
    def of(cls, prediction: Volume) -> Recomputed:
        """Read it from the attributes of a predicted dataset.

        Raises:
            DataError: The dataset has no channels, or does not say what they are.
        """
        known = prediction.attributes
        if prediction.axes == "czyx" and known.get("offsets"):
            offsets = [list(map(int, offset)) for offset in known["offsets"]]
            if len(offsets) == prediction.shape[0]:
                return cls("affinities", {"offsets": offsets})
        names, axes = known.get("channel_names"), known.get("axes")
        if prediction.axes == "czyx" and known.get("sigma") and names and axes:
            every = DESCRIPTOR_NAMES[len(axes)]
            options = {"sigma": known["sigma"], "mode": known.get("mode", "gaussian")}
            options |= {"downsample": known.get("downsample", 1), "per_section": list(axes) == [1, 2]}
            if set(names) <= set(every) and len(names) == prediction.shape[0]:
                return cls("lsd", {**options, "components": [every.index(name) for name in names]})
        raise DataError(
            f"{prediction.address} holds neither affinities nor local shape descriptors: give a dataset of channels "
            "with the attribute offsets, or sigma, axes and channel_names, as a prediction by run id writes it."
        )

    @property
    def objects_only(self) -> bool:
        """Whether the background does not count: it has no descriptors."""
        return self.target == "lsd"

    def context(self, voxel_size: Sequence[float]) -> tuple[int, int, int]:
        """Return the voxels of the segmentation that are needed around a block."""
        return self._target.context(voxel_size)

    def compare(
        self, predicted: Array, labels: Array, valid: Array, context: Sequence[int], voxel_size: Sequence[float]
    ) -> npt.NDArray[np.float32]:
        """Return the error of each voxel of a block, 0 where nothing can be compared.

        Args:
            predicted: (channels, z, y, x) from 0 to 1.
            labels: Ids, larger than the block by the context.
            valid: 1 inside the volume and the mask, of the labels' shape.
            context: Voxels of labels before and after the block.
            voxel_size: nm, z, y, x.

        Example:
            Two objects; the prediction misses the boundary between them.

            >>> labels = np.array([[[4, 4, 7, 7]]])
            >>> predicted = np.array([[[[0, 1, 1, 1]]]])
            >>> known = Recomputed("affinities", {"offsets": [[0, 0, -1]]})
            >>> known.compare(predicted, labels, labels > 0, (0, 0, 0), (1, 1, 1)).tolist()
            [[[0.0, 0.0, 1.0, 0.0]]]
        """
        z, y, x = context
        block = LabelBlock(
            (labels > 0).astype(np.uint8), {1: labels}, valid.astype(np.uint8), valid.astype(np.uint8),
            (voxel_size[0], voxel_size[1], voxel_size[2]), (z, y, x),
        )  # fmt: skip
        if self.target == "affinities":
            found, known = affinities(labels, self.options["offsets"], mask=valid)
            found, counted = block.crop(found), block.crop(known).astype(np.float32)
        else:
            found, weight = self._target.make(block)
            counted = np.broadcast_to(weight, found.shape)
        squares = np.square(predicted - found, dtype=np.float32) * counted
        channels = np.maximum(counted.sum(axis=0), 1)
        return np.asarray(np.sqrt(squares.sum(axis=0) / channels), np.float32)

    @property
    def _target(self) -> Affinities | Descriptors:
        known = {"type": self.target, "labels": (1,), **self.options}
        return Affinities.model_validate(known) if self.target == "affinities" else Descriptors.model_validate(known)


@dataclass(frozen=True, kw_only=True)
class SelfConsistency:
    """Request: the tracked configuration of a run.

    Attributes:
        prediction: Address of the predicted affinities or descriptors.
        segmentations: Addresses of segmentations made of it, such as those of several thresholds.
        mask: Address of a mask, or None; a voxel counts where it is non-zero.
        trusted_share: Share of the voxels that count to trust: those of the lowest errors in the whole volume.
        largest_error: Trust errors up to this one instead, 0 to 1.
        largest_object_error: Trust no voxel of objects whose error (root of the mean square) is above it; None for all.
        weight_by: Weigh trusted voxels by 1 minus the error of each ("voxels"), or of its object ("objects").
        block_shape: Voxels that a worker processes at once, z, y, x.
    """

    prediction: str
    segmentations: tuple[str, ...]
    mask: str | None = None
    trusted_share: float = 0.95
    largest_error: float | None = None
    largest_object_error: float | None = None
    weight_by: Literal["voxels", "objects"] = "voxels"
    block_shape: tuple[int, int, int] = (64, 128, 128)

    def comparisons(self) -> list[Comparison]:
        """Open and check the volumes.

        Raises:
            DataError: The volumes differ in their voxels, or a segmentation does not cover the prediction.
            InputError: A limit is not from 0 to 1.
        """
        for name in ("trusted_share", "largest_error", "largest_object_error"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"--{name} is {value:g}: give a number from 0 to 1.")
        prediction = open_volume(self.prediction)
        recomputed = Recomputed.of(prediction)
        if len(set(self.segmentations)) < len(self.segmentations):
            raise InputError("A segmentation is named twice: name each once.")
        masks = [open_volume(self.mask)] if self.mask else []
        opened = [open_volume(address) for address in self.segmentations]
        for volume in (*opened, *masks):
            volume.require_zyx()
            check_same_voxels(volume, prediction)
            check_label_dtype(volume)
            if not volume.roi.contains(prediction.roi):
                raise DataError(
                    f"{volume.address} covers {describe_roi(volume.roi)}, but {prediction.address} "
                    f"{describe_roi(prediction.roi)}: give a segmentation of that prediction."
                )
        for segmentation in opened:
            refuse_remote(segmentation.address)  # the outputs go beside it
        return [Comparison(self, prediction, segmentation, masks, recomputed) for segmentation in opened]


@dataclass(frozen=True)
class Comparison:
    """One segmentation, compared with the prediction."""

    request: SelfConsistency
    prediction: Volume
    segmentation: Volume
    masks: Sequence[Volume]
    recomputed: Recomputed

    @property
    def group(self) -> str:
        """Address of the group of the outputs, beside the segmentation."""
        return f"{self.segmentation.address}_errors_{self.prediction.address.dataset.rpartition('/')[2]}"

    @property
    def inputs(self) -> list[Volume]:
        """The volumes that are read."""
        return [self.prediction, self.segmentation, *self.masks]

    def any_counted(self) -> bool:
        """Return whether any voxel counts: has an object, where only those do, and is inside the mask."""
        parts = shuffled_parts(self.segmentation, self.prediction.roi, VOXELS_AT_ONCE)
        objects_only = self.recomputed.objects_only
        return any(_counted(self.segmentation.read(part), self.masks, part, objects_only).any() for part in parts)

    def output(self, name: str, parameters: Mapping[str, Any], run_id: int | None, overwrite: bool) -> Volume:
        """Create or reopen an output of bytes."""
        prediction = self.prediction
        check_outputs([parse_address(f"{self.group}/{name}")], [volume.address for volume in self.inputs], "rename it")
        return create_or_resume_output(
            f"{self.group}/{name}",
            shape=prediction.spatial_shape,
            dtype=np.uint8,
            voxel_size=prediction.require_voxel_size(),
            offset=prediction.offset,
            chunk_shape=tuple(min(CHUNK, size) for size in prediction.spatial_shape),
            attributes={} if name == TRUSTED else {"scale": STORED},
            overwrite=overwrite,
            provenance=make_provenance(TOOL, parameters, self.inputs, run_id),
        )

    def run(self, run_id: int | None, overwrite: bool, num_workers: int, workers: Workers | None) -> dict[str, Any]:
        """Write error map, table of objects, mask and weights, and return the statistics."""
        request = self.request
        how: dict[str, Any] = {"num_workers": num_workers, "workers": workers}
        voxel_size = self.prediction.require_voxel_size()
        parameters = {"target": self.recomputed.target, "options": dict(self.recomputed.options)}
        errors = self.output(ERROR_MAP, parameters, run_id, overwrite)
        addresses = tuple(str(volume.address) for volume in self.inputs)
        context = self.recomputed.context(voxel_size)
        task = BlockTask("self-consistency", errors, addresses, error_block, parameters, request.block_shape, context)
        run_blockwise(task, description="Error map", **how)
        counted = tuple(str(v.address) for v in (open_volume(errors.address), self.segmentation, *self.masks))
        count = LedgerTask(
            "count errors", errors, counted, count_block, {"objects_only": self.recomputed.objects_only},
            grown_block(errors, errors.roi, VOXELS_AT_ONCE),
        )  # fmt: skip
        count.run(description="Errors per object", **how)
        histogram, ids, voxels, squares = merged_counts(count.results())
        largest = largest_trusted(histogram, request.trusted_share, request.largest_error)
        object_errors = np.sqrt(squares / np.maximum(voxels, 1)) / STORED
        limit = 1.0 if request.largest_object_error is None else request.largest_object_error
        excluded = ids[(object_errors > limit) & (ids > 0)]
        folder = Path(self.group)
        limits = {"largest": largest, "objects": digest([excluded.tolist()]), **count.parameters}
        if request.weight_by == "objects":
            limits["object_errors"] = digest([ids.tolist(), object_errors.tolist()])
        table = {"id": ids, "voxels": voxels, "error": object_errors, "excluded": excluded}
        path = folder / JUDGED.format(limits["objects"])
        write_whole(path, lambda file: np.savez(file, **table))  # type: ignore[arg-type]
        try:
            outputs = [self.output(name, limits, run_id, overwrite) for name in (TRUSTED, WEIGHT)]
            trust = BlockTask(
                "trust", outputs[0], counted, trust_block, limits, request.block_shape, further_outputs=(outputs[1],)
            )
            run_blockwise(trust, description="Mask and weights", **how)
            path.replace(folder / OBJECTS)
        finally:
            path.unlink(missing_ok=True)
        count.forget()
        total = int(histogram.sum())
        levels = np.arange(STORED + 1)
        mean_square = float((histogram * levels.astype(np.float64) ** 2).sum() / max(total, 1) / STORED**2)
        return {
            "error": float(np.sqrt(mean_square)),
            "mean_squared_error": mean_square,
            "largest_trusted_error": largest / STORED,
            "voxels": total,
            "trusted_voxels_by_error": int(histogram[: largest + 1].sum()),
            "objects": int((ids > 0).sum()),
            "excluded_objects": len(excluded),
            "group": self.group,
        }


def error_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write the errors of one block; the inputs are prediction, segmentation and the mask, if any."""
    prediction, segmentation, *masks = block.inputs
    recomputed = Recomputed(parameters["target"], parameters["options"])
    context = tuple(int(a - b) for a, b in zip(block.write_roi.begin, block.read_roi.begin, strict=True))
    labels = segmentation.read(block.read_roi, outside="constant")
    check_labels(labels, str(segmentation.address), block.read_roi.begin)
    valid = np.zeros(labels.shape, np.uint8)
    known = block.read_roi.intersect(block.output.roi)
    place = (known - block.read_roi.begin).to_slices()
    valid[place] = inside(masks[0].read(known), str(masks[0].address), known.begin) if masks else 1
    labels[valid == 0] = 0
    predicted = prediction.read(block.write_roi).astype(np.float32) / np.float32(probability_scale(prediction))
    voxel_size = prediction.require_voxel_size()
    errors = recomputed.compare(predicted, labels, valid, context, voxel_size)
    core = (block.write_roi - block.read_roi.begin).to_slices()
    if masks:
        errors[valid[core] == 0] = 0
    block.output.write(np.rint(np.clip(errors, 0, 1) * STORED).astype(np.uint8), block.write_roi)


def count_block(block: Block, parameters: Mapping[str, Any]) -> Array:
    """Count one block: a histogram of stored errors, then rows of id, voxels, and sum of squared stored errors.

    The inputs are error map, segmentation and the mask, if any.
    """
    errors, segmentation, *masks = block.inputs
    tables = []
    for part in aligned_parts(errors, block.write_roi, VOXELS_AT_ONCE):
        stored, labels = errors.read(part), segmentation.read(part)
        counted = _counted(labels, masks, part, parameters["objects_only"])
        stored, labels = stored[counted], labels[counted].astype(np.uint64)
        histogram = np.bincount(stored, minlength=STORED + 1).astype(np.uint64)
        ids, index = np.unique(labels, return_inverse=True)
        voxels = np.bincount(index, minlength=len(ids)).astype(np.uint64)
        # Exact: sums of squares stay below 2**53 in blocks of this size.
        squares = np.bincount(index, stored.astype(np.float64) ** 2, len(ids)).astype(np.uint64)
        first = np.stack([np.arange(STORED + 1, dtype=np.uint64), histogram, histogram * 0], axis=1)
        tables.append(np.concatenate([first, np.stack([ids, voxels, squares], axis=1)]))
    histogram, ids, voxels, squares = merged_counts(iter(tables))
    levels = np.arange(STORED + 1, dtype=np.uint64)
    head = np.stack([levels, histogram, levels * 0], axis=1)
    return np.concatenate([head, np.stack([ids, voxels, squares], axis=1)])


def merged_counts(tables: Iterator[Array]) -> tuple[Array, Array, Array, Array]:
    """Add the tables of blocks: the histogram of stored errors; ids, voxels and sums of squares of the objects."""
    histogram, rows = np.zeros(STORED + 1, np.uint64), []
    for table in tables:
        histogram += table[: STORED + 1, 1]
        rows.append(table[STORED + 1 :])
    joined = np.concatenate(rows) if rows else np.zeros((0, 3), np.uint64)
    ids, index = np.unique(joined[:, 0], return_inverse=True)
    sums = np.zeros((len(ids), 2), np.uint64)
    np.add.at(sums, index, joined[:, 1:])
    return histogram, ids, sums[:, 0], sums[:, 1]


def largest_trusted(histogram: Array, share: float, largest_error: float | None) -> int:
    """Return the largest stored error that is trusted.

    >>> largest_trusted(np.array([90, 8, 0, 2]), 0.95, None), largest_trusted(np.array([90, 8, 0, 2]), 0.95, 0.5)
    (1, 127)
    """
    if largest_error is not None:
        return int(np.floor(largest_error * STORED + 1e-9))
    below = np.cumsum(histogram.astype(np.float64))
    return int(np.searchsorted(below, share * below[-1] * (1 - 1e-12)))


def trust_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write mask and weights of one block; the inputs are error map, segmentation and the mask, if any."""
    errors, segmentation, *masks = block.inputs
    stored, labels = errors.read(block.write_roi), segmentation.read(block.write_roi)
    trusted = _counted(labels, masks, block.write_roi, parameters["objects_only"])
    trusted &= stored <= parameters["largest"]
    by_object = parameters.get("object_errors", "")
    path = block.folder.parent / JUDGED.format(parameters["objects"])
    ids, object_errors, excluded = _objects(path, parameters["objects"] + by_object)
    if len(excluded):
        trusted &= ~np.isin(labels, excluded)
    if by_object:
        stored = object_errors[np.minimum(np.searchsorted(ids, labels), len(ids) - 1)]
    block.outputs[0].write(trusted.view(np.uint8), block.write_roi)
    block.outputs[1].write((STORED - stored) * trusted.view(np.uint8), block.write_roi)


def _counted(labels: Array, masks: Sequence[Volume], roi: Roi, objects_only: bool) -> npt.NDArray[np.bool_]:
    counted = labels > 0 if objects_only else np.ones(labels.shape, bool)
    for mask in masks:
        counted &= inside(mask.read(roi), str(mask.address), roi.begin)
    return np.asarray(counted)


@lru_cache(maxsize=1)
def _objects(path: Path, content: str) -> tuple[Array, Array, Array]:
    """Read ids, stored errors and untrusted ids of objects, once in each process; ``content`` is their hash."""
    with np.load(path, allow_pickle=False) as table:
        errors = np.rint(table["error"] * STORED).astype(np.uint8)
        return table["id"], errors, table["excluded"]


def self_consistency_as_run(
    request: SelfConsistency,
    *,
    store: RunStore | None,
    overwrite: bool = False,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Compare segmentations with the prediction that they were made of, as a tracked run.

    Beside each segmentation it writes ``error_map`` and ``weight`` (uint8, 255 is 1), ``trusted`` (0, 1) and the table
    ``objects.npz`` (id, voxels, error; excluded ids).

    Args:
        request: What to compare.
        store: Run store, of kind ``evaluations``; None does not track the run.
        overwrite: Replace outputs that were made with other options.
        num_workers: Number of processes.
        workers: Workers of a workers file, instead of local processes.
        **options: run_name, comment, run_id, as ``tracking.run_experiment`` takes them.

    Returns:
        ``scores`` by address of the segmentation, ``best`` (the address with the lowest error), ``outputs``
        and ``run_id``.

    Raises:
        InputError: An output was made with other options, and ``overwrite`` is False; or another process is writing.
        DataError: No voxel counts, or as ``SelfConsistency.comparisons``.
    """
    comparisons = request.comparisons()
    if not any(comparison.any_counted() for comparison in comparisons):
        raise DataError("No voxel of the segmentations counts: they are empty, or the mask is 0 everywhere.")

    def measure(run: Run) -> dict[str, Any]:
        volumes = {str(volume.address): volume for comparison in comparisons for volume in comparison.inputs}
        run.inputs([volume.as_input() for volume in volumes.values()])
        made_by = (comparisons[0].prediction.provenance or {}).get("run_id")
        run.set_info("prediction_run_id", made_by)
        scores = {}
        for step, comparison in enumerate(comparisons):
            with only_writer(Path(comparison.group)):
                found = comparison.run(run.id or None, overwrite, num_workers, workers)
            scores[str(comparison.segmentation.address)] = found
            for name in ("error", "objects", "excluded_objects"):
                run.log_scalar(name, found[name], step)
        best = min(scores, key=lambda address: scores[address]["error"] if scores[address]["objects"] else np.inf)
        outputs = {address: f"{found['group']}/{ERROR_MAP}" for address, found in scores.items()}
        return {"scores": scores, "best": best, "outputs": outputs, "run_id": run.id}

    config = json.loads(json.dumps(asdict(request)))
    return run_experiment(name=TOOL, config=config, main=measure, store=store, **options)
