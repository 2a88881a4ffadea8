"""Pseudo ground truth: the selected segmentation, corrected, and the mask of its voxels that are trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from incasem_like.blockwise import Block, BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import ConfigError, DataError
from incasem_like.volumes import make_provenance, open_volume
from incasem_like.volumes.chunk_files import digest

TOOL = "bootstrap.py"
BLOCK = (64, 256, 256)
CHUNK = 64


def read_corrections(path: Path | None, segmentation: str | None = None) -> dict[int, int]:
    """Return the new id of each id that corrections change; 0 removes it.

    Args:
        path: JSON with ``merge``, a list of groups of ids, and ``remove``, a list of ids; None for no corrections.
        segmentation: The segmentation to correct, compared with the file's own ``segmentation``.

    Raises:
        ConfigError: The file is not of that form, or is of another segmentation.

    Example:
        >>> Path("corrections.json").write_text('{"merge": [[4, 7, 9], [9, 2]], "remove": [5]}') and None
        >>> sorted(read_corrections(Path("corrections.json")).items())
        [(4, 2), (5, 0), (7, 2), (9, 2)]
    """
    if path is None:
        return {}
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        groups, removed = values.get("merge", []), values.get("remove", [])
        unknown = set(values) - {"merge", "remove", "segmentation"}
        numbers = [one for group in groups for one in group] + list(removed)
        if unknown or not all(type(one) is int and one > 0 for one in numbers):
            raise ValueError
    except (OSError, ValueError, TypeError, AttributeError):
        raise ConfigError(
            f'{path} holds no corrections: write {{"merge": [[4, 7], ...], "remove": [5, ...]}} with ids of the '
            "selected segmentation."
        ) from None
    made_for = values.get("segmentation")
    if segmentation is not None and made_for is not None and made_for != segmentation:
        raise ConfigError(
            f"{path} corrects {made_for}, but the segmentation selected here is {segmentation}, with other ids: "
            "correct that one, or set pseudo_truth.corrections=null."
        )
    parents: dict[int, int] = {}

    def root(one: int) -> int:
        while parents.get(one, one) != one:
            one = parents[one]
        return one

    for group in groups:
        for one in group[1:]:
            first, second = sorted((root(group[0]), root(one)))
            parents[second] = first
    changes = {one: root(one) for one in parents if root(one) != one}
    return changes | dict.fromkeys(removed, 0)


def write_pseudo_truth(
    segmentation: str, trusted: Mapping[str, str], group: str, corrections: Mapping[int, int], **how: Any
) -> dict[str, Any]:
    """Write ``labels``, ``mask`` and perhaps ``weight`` of a pseudo ground truth, block by block.

    Args:
        segmentation: Address of the selected segmentation.
        trusted: Addresses of the ``mask`` of voxels that are trusted and, if wanted, of their ``weight``.
        group: Group of the outputs in the container of the segmentation.
        corrections: New ids by id, as ``read_corrections`` returns them.
        **how: ``num_workers`` and ``workers`` of ``run_blockwise``.

    Returns:
        ``labels``, ``mask`` and ``weight``, datasets in the container, and the number of trusted ``voxels``.

    Raises:
        DataError: No voxel of an object is trusted.
    """
    labels, masks = open_volume(segmentation), {name: open_volume(address) for name, address in trusted.items()}
    parameters = {"corrections": [[one, new] for one, new in sorted(corrections.items())]}
    outputs = [
        create_or_resume_output(
            labels.container,
            f"{group}/{name}",
            shape=labels.shape,
            dtype=dtype,
            voxel_size=labels.require_voxel_size(),
            offset=labels.offset,
            chunk_shape=tuple(min(CHUNK, size) for size in labels.shape),
            attributes={"scale": masks[name].attributes["scale"]} if name == "weight" else {},
            provenance=make_provenance(TOOL, {"corrections": digest(parameters)}, [labels, *masks.values()]),
        )
        for name, dtype in {"labels": labels.dtype, **dict.fromkeys(masks, np.dtype(np.uint8))}.items()
    ]
    inputs = tuple(str(volume.address) for volume in (labels, *masks.values()))
    task = BlockTask(
        "pseudo ground truth", outputs[0], inputs, correct_block, parameters, BLOCK, further_outputs=tuple(outputs[1:])
    )
    run_blockwise(task, description="Pseudo ground truth", **how)
    written = tuple(str(output.address) for output in outputs[:2])
    count = LedgerTask("count pseudo ground truth", open_volume(written[0]), written, count_block, {}, BLOCK)
    count.run(description="Trusted voxels", **how)
    known, objects = np.sum(list(count.results()), axis=0)
    if not objects:
        raise DataError(
            f"No voxel of an object in {segmentation} is trusted: raise selection.trusted_share or largest_error, "
            "choose other thresholds of the segmentation, or paint more."
        )
    count.forget()
    datasets = {name: output.dataset for name, output in zip(("labels", *masks), outputs, strict=True)}
    return {**datasets, "voxels": int(known)}


def correct_block(block: Block, parameters: Mapping[str, Any]) -> None:
    """Write labels, mask and weights of one block; the inputs are segmentation, trusted voxels and their weights."""
    labels = block.inputs[0].read(block.write_roi)
    ids, new = _table(json.dumps(parameters["corrections"]))
    if len(ids):
        place = np.minimum(np.searchsorted(ids, labels), len(ids) - 1)
        labels = np.where(ids[place] == labels, new[place], labels).astype(labels.dtype)
    block.outputs[0].write(labels, block.write_roi)
    for source, output in zip(block.inputs[1:], block.outputs[1:], strict=True):
        output.write(source.read(block.write_roi), block.write_roi)


def count_block(block: Block, parameters: Mapping[str, Any]) -> Any:
    """Return the trusted voxels of one block, and those of objects among them."""
    labels, mask = (volume.read(block.write_roi) for volume in block.inputs)
    return np.array([np.count_nonzero(mask), np.count_nonzero(labels[mask > 0])])


@lru_cache(maxsize=1)
def _table(text: str) -> tuple[Any, Any]:
    pairs = np.array(json.loads(text), np.uint64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
