"""Targets made of blocks of labels, against their definitions voxel by voxel."""

import numpy as np
import pytest
from scipy import ndimage

from incasem_like.config.target_sections import parse_targets
from incasem_like.targets import LabelBlock, balance_weights, channel_slices, grow_boundary, local_shape_descriptors

SHAPE = (5, 6, 7)


def target(num_classes=2, **options):
    (made,) = parse_targets([options])
    return made.resolved(num_classes)


def block(instances, mask=None, inside=None, context=(0, 0, 0)):
    """Return a block; ``instances`` by class, classes as the data configuration merges them."""
    arrays = {one: np.asarray(ids) for one, ids in instances.items()}
    shape = next(iter(arrays.values())).shape
    claims = sum((ids > 0).astype(int) for ids in arrays.values())
    classes = sum(one * (ids > 0) for one, ids in arrays.items()) * (claims == 1)
    full = np.ones(shape, np.uint8)
    known = full if inside is None else inside
    counted = (full if mask is None else mask) * known
    return LabelBlock(classes.astype(np.uint8), arrays, counted, known, (5.0, 5.0, 5.0), context)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def ids(rng):
    return rng.integers(0, 4, SHAPE).astype(np.uint64) * 10**15


def test_exclusive_classes_are_the_class_map_with_balanced_weights(rng):
    mask = rng.integers(0, 2, SHAPE).astype(np.uint8)
    made = block({1: rng.integers(0, 2, SHAPE), 2: rng.integers(0, 2, SHAPE)}, mask)
    classes, weight = target(3, type="classes", clipmin=0.1, clipmax=0.6).make(made)
    np.testing.assert_array_equal(classes, made.classes)
    np.testing.assert_array_equal(weight, balance_weights(made.classes, mask, 3, 0.1, 0.6))


def test_independent_classes_may_overlap(rng):
    made = block({1: rng.integers(0, 2, SHAPE) * 7, 2: rng.integers(0, 2, SHAPE)})
    learnt = target(3, type="classes", exclusive=False)
    assert (learnt.channel_names, learnt.activation, learnt.loss.type) == (("class_1", "class_2"), "sigmoid", "bce")
    channels, weight = learnt.make(made)
    np.testing.assert_array_equal(channels, np.stack([made.instances[1] > 0, made.instances[2] > 0]))
    assert (channels.sum(axis=0) == 2).any()
    for channel in range(2):
        share = channels[channel].mean()
        assert weight[channel][channels[channel] == 1] == pytest.approx(1 / (2 * share))


OFFSETS = ([-1, 0, 0], [-1, 0], [2, 0, -3])


def test_affinities_are_those_of_each_pair_with_a_sparse_mask_and_a_region_that_ends(ids, rng):
    context = (2, 1, 3)
    mask, inside = rng.integers(0, 2, SHAPE).astype(np.uint8), np.ones(SHAPE, np.uint8)
    ids, mask, inside = (
        np.pad(array, [(edge, edge) for edge in context], mode="wrap") for array in (ids, mask, inside)
    )
    inside[:3] = 0
    ids, mask = ids * inside, mask * inside
    learnt = target(type="affinities", offsets=OFFSETS, balance=False)
    assert learnt.context((5, 5, 5)) == context
    found, weight = learnt.make(block({1: ids}, mask, inside, context))
    assert found.shape == weight.shape == (3, *SHAPE)
    for channel, (dz, dy, dx) in enumerate([(-1, 0, 0), (0, -1, 0), (2, 0, -3)]):
        for z, y, x in np.ndindex(SHAPE):
            here = (z + 2, y + 1, x + 3)
            there = (here[0] + dz, here[1] + dy, here[2] + dx)
            assert found[channel, z, y, x] == (ids[here] == ids[there] and ids[here] > 0)
            counts = inside[here] and inside[there] and (mask[here] or mask[there])
            assert weight[channel, z, y, x] == counts


def test_balanced_affinities_weigh_zeros_and_ones_alike(ids):
    found, weight = target(type="affinities").make(block({1: ids}))
    assert weight[found == 1].sum() == pytest.approx(weight[found == 0].sum(), rel=1e-5)


def test_the_names_of_channels_and_scores_follow_the_offsets():
    learnt = target(type="affinities", offsets=[[-1, 0, 0], [-1, 0], [0, -9, 9]])
    assert learnt.channel_names == ("z-1", "y-1", "y-9 x+9")
    assert {"affinities_dice", "affinities_dice_neighbours", "affinities_bce_long_range"} <= set(learnt.metrics)
    assert learnt.describe()["offsets"] == [[-1, 0, 0], [0, -1, 0], [0, -9, 9]]


