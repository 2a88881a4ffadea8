"""Tasks one after the other, each over its own list of items and resumed by itself: fragments, edges, a table."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from incasem_like.blockwise import list_jobs
from incasem_like.errors import IncasemError
from incasem_like.volumes import Volume, create_volume, open_volume

STEPS = '''
"""Label connected voxels: in each block, across the blocks' borders, and by one table for all."""

from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from incasem_like.blockwise import BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.volumes import Roi, open_volume

BLOCK = (8, 8, 8)
MOST = 1000  # labels in a block


def label_block(block, parameters):
    """Write the fragments of one block, numbered apart from those of other blocks."""
    labels, _ = ndimage.label(block.inputs[0].read(block.write_roi))
    block.output.write(np.where(labels, labels + block.number * MOST, 0).astype(np.uint32), block.write_roi)


def edges_of_block(block, parameters):
    """Return the pairs of fragments that touch each other across the lower borders of a block."""
    fragments, (begin, shape) = block.inputs[0], (block.write_roi.begin, block.write_roi.shape)
    pairs = [np.zeros((0, 2), np.uint32)]
    for axis in range(3):
        if begin[axis] > fragments.roi.begin[axis]:
            both = Roi([begin[a] - (a == axis) for a in range(3)], [2 if a == axis else shape[a] for a in range(3)])
            values = np.moveaxis(fragments.read(both), axis, 0).reshape(2, -1).T
            pairs.append(np.unique(values[values.all(1)], axis=0))
    return np.concatenate(pairs)


def table(item, parameters):
    """Return the fragments and the object of each: one item, which reads what the blocks have returned."""
    fragments = np.unique(item.inputs[0].read())
    edges = np.searchsorted(fragments, np.load(parameters["edges"]))
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(fragments), len(fragments)))
    return np.stack([fragments, connected_components(graph, directed=False)[1]])


def segment(folder, num_workers):
    """Run the stages; each call does what is left of them."""
    mask = open_volume(folder / "cell.zarr/mask")
    fragments = create_or_resume_output(
        str(folder / "cell.zarr/fragments"), shape=mask.shape, dtype="uint32", voxel_size=mask.voxel_size,
        chunk_shape=BLOCK,
    )
    task = BlockTask("fragments", fragments, (str(mask.address),), label_block, {}, BLOCK)
    run_blockwise(task, num_workers=num_workers)
    fragments = open_volume(fragments.address)
    edges = LedgerTask("edges", fragments, (str(fragments.address),), edges_of_block, {}, BLOCK, place=folder / "edges")
    edges.run(num_workers=num_workers)
    np.save(folder / "edges.npy", np.concatenate(list(edges.results())))
    lookup = LedgerTask(
        "table", ("all objects",), (str(fragments.address),), table, {"edges": str(folder / "edges.npy")},
        place=folder / "table", unit="tables",
    )
    lookup.run(num_workers=num_workers)
    (found,) = lookup.results()
    return found
'''


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "steps.py").write_text(STEPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("steps", None)
    return importlib.import_module("steps")


@pytest.fixture
def mask(tmp_path: Path) -> Volume:
    volume = create_volume(tmp_path / "cell.zarr/mask", shape=(20, 18, 22), dtype="uint8", voxel_size=(4, 4, 4))
    volume.write((np.random.default_rng(3).random(volume.shape) < 0.28).astype(np.uint8))
    volume.mark_complete()
    return volume


@pytest.mark.parametrize("num_workers", [1, 2])
def test_each_stage_is_resumed_and_together_they_label_the_whole(
    steps: Any, mask: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    def fail_at_20(block: Any, parameters: Any, edges_of_block: Callable[..., Any] = steps.edges_of_block) -> Any:
        if block.number == 20:
            raise ValueError("out of sorts")
        return edges_of_block(block, parameters)

    with monkeypatch.context() as patch:
        fail_at_20.__module__, fail_at_20.__qualname__ = "steps", "edges_of_block"
        patch.setattr(steps, "edges_of_block", fail_at_20)
        with pytest.raises(IncasemError, match="1 of 27 blocks failed"):
            steps.segment(tmp_path, 1)
    fragments, objects = steps.segment(tmp_path, num_workers)
    assert {job.name: job.done for job in list_jobs()} == {"fragments": 27, "edges": 27, "table": 1}
    labels = open_volume(tmp_path / "cell.zarr/fragments").read()
    found = objects[np.searchsorted(fragments, labels)]
    expected, count = ndimage.label(mask.read())
    assert len(np.unique(found)) == count + 1
    assert len(np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1).T) == count + 1
