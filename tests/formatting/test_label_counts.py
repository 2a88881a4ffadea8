"""Counts of objects and balanced parts of labels; flags made from functions."""

import numpy as np
import pytest

from incasem_like.errors import InputError
from incasem_like.formatting import label_counts
from incasem_like.formatting.commands import COMMANDS, run_command
from incasem_like.formatting.derive import Derivation
from incasem_like.formatting.flags import add_options, purpose_of
from incasem_like.formatting.label_counts import balanced_parts, count_labels
from incasem_like.terminal import script_parser
from incasem_like.volumes import open_volume


@pytest.fixture
def labels():
    array = np.zeros((20, 21, 22), np.uint32)
    rng = np.random.default_rng(0)
    for number in range(1, 30):
        z, y, x = rng.integers(2, 16, 3)
        array[z : z + 3, y : y + 4, x : x + rng.integers(1, 5)] = number * 7
    return array


def test_counts_are_those_of_numpy(volume_of, labels, monkeypatch):
    monkeypatch.setattr(label_counts, "BLOCK", (8, 8, 8))
    found = count_labels(open_volume(*volume_of(labels, begin=(5, 0, 2))))
    ids, sizes = np.unique(labels[labels > 0], return_counts=True)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.sizes, sizes)
    where = np.argwhere(labels)
    assert tuple(found.box.begin) == tuple(np.add(where.min(0), (5, 0, 2)))
    assert tuple(found.box.end) == tuple(np.add(where.max(0), (6, 1, 3)))
    document = found.document()
    assert document["labelled_share"] == (labels > 0).mean()
    assert (document["objects"], document["smallest_object"]) == (len(ids), sizes.min())
    empty = count_labels(open_volume(*volume_of(np.zeros((8, 8, 8), np.uint8), "e.zarr/l"))).document()
    assert (empty["objects"], empty["box"], empty["labelled_voxels"]) == (0, None, 0)


def test_parts_share_no_object_and_are_about_equal(volume_of, labels):
    place = volume_of(labels, begin=(1, 2, 3))
    written = run_command("partition", Derivation(*place, "parts", (8, 8, 8)), parts=3)
    parts = [open_volume(one.address) for one in written]
    arrays = [part.read() for part in parts]
    np.testing.assert_array_equal(np.sum(arrays, axis=0), labels)
    assert sum(len(np.unique(array)) - 1 for array in arrays) == len(np.unique(labels)) - 1
    sizes = [np.count_nonzero(array) for array in arrays]
    assert max(sizes) - min(sizes) <= 48  # the largest object
    assert {tuple(part.roi.begin) for part in parts} == {(1, 2, 3)}
    again = run_command("partition", Derivation(*place, "parts", (8, 8, 8)), parts=3)
    assert all(one.already_complete for one in again)
    with pytest.raises(InputError, match="--parts is 99"):
        run_command("partition", Derivation(*place, "no", (8, 8, 8)), parts=99)


def test_the_largest_objects_are_placed_first():
    sizes = [9, 1, 8, 2, 7, 3]
    assert balanced_parts(sizes, 3) == [[0, 1], [2, 3], [4, 5]]


def test_every_operation_has_a_purpose_and_flags_with_help():
    for name, function in COMMANDS.items():
        parser = script_parser(purpose_of(function))
        flags = add_options(parser, function)
        assert purpose_of(function).endswith("."), name
        actions = {action.dest: action for action in parser._actions}
        assert all(actions[flag].help for flag in flags), name
    parser = script_parser("x")
    add_options(parser, COMMANDS["crop"])
    found = parser.parse_args(["--offset", "1", "2", "3"])
    assert (found.offset, found.shape, found.around) == ([1, 2, 3], (0, 0, 0), None)
    parser = script_parser("x")
    add_options(parser, COMMANDS["dilate"])
    assert parser.parse_args(["--in_plane"]).in_plane is True
