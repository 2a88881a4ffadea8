"""Voxels that a model has seen: trained on, chosen by, or tuned on, according to the lineage of what is evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from incasem_like.errors import IncasemError, InputError
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.lineage import making_of, split_address
from incasem_like.tracking.model.summaries import condense
from incasem_like.volumes import Roi, Volume, open_volume
from incasem_like.volumes.geometry import nanometres

if TYPE_CHECKING:
    from incasem_like.tracking import RunRecord, RunStore

Use = Literal["trained", "selected", "tuned"]
Policy = Literal["refuse", "leave_out", "score"]
WORDS: dict[str, str] = {
    "trained": "its model was trained on",
    "selected": "its checkpoint was validated on",
    "tuned": "its segmentation parameters were searched on",
}
# The data configurations that trainings store, and what their voxels are used for.
DATA_CONFIGS: dict[str, Use] = {"training_data.json": "trained", "validation_data.json": "selected"}
SEARCHED = "searched_on"
Box = tuple[tuple[float, float, float], tuple[float, float, float]]
OpenStore = Callable[[str], "RunStore"]


@dataclass(frozen=True)
class SeenBox:
    """A box of voxels that a run used.

    Attributes:
        use: What for.
        run: Key of the run, ``trainings/3``.
        name: Name of the data-config entry, or empty.
        containers: The containers of its volumes.
        box: First and last corner, z, y, x in nm.
    """

    use: Use
    run: str
    name: str
    containers: frozenset[str]
    box: Box


@dataclass(frozen=True)
class Lineage:
    """What is known of the origin of a volume.

    Attributes:
        runs: Keys of the runs that it came from.
        containers: Containers of the datasets that it was made from, and its own.
        seen: The boxes that those runs used.
        known: Whether it leads to a training whose data are on record.
    """

    runs: tuple[str, ...]
    containers: frozenset[str]
    seen: tuple[SeenBox, ...]
    known: bool


def lineage_of(volume: Volume, open_store: OpenStore | None) -> Lineage:
    """Follow a volume to the trainings that it came from, by provenance and run records.

    A run that is not in the stores, or a store that does not answer, ends its branch.

    Args:
        volume: A segmentation or prediction.
        open_store: Opens the store of a kind of run; None: provenance alone.
    """
    containers: set[str] = set()
    runs: dict[str, RunRecord | None] = {}
    _follow(volume.provenance, str(volume.address), containers, runs, open_store, set())
    seen: list[SeenBox] = []
    known = False
    for key, record in runs.items():
        if record is not None:
            known = known or (record.kind == "trainings" and "training_data.json" in record.artifacts)
            if record.kind in ("segmentations", "predictions"):
                for read in record.inputs:
                    places = [*(read.get("content_hashes") or ()), read.get("address"), read.get("file")]
                    containers |= {split_address(str(place))[0] for place in places if place}
            seen += _seen_by(key, record)
    return Lineage(tuple(runs), frozenset(containers), tuple(seen), known)


def _follow(
    provenance: Mapping[str, Any] | None,
    address: str,
    containers: set[str],
    runs: dict[str, RunRecord | None],
    open_store: OpenStore | None,
    done: set[str],
) -> None:
    if address in done:
        return
    done.add(address)
    containers.add(split_address(address)[0])
    made = making_of(provenance)
    if made is None:
        return
    if made.run is not None:
        _follow_run(made.run, runs, open_store)
    for source in made.sources:
        try:
            found = open_volume(source, allow_incomplete=True).provenance
        except (IncasemError, OSError, ValueError):
            found = None
        _follow(found, source, containers, runs, open_store, done)


def _follow_run(key: str, runs: dict[str, RunRecord | None], open_store: OpenStore | None) -> None:
    if key in runs:
        return
    kind, _, number = key.partition("/")
    runs[key] = None
    if open_store is None:
        return
    try:
        record = runs[key] = open_store(kind).get(int(number))
    except (IncasemError, OSError):
        return
    for parent_kind, parent_id in condense(record.document)["parents"]:
        _follow_run(f"{parent_kind}/{parent_id}", runs, open_store)


def _seen_by(key: str, record: RunRecord) -> Iterable[SeenBox]:
    for entry in record.info.get(SEARCHED) or ():
        (z, y, x), (z_end, y_end, x_end) = entry["begin"], entry["end"]
        containers = frozenset(split_address(place)[0] for place in entry["addresses"])
        yield SeenBox("tuned", key, "", containers, ((z, y, x), (z_end, y_end, x_end)))
    inputs = iter(record.inputs)
    for artifact, use in DATA_CONFIGS.items():
        if artifact not in record.artifacts:
            continue
        for name, entry in json.loads(record.artifact(artifact)).items():
            read = next(inputs, {})
            file = str(read.get("file") or entry.get("file"))
            places = {split_address(place)[0] for place in read.get("content_hashes") or ()}
            yield SeenBox(use, key, name, frozenset({file, *places}), _box_of(entry, file))


def _box_of(entry: Mapping[str, Any], file: str) -> Box:
    """Return the box of a data-config entry; one without bounds is that of its raw volume, else everything."""
    offset, shape, size = entry.get("offset"), entry.get("shape"), entry.get("voxel_size")
    if offset is None or shape is None:
        try:
            whole = open_volume(file, entry["raw"]).roi
        except (IncasemError, OSError, KeyError):
            return (-np.inf,) * 3, (np.inf,) * 3
        offset = whole.begin if offset is None else offset
        shape = [end - begin for begin, end in zip(offset, whole.end, strict=True)] if shape is None else shape
    assert size is not None
    begin = nanometres(offset, size)
    end = nanometres([first + length for first, length in zip(offset, shape, strict=True)], size)
    return (begin[0], begin[1], begin[2]), (end[0], end[1], end[2])


@dataclass(frozen=True)
class Seen:
    """How much of an evaluation the model has seen.

    Attributes:
        policy: What to do with seen voxels: refuse the evaluation, leave them out, or score them anyway.
        known: Whether the lineage leads to a training whose data are on record.
        shares: Share of the evaluated voxels, by use; those of 0 are left out.
        boxes: The boxes that overlap with what is evaluated, in voxels of the evaluated volume.
        described: The same, as plain values for the record.
    """

    policy: Policy
    known: bool
    shares: Mapping[str, float]
    boxes: tuple[Roi, ...]
    described: tuple[Mapping[str, Any], ...]
    runs: tuple[str, ...] = ()

    @property
    def left_out(self) -> list[list[list[int]]]:
        """The boxes to leave out, JSON-serializable: begin and end in voxels."""
        boxes = self.boxes if self.policy == "leave_out" else ()
        return [[list(map(int, box.begin)), list(map(int, box.end))] for box in boxes]

    @property
    def mark(self) -> str:
        """Return a word or two on whether the scores are of voxels that the model has not seen; for tables."""
        if not self.known and not self.shares:
            return "unknown"
        if not self.shares:
            return "yes"
        if self.policy == "leave_out":
            return "yes, rest left out"
        return "NO: " + ", ".join(f"{share:.0%} {use}" for use, share in self.shares.items())

    def record(self) -> dict[str, Any]:
        """Return all of it as plain values, for the record of the run."""
        return {
            "held_out": self.mark,
            "policy": self.policy,
            "lineage_known": self.known,
            "lineage": list(self.runs),
            "shares": dict(self.shares),
            "boxes": [dict(box) for box in self.described],
        }


def check_seen(
    volume: Volume, others: Sequence[Volume], roi: Roi, open_store: OpenStore | None, policy: Policy = "refuse"
) -> Seen:
    """Check whether the model behind a volume has seen the voxels to evaluate.

    Voxels are the same where containers are the same, also those of datasets that others were made from, and the
    positions in nm.

    Args:
        volume: The segmentation or prediction.
        others: Ground truth and masks.
        roi: What is evaluated, in absolute voxels of the volume.
        open_store: Opens the stores of runs; None does not look for runs.
        policy: What to do with seen voxels.

    Raises:
        InputError: The policy is ``refuse`` and some have been seen, or ``leave_out`` and all.
    """
    lineage = lineage_of(volume, open_store)
    containers = set(lineage.containers)
    for other in others:
        _follow(other.provenance, str(other.address), containers, {}, None, set())
    size = volume.require_voxel_size()
    used: dict[str, list[Roi]] = {}
    described = []
    for seen in lineage.seen:
        if not seen.containers & containers:
            continue
        # The part of the ROI that the box touches.
        first = [np.floor(nm / edge + 1e-6) for nm, edge in zip(seen.box[0], size, strict=True)]
        last = [np.ceil(nm / edge - 1e-6) for nm, edge in zip(seen.box[1], size, strict=True)]
        begin, end = (np.clip(corner, roi.begin, roi.end).astype(int) for corner in (first, last))
        box = Roi(begin.tolist(), np.maximum(end - begin, 0).tolist())
        if box.empty:
            continue
        used.setdefault(seen.use, []).append(box)
        described.append(
            {"use": seen.use, "run": seen.run, "name": seen.name, "offset": list(box.begin), "shape": list(box.shape)}
        )
    shares = {use: union_size(boxes) / roi.size for use, boxes in used.items()}
    found = Seen(
        policy,
        lineage.known,
        shares,
        tuple(box for boxes in used.values() for box in boxes),
        tuple(described),
        lineage.runs,
    )
    if not shares or policy == "score":
        return found
    if policy == "leave_out":
        if union_size(found.boxes) == roi.size:
            raise InputError(
                f"The model behind {volume.address} has seen all voxels to evaluate: choose others, or add --seen "
                "score to score them, with a mark."
            )
        return found
    kind, _, number = str(described[0]["run"]).partition("/")
    of = f", entry {described[0]['name']}" if described[0]["name"] else ""
    uses = " and ".join(f"{share:.0%} of these voxels are those that {WORDS[use]}" for use, share in shares.items())
    raise InputError(
        f"{volume.address} cannot be scored fairly: {uses} ({singular(kind)} run {number}{of}). Add --seen leave_out "
        "to evaluate the others only, or --seen score to score all, with a mark."
    )


def union_size(boxes: Sequence[Roi]) -> int:
    """Return the number of voxels in at least one of some boxes.

    >>> union_size([Roi((0, 0, 0), (2, 2, 2)), Roi((1, 0, 0), (2, 2, 2))])
    12
    """
    if not boxes:
        return 0
    edges = [np.unique([edge for box in boxes for edge in (box.begin[axis], box.end[axis])]) for axis in range(3)]
    covered = np.zeros([len(edge) - 1 for edge in edges], bool)
    for box in boxes:
        covered[tuple(slice(*np.searchsorted(edges[axis], [box.begin[axis], box.end[axis]])) for axis in range(3))] = 1
    lengths = [np.diff(edge).astype(np.int64) for edge in edges]
    return int(np.einsum("zyx,z,y,x->", covered.astype(np.int64), *lengths))


def without_boxes(shape: Sequence[int], begin: Sequence[int], boxes: Sequence[Any]) -> Any:
    """Return a mask that is False in boxes, or None if none touches the array.

    Args:
        shape: Of the array.
        begin: Absolute voxel of its first one.
        boxes: Begin and end of each, in absolute voxels.

    >>> without_boxes((1, 1, 3), (0, 0, 5), [[[0, 0, 6], [1, 1, 9]]]).tolist()
    [[[True, False, False]]]
    """
    valid = None
    for first, last in boxes:
        inside = tuple(
            slice(max(0, low - own), max(0, min(high - own, size)))
            for low, high, own, size in zip(first, last, begin, shape, strict=True)
        )
        if all(part.stop > part.start for part in inside):
            valid = np.ones(tuple(shape), bool) if valid is None else valid
            valid[inside] = False
    return valid