def test_equal_ids_of_different_classes_are_different_objects():
    first, second = np.zeros((1, 1, 6), np.uint8), np.zeros((1, 1, 6), np.uint32)
    first[..., :3], second[..., 2:] = 4, 4
    made = block({1: first, 2: second})
    merged = made.merged_instances()
    assert len(np.unique(merged)) == 3
    assert merged[0, 0, 2] == 0, "claimed by both"
    np.testing.assert_array_equal(made.merged_instances([2]), second)
    found, _ = target(3, type="affinities", offsets=[[0, 0, -1]]).make(made)
    assert found[0, 0, 0].tolist() == [0, 1, 0, 0, 1, 1]


def test_boundaries_count_where_none_can_lie_beyond_the_region():
    ids = np.zeros((1, 1, 9), np.uint8)
    ids[..., 3:6], ids[..., 6:] = 1, 2
    inside = np.ones_like(ids)
    inside[..., 8:] = 0
    learnt = target(type="boundaries", balance=False)
    found, weight = learnt.make(block({1: ids * inside}, None, inside, (0, 0, 1)))
    assert found[0, 0, 0].tolist() == [0, 1, 1, 0, 1, 1, 0]
    assert weight[0, 0, 0].tolist() == [1, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("options", [{}, {"downsample": 2}, {"per_section": True}, {"components": [9, 0]}])
def test_descriptors_of_a_block_are_those_of_the_whole_volume(options):
    ids = np.kron(np.random.default_rng(1).integers(0, 3, (5, 5, 5)), np.ones((8, 8, 8), int)).astype(np.uint32)
    learnt = target(type="lsd", sigma=15, **options)
    context = learnt.context((5, 5, 5))
    assert context == ((0 if options.get("per_section") else 10), 10, 10)
    around = [slice(14 - edge, 14 + 11 + edge) for edge in context]  # 11 is no multiple of 2
    mask = np.ones_like(ids, np.uint8)
    mask[:, :18] = 0
    made, weight = learnt.make(block({1: ids[tuple(around)]}, mask[tuple(around)], context=context))
    axes = (1, 2) if options.get("per_section") else None
    named = {key: value for key, value in options.items() if key in ("components", "downsample")}
    whole = local_shape_descriptors(ids, 15.0, 5.0, axes=axes, **named)[:, 14:25, 14:25, 14:25]
    np.testing.assert_allclose(made, whole, atol=1e-4)
    assert (learnt.channels, len(learnt.channel_names)) == (len(whole), len(whole))
    np.testing.assert_array_equal(weight[0], (ids * mask)[14:25, 14:25, 14:25] > 0)
    _, weight = target(type="lsd", sigma=15, background="zero", **options).make(
        block({1: ids[tuple(around)]}, mask[tuple(around)], context=context)
    )
    np.testing.assert_array_equal(weight[0], mask[14:25, 14:25, 14:25])


@pytest.mark.parametrize("per_section", [False, True])
def test_distances_count_where_no_boundary_can_be_nearer_beyond_the_region(per_section):
    ids = np.kron(np.random.default_rng(2).integers(0, 3, (4, 4, 4)), np.ones((6, 6, 6), int)).astype(np.uint8)
    inside = np.ones_like(ids)
    inside[:, 17:] = 0
    learnt = target(type="distance", scale=10, per_section=per_section)
    context = learnt.context((5, 5, 5))
    assert context == ((0 if per_section else 6), 6, 6)
    made, weight = learnt.make(block({1: ids * inside}, None, inside, context))
    sampling = (1e6, 5, 5) if per_section else (5, 5, 5)
    inner = tuple(slice(edge, 24 - edge) for edge in context)
    nearest = np.full(ids.shape, np.inf)
    for one in range(3):
        elsewhere = ndimage.distance_transform_edt(~((ids != one) & (inside > 0)), sampling=sampling)
        nearest = np.where(ids == one, elsewhere, nearest)
    to_end = ndimage.distance_transform_edt(inside, sampling=sampling)
    known = (inside > 0) & ((nearest < to_end) | (to_end >= 30))
    signed = np.where(ids > 0, 1, -1) * np.minimum(nearest, 30)
    np.testing.assert_array_equal(weight[0], known[inner])
    expected = (np.tanh(signed / 10) + 1) / 2
    np.testing.assert_allclose(made[0][known[inner]], expected[inner][known[inner]], atol=1e-5)
    assert 0 < known[inner].mean() < 1


def test_the_scores_of_descriptors_are_those_of_their_components():
    names = ["lsd_mse", "lsd_mse_offset", "lsd_mse_variance", "lsd_mse_pearson", "lsd_mse_size"]
    assert list(target(type="lsd").metrics) == names


def test_objects_are_made_smaller_before_affinities(ids):
    learnt = target(type="affinities", offsets=[[0, 0, -1]], grow_boundary=1, grow_boundary_axes=[1, 2])
    context = learnt.context((5, 5, 5))
    assert context == (0, 1, 2)
    blobs = np.kron(ids, np.ones((1, 4, 4), np.uint64))
    found, _ = learnt.make(block({1: blobs}, context=context))
    shrunk = grow_boundary(blobs, 1, axes=(1, 2))
    expected = (shrunk[:, :, 1:] == shrunk[:, :, :-1]) & (shrunk[:, :, 1:] > 0)
    np.testing.assert_array_equal(found[0], expected[:, 1:-1, 1:-2])


@pytest.mark.parametrize("kind", ["classes", "affinities", "boundaries", "lsd", "distance"])
def test_what_is_made_fits_what_was_announced(kind, ids):
    learnt = target(type=kind)
    context = learnt.context((5, 5, 5))
    padded = np.pad(ids, [(edge, edge) for edge in context])
    made, weight = learnt.make(block({1: padded}, context=context))
    assert made.shape == ((*SHAPE,) if learnt.kind == "classes" else (learnt.channels, *SHAPE))
    assert made.shape[-3:] == weight.shape[-3:]
    assert weight.dtype == np.float32
    assert made.nbytes + weight.nbytes <= learnt.bytes_per_voxel * ids.size
    assert learnt.describe()["channel_names"] == list(learnt.channel_names)


def test_channels_follow_one_another():
    made = [one.resolved(3) for one in parse_targets(["classes", "affinities", "boundaries"])]
    assert channel_slices(made) == [slice(0, 3), slice(3, 6), slice(6, 7)]


@pytest.mark.parametrize("kind", [{"type": "affinities", "offsets": [[0, 0, -1]]}, {"type": "boundaries"}])
def test_what_counts_near_the_end_of_a_region_does_not_depend_on_what_lies_beyond(kind):
    ids = np.kron([1, 2, 1, 3], np.ones(10, int))[None, None]
    learnt = target(**kind, grow_boundary=2, balance=False)
    whole, _ = learnt.make(block({1: ids}, context=(0, 0, 0)))
    for end in range(8, 38):
        inside = np.ones(ids.shape, np.uint8)
        inside[..., end:] = 0
        found, weight = learnt.make(block({1: ids * inside}, None, inside, (0, 0, 0)))
        counted = weight > 0
        assert counted.any()
        np.testing.assert_array_equal(found[counted], whole[counted])


def brute_weights(ids, mask, boundary, reach, limit, context):
    """Weigh each voxel of the block by itself: by its city-block distance to another id, and its object's size."""
    z0, y0, x0 = context
    inner = tuple(slice(edge, size - edge) for edge, size in zip(context, ids.shape, strict=True))
    sizes = {one: np.sum((ids[inner] == one) & (mask[inner] > 0)) for one in np.unique(ids[inner]) if one}
    sizes = {one: size for one, size in sizes.items() if size}
    weights = np.ones(ids[inner].shape)
    for position in np.ndindex(weights.shape):
        here = tuple(np.add(position, (z0, y0, x0)))
        for there in np.ndindex(ids.shape):
            if np.abs(np.subtract(here, there)).sum() <= reach and ids[there] != ids[here]:
                weights[position] = boundary
        if mask[here] and limit and ids[here]:
            weights[position] *= min(sum(sizes.values()) / (len(sizes) * sizes[ids[here]]), limit)
    return weights


@pytest.mark.parametrize("kind", ["affinities", "boundaries", "lsd", "distance", "classes"])
def test_objects_and_boundaries_are_weighted_as_by_their_definition(kind, rng):
    shape, options = (9, 9, 8), {"boundary_weight": 3.0, "boundary_reach": 2, "instance_weight_limit": 1.5}
    ids = np.kron(rng.integers(0, 4, (3, 3, 3)), np.ones((3, 3, 3), int))[:, :, :8].astype(np.uint32)
    mask = rng.integers(0, 2, shape).astype(np.uint8)
    voxel_size = (5.0, 5.0, 5.0)
    sized = {"sigma": 5.0} if kind == "lsd" else {"scale": 1.0} if kind == "distance" else {}
    plain, weighted = target(type=kind, **sized), target(type=kind, **sized, **options)
    context = (2, 2, 3)
    assert max(weighted.full_context(voxel_size)) >= 2
    made = block({1: ids}, mask, context=context)
    learnt, weight = weighted.weighted(made)
    expected, before = plain.weighted(made)
    np.testing.assert_array_equal(learnt, expected)
    factors = brute_weights(ids, mask, 3.0, 2, 1.5, context)
    np.testing.assert_allclose(weight, before * factors, rtol=1e-5)
    assert len(np.unique(factors)) > 3
    assert weight.dtype == np.float32


def test_without_the_options_weights_are_those_of_the_target(ids):
    made = block({1: ids})
    for kind in ("affinities", "classes"):
        learnt = target(type=kind)
        for one, other in zip(learnt.weighted(made), learnt.make(made), strict=True):
            np.testing.assert_array_equal(one, other)
