"""Affinities against their definition pair by pair, and against gunpowder's AddAffinities."""

import gunpowder as gp
import numpy as np
import pytest

from incasem_like.errors import InputError
from incasem_like.targets import affinities

OFFSETS = [(-1, 0, 0), (0, -1, 0), (0, 0, -1), (2, 0, 0), (0, -3, 0), (1, -2, 3), (-2, -2, -2)]


def sparse_labels(shape, seed):
    rng = np.random.default_rng(seed)
    instances = rng.integers(0, 4, [-(-size // 2) for size in shape], dtype=np.uint64) * (2**63 + 1)
    for axis in range(len(shape)):
        instances = instances.repeat(2, axis)
    instances = instances[tuple(slice(size) for size in shape)]
    return instances, (rng.random(shape) < 0.6).astype(np.uint8), (rng.random(shape) < 0.8).astype(np.uint8) * 255


@pytest.mark.parametrize(("shape", "offsets"), [((5, 6, 7), OFFSETS), ((9, 8), [(-1, 0), (0, -1), (3, -2), (0, 7)])])
def test_pairs_have_the_affinity_and_the_validity_of_their_definition(shape, offsets):
    instances, labelled, mask = sparse_labels(shape, 1)
    same, valid = affinities(instances, offsets, labelled, mask)
    assert same.dtype == valid.dtype == np.uint8
    for channel, offset in enumerate(offsets):
        for voxel in np.ndindex(shape):
            other = tuple(np.add(voxel, offset))
            inside = all(0 <= at < size for at, size in zip(other, shape, strict=True))
            alike = inside and instances[voxel] == instances[other] != 0
            counts = inside and (labelled[voxel] or labelled[other]) and mask[voxel] and mask[other]
            assert same[channel][voxel] == alike
            assert valid[channel][voxel] == bool(counts)


@pytest.mark.parametrize("sparse", [False, True])
def test_affinities_are_those_of_gunpowder_where_all_pairs_lie_in_the_block(sparse):
    instances, labelled, mask = sparse_labels((12, 13, 14), 2)
    instances = (instances % 5).astype(np.int32)
    if sparse:
        instances *= labelled
    reference = gunpowders_affinities(instances, labelled, mask // 255) if sparse else gunpowders_affinities(instances)
    ours = affinities(instances, OFFSETS, *((labelled, mask) if sparse else ()))
    for mine, theirs in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(mine[:, 2:-2, 3:, 2:-3], theirs)


def gunpowders_affinities(instances, labelled=None, mask=None):
    """Return AddAffinities' affinities and mask of the part of the block that all offsets stay in."""
    keys = [gp.ArrayKey(f"AFFINITIES_{name}") for name in ("LABELS", "LABELLED", "MASK", "OUT", "OUT_MASK")]
    present = labelled is not None
    node = gp.AddAffinities(
        OFFSETS,
        keys[0],
        keys[3],
        unlabelled=keys[1] if present else None,
        labels_mask=keys[2] if present else None,
        affinities_mask=keys[4],
    )
    spec = gp.ArraySpec(roi=gp.Roi((0, 0, 0), instances.shape), voxel_size=gp.Coordinate(1, 1, 1))
    batch, request = gp.Batch(), gp.BatchRequest()
    for key, data in zip(keys, (instances, labelled, mask), strict=False):
        if data is not None:
            batch[key] = gp.Array(data, spec.copy())
    lowest, highest = np.min(OFFSETS, 0), np.max(OFFSETS, 0)
    node.padding_neg, node.padding_pos = gp.Coordinate(lowest), gp.Coordinate(highest)
    inner = gp.Roi(-lowest, np.array(instances.shape) - highest + lowest)
    for key in keys[3:]:
        request[key] = gp.ArraySpec(roi=inner)
    node._spec = gp.ProviderSpec({key: spec.copy() for key in (keys[0], keys[3])})
    output = node.process(batch, request)
    return output[keys[3]].data, output[keys[4]].data


def test_one_object_that_fills_the_block_and_labels_without_objects():
    same, valid = affinities(np.full((4, 5), 3), [(-1, 0), (0, 4)])
    np.testing.assert_array_equal(same, valid)
    assert same.sum((1, 2)).tolist() == [15, 4]
    same, valid = affinities(np.zeros((4, 5), dtype=np.uint32), [(-1, 0)])
    assert not same.any()
    assert valid.sum() == 15


@pytest.mark.parametrize(
    ("offsets", "part"),
    [
        ([], "at least one offset"),
        ([(0, -1)], "has 2 values, but the labels have 3 axes"),
        ([(-1, 0, 0), (0, 0, -5)], r"\[0, 0, -5\] is as long as the block or longer: the block has 4 x 4 x 5 voxels"),
        ([(0, 0, 0)], "links each voxel to itself"),
    ],
)
def test_impossible_offsets_get_one_sentence(offsets, part):
    with pytest.raises(InputError, match=part):
        affinities(np.ones((4, 4, 5), dtype=np.uint8), offsets)


def test_a_mask_of_another_shape_gets_one_sentence():
    with pytest.raises(InputError, match="crop them to the same ROI"):
        affinities(np.ones((4, 4), dtype=np.uint8), [(-1, 0)], labelled=np.ones((4, 3)))
