"""Fragments, agglomeration, mutex watershed, components and hysteresis against independent definitions."""

import itertools

import networkx as nx
import numpy as np
import pytest
import skimage.measure
import skimage.morphology
import skimage.segmentation
from instances import NEIGHBOURS, affinities_of, same_partition
from scipy import ndimage

from incasem_like.errors import DataError
from incasem_like.segmentation import label_arrays
from incasem_like.segmentation.affinities import as_backward, check_signs, neighbour_channels
from incasem_like.segmentation.agglomeration import SCORING, MergeHistory, adjacent_pairs, agglomerate
from incasem_like.segmentation.components import hysteresis, label_affinities, label_mask
from incasem_like.segmentation.mutex_watershed import mutex_watershed
from incasem_like.segmentation.watershed import watershed_fragments


@pytest.fixture
def cubes():
    """64 cubes that touch."""
    return np.kron(np.arange(1, 65).reshape(4, 4, 4), np.ones((5, 5, 5), int)).astype(np.uint64)


@pytest.fixture
def smooth():
    return ndimage.gaussian_filter(np.random.default_rng(5).random((24, 26, 28)), 1.5).astype(np.float32)


@pytest.mark.parametrize("sign", [-1, 1])
def test_perfect_affinities_of_64_touching_objects_are_64_components(cubes, sign):
    offsets = [tuple(sign * abs(step) for step in offset) for offset in NEIGHBOURS]
    found = label_affinities(affinities_of(cubes, offsets) >= 0.5, offsets)
    assert same_partition(found, cubes)


@pytest.mark.parametrize("sign", [-1, 1])
def test_components_of_affinities_are_those_of_the_graph_of_voxels(sign):
    offsets = [tuple(sign * abs(step) for step in offset) for offset in NEIGHBOURS]
    joined = np.random.default_rng(1).random((3, 5, 6, 7)) < 0.3
    graph = nx.Graph()
    for channel, offset in enumerate(offsets):
        for voxel in np.argwhere(joined[channel]):
            other = voxel + offset
            if (other >= 0).all() and (other < joined.shape[1:]).all():
                graph.add_edge(tuple(voxel.tolist()), tuple(other.tolist()))
    expected = np.zeros(joined.shape[1:], int)
    for number, component in enumerate(nx.connected_components(graph), 1):
        expected[tuple(np.array(list(component)).T)] = number
    assert same_partition(label_affinities(joined, offsets), expected)


@pytest.mark.parametrize(("connectivity", "steps"), [(6, 1), (18, 2), (26, 3)])
def test_components_of_a_mask_are_those_of_scikit_image(connectivity, steps):
    mask = np.random.default_rng(2).random((9, 10, 11)) < 0.3
    expected = skimage.measure.label(mask, connectivity=steps)
    assert same_partition(label_mask(mask, connectivity), expected)


def test_hysteresis_keeps_components_with_a_seed_and_sizes_are_those_of_whole_objects(smooth):
    low, high = (float(value) for value in np.quantile(smooth, [0.7, 0.95]))
    components, count = ndimage.label(smooth >= low, np.ones((3, 3, 3)))
    kept = [number for number in range(1, count + 1) if smooth[components == number].max() >= high]
    assert 1 < len(kept) < count
    expected = np.where(np.isin(components, kept), components, 0)
    assert same_partition(hysteresis(smooth, low, high), expected)
    sizes = np.bincount(expected.ravel())
    least = int(sizes[kept].max())
    large = hysteresis(smooth, low, high, min_size=least)
    np.testing.assert_array_equal(large > 0, (sizes >= least)[expected] & (expected > 0))


def flooding_levels(height, seeds, inside):
    """The lowest level at which each voxel is flooded from a seed: the highest point of its lowest path."""
    blocked = height.max() + 1
    mask = np.where(inside, height, blocked)
    return skimage.morphology.reconstruction(
        np.where((seeds > 0) & inside, mask, blocked),
        mask,
        "erosion",
        footprint=ndimage.generate_binary_structure(3, 1),
    )


def test_fragments_are_a_watershed_of_the_distance_from_the_seeds_of_scipy(smooth):
    threshold = float(np.median(smooth))
    interior = smooth > threshold
    distance = ndimage.distance_transform_edt(interior)
    seeds = ndimage.label((ndimage.maximum_filter(distance, 5) == distance) & interior)[0]
    fragments = watershed_fragments(smooth, threshold=threshold, seed_distance=5)
    assert same_partition(fragments[seeds > 0], seeds[seeds > 0])
    components = ndimage.label(interior)[0]
    np.testing.assert_array_equal(fragments > 0, interior & np.isin(components, components[seeds > 0]))
    levels = flooding_levels(-distance, seeds, interior)
    for fragment in np.unique(fragments[fragments > 0]):  # no voxel could be flooded earlier from another seed
        own = fragments == fragment
        np.testing.assert_allclose(flooding_levels(-distance, seeds, own)[own], levels[own], atol=1e-3)


def test_flooded_boundaries_belong_to_the_nearest_fragment(smooth):
    options = {"threshold": float(np.median(smooth)), "seed_distance": 10, "voxel_size": (3, 2, 2)}
    masked = watershed_fragments(smooth, **options)
    flooded = watershed_fragments(smooth, flood_boundaries=True, **options)
    np.testing.assert_array_equal(flooded[masked > 0], masked[masked > 0])
    to_any = ndimage.distance_transform_edt(masked == 0, sampling=(3, 2, 2))
    for fragment in np.unique(flooded):
        to_own = ndimage.distance_transform_edt(masked != fragment, sampling=(3, 2, 2))
        np.testing.assert_allclose(to_own[flooded == fragment], to_any[flooded == fragment], rtol=1e-5)


def test_fragments_in_xy_never_cross_sections(smooth):
    fragments = watershed_fragments(smooth, threshold=float(np.median(smooth)), seed_distance=4, in_xy=True)
    per_section = [set(np.unique(section)) - {0} for section in fragments]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(per_section, 2))
    assert set().union(*per_section) == set(range(1, int(fragments.max()) + 1))


def test_the_seed_box_and_distances_are_in_world_units():
    bar = np.ones((3, 1, 40), np.float32)
    bar[:, :, [0, 19, 39]] = 0
    fragments = watershed_fragments(bar, seed_distance=60, voxel_size=(4, 4, 4))
    assert fragments.max() == 2
    assert watershed_fragments(bar, seed_distance=200, voxel_size=(4, 4, 4)).max() in (1, 2)


def test_without_interior_there_are_no_fragments():
    assert not watershed_fragments(np.zeros((3, 4, 5))).any()
    assert (watershed_fragments(np.ones((3, 4, 5))) == 1).all()


def test_the_first_merge_has_the_score_of_its_definition_and_needs_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    fragments = np.array([[[1, 1, 2, 2]], [[1, 1, 2, 2]]], np.uint64) + np.uint64(10**12)
    affinities = np.zeros((3, 2, 1, 4), np.float32)
    affinities[2, :, 0, 2] = 0.25, 0.75
    contact = np.array([0.25, 0.75])
    for name in SCORING:
        history = agglomerate(fragments, affinities, name)
        assert history.ids.tolist() == [10**12 + 1, 10**12 + 2]
        ranked = np.sort(contact)
        if name == "mean":
            expected = 1 - contact.mean()
        else:
            percent = int(name.split("_")[2])
            values = ranked[-1:] if name.endswith("initmax") else ranked
            expected = 1 - values[min(percent * len(values) // 100, len(values) - 1)]
        assert history.scores == pytest.approx([expected], abs=1 / 256), name


@pytest.fixture
def oversegmented(smooth):
    rng = np.random.default_rng(3)
    labels = watershed_fragments(smooth, threshold=0.0, seed_distance=5, flood_boundaries=True)
    labels = watershed_fragments(ndimage.gaussian_filter(rng.random((24, 26, 28)), 1), threshold=0.5, seed_distance=4)
    affinities = rng.random((3, *labels.shape)).astype(np.float32)
    return labels, affinities


@pytest.mark.parametrize("scoring", ["mean", "hist_quant_50", "hist_quant_75_initmax"])
def test_a_cut_of_the_history_is_the_segmentation_of_waterz_at_that_threshold(oversegmented, scoring):
    import waterz

    labels, affinities = oversegmented
    history = agglomerate(labels, affinities, scoring)
    thresholds = [0.3, 0.45, 0.5, 0.6]
    expected = waterz.agglomerate(
        affinities, thresholds, fragments=labels.copy(), scoring_function=SCORING[scoring], discretize_queue=0
    )
    for threshold, segmentation in zip(thresholds, expected, strict=True):
        found = label_arrays.relabel(labels, history.ids, history.cut(threshold))
        assert same_partition(found, segmentation)


def test_edge_scores_are_those_at_which_the_cut_joins_both_ends(oversegmented):
    labels, affinities = oversegmented
    history = agglomerate(labels, affinities, max_threshold=0.55)
    ids, pairs = adjacent_pairs(labels)
    np.testing.assert_array_equal(ids, history.ids)
    scores = history.edge_scores(pairs)
    assert np.isnan(scores).any()
    assert np.isfinite(scores).any()
    for threshold in np.unique(history.scores)[::7]:
        for epsilon in (0, 1e-4):
            segments = history.cut(threshold + epsilon)
            together = segments[pairs[:, 0]] == segments[pairs[:, 1]]
            np.testing.assert_array_equal(together, scores < threshold + epsilon)


def test_adjacent_pairs_are_those_that_share_a_face(oversegmented):
    labels, _ = oversegmented
    expected = set()
    for axis in range(3):
        moved = np.moveaxis(labels, axis, 0)
        for a, b in zip(moved[1:].ravel().tolist(), moved[:-1].ravel().tolist(), strict=True):
            if a and b and a != b:
                expected.add((min(a, b), max(a, b)))
    ids, pairs = adjacent_pairs(labels)
    assert {tuple(ids[pair].tolist()) for pair in pairs} == expected


def test_an_empty_volume_has_no_history():
    history = agglomerate(np.zeros((2, 3, 4), np.uint64), np.zeros((3, 2, 3, 4), np.float32))
    assert not len(history.ids)
    assert not len(history.cut(0.5))


def naive_mutex_watershed(affinities, offsets):
    """Kruskal with mutual exclusions, as in the paper; weights must be distinct."""
    shape = affinities.shape[1:]
    edges = []
    for channel, offset in enumerate(offsets):
        attractive = max(map(abs, offset)) <= 1
        for voxel in np.ndindex(*shape):
            other = tuple(np.add(voxel, offset))
            if all(0 <= o < n for o, n in zip(other, shape, strict=True)):
                value = float(affinities[(channel, *voxel)])
                edges.append((value if attractive else 1 - value, attractive, voxel, other))
    clusters = {voxel: {voxel} for voxel in np.ndindex(*shape)}
    mutexes = []
    for _, attractive, one, other in sorted(edges, reverse=True):
        a, b = clusters[one], clusters[other]
        if a is b:
            continue
        if not attractive:
            mutexes.append((one, other))
        elif not any(
            (clusters[u] is a and clusters[v] is b) or (clusters[u] is b and clusters[v] is a) for u, v in mutexes
        ):
            a |= b
            for voxel in b:
                clusters[voxel] = a
    numbers = {id(cluster): number for number, cluster in enumerate({id(c): c for c in clusters.values()}.values(), 1)}
    found = np.zeros(shape, int)
    for voxel, cluster in clusters.items():
        found[voxel] = numbers[id(cluster)]
    return found


def test_mutex_watershed_is_that_of_the_paper_whatever_the_order_of_offsets():
    offsets = [(0, -2, 0), (-1, 0, 0), (0, 0, 3), (0, -1, 0), (-2, 0, -1), (0, 0, 1)]
    affinities = np.random.default_rng(4).random((6, 4, 5, 6)).astype(np.float32)
    affinities[[1, 3, 5]] = affinities[[1, 3, 5]] * 0.9 + 0.1
    expected = naive_mutex_watershed(affinities, offsets)
    assert 2 < expected.max() < 100
    assert same_partition(mutex_watershed(affinities, offsets), expected)


def test_mutex_watershed_finds_64_touching_objects_with_strides_and_noise(cubes):
    offsets = [*NEIGHBOURS, (-4, 0, 0), (0, -4, 0), (0, 0, -4), (0, -3, -3), (-3, 0, -3), (-3, -3, 0)]
    affinities = affinities_of(cubes, offsets)
    for options in ({}, {"noise": 0.01}, {"strides": (2, 2, 2)}):
        assert same_partition(mutex_watershed(affinities, offsets, **options), cubes), options


def test_noise_and_random_strides_are_repeated_by_their_seed():
    offsets = [*NEIGHBOURS, (-2, 0, 0), (0, -3, 0), (0, 0, -3)]
    affinities = np.random.default_rng(6).random((6, 8, 9, 10)).astype(np.float32)
    options = {"strides": (1, 2, 2), "randomized_strides": True, "noise": 0.05}
    before = np.random.get_state()[1].copy()
    runs = [mutex_watershed(affinities, offsets, seed=seed, **options) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_a_bias_separates_more():
    offsets = [*NEIGHBOURS, (-2, 0, 0), (0, -3, 0), (0, 0, -3)]
    affinities = np.random.default_rng(7).random((6, 8, 9, 10)).astype(np.float32)
    counts = [mutex_watershed(affinities, offsets, bias=bias).max() for bias in (-0.4, 0, 0.4)]
    assert counts[0] < counts[1] < counts[2]


def test_a_voxel_outside_the_mask_is_background(cubes):
    offsets = [*NEIGHBOURS, (-3, 0, 0), (0, -3, 0), (0, 0, -3)]
    mask = cubes % 2 == 0
    found = mutex_watershed(affinities_of(cubes, offsets), offsets, mask=mask)
    np.testing.assert_array_equal(found > 0, mask)


@pytest.mark.parametrize("flipped", [(0,), (1, 2), (0, 1, 2)])
def test_a_wrong_sign_of_an_offset_is_detected(smooth, flipped):
    labels = watershed_fragments(smooth, threshold=0.0, seed_distance=5, flood_boundaries=True)
    labels = skimage.segmentation.watershed(smooth, compactness=0).astype(np.uint64) if labels.max() < 5 else labels
    labels[smooth > np.quantile(smooth, 0.8)] = 0
    affinities = affinities_of(labels, NEIGHBOURS)
    blurred = np.clip(np.stack([ndimage.gaussian_filter(channel, 0.5) for channel in affinities]), 0, 1)
    wrong = [tuple(-step for step in offset) if axis in flipped else offset for axis, offset in enumerate(NEIGHBOURS)]
    for values in (affinities, blurred):
        check_signs(values, NEIGHBOURS, "affs")
        with pytest.raises(DataError, match=f"affs gives the offsets .*{list(wrong[flipped[0]])}".replace("[", r"\[")):
            check_signs(values, wrong, "affs")
        check_signs(as_backward(values, NEIGHBOURS), NEIGHBOURS, "affs")


def test_a_sign_that_agrees_only_somewhat_better_is_a_warning(caplog):
    rng = np.random.default_rng(2)
    labels = np.kron(rng.integers(1, 9, (5, 5, 5)), np.ones((8, 8, 8), int))
    noisy = np.clip(affinities_of(labels, NEIGHBOURS) + rng.normal(0, 0.17, (3, *labels.shape)), 0, 1)
    check_signs(noisy, NEIGHBOURS, "affs")
    assert not caplog.records
    check_signs(noisy, [tuple(-step for step in offset) for offset in NEIGHBOURS], "affs")
    assert "[0, 0, 1], but its affinities agree somewhat better with" in caplog.text


def test_forward_affinities_read_backward_are_the_backward_ones(cubes):
    forward = [(1, 0, 0), (0, 0, 1), (0, 5, 0), (0, 1, 0)]
    expected = affinities_of(cubes, NEIGHBOURS)
    np.testing.assert_array_equal(as_backward(affinities_of(cubes, forward), forward), expected)


def test_offsets_without_direct_neighbours_are_refused():
    with pytest.raises(DataError, match="No affinity joins neighbours along y"):
        neighbour_channels([(-1, 0, 0), (0, 0, -1), (0, -2, 0)])


def test_holes_are_background_inside_one_object():
    labels = np.zeros((7, 7, 12), np.uint32)
    labels[1:6, 1:6, 1:6] = 4
    labels[2:5, 2:5, 2:5] = 0  # a hole
    labels[1:6, 1:6, 6:11] = 9
    labels[3, 3, 6] = 0  # touches two objects
    filled, count = label_arrays.fill_holes(labels)
    expected = labels.copy()
    expected[2:5, 2:5, 2:5] = 4
    np.testing.assert_array_equal(filled[:, :, :5], expected[:, :, :5])
    assert count == int((filled != labels).sum())
    for one in (4, 9):
        alone = labels == one
        inside = ndimage.binary_fill_holes(alone) & ~alone & (labels == 0)
        assert ((filled == one) & (labels == 0) <= inside).all()


def test_sizes_and_consecutive_ids_are_those_of_numpy():
    labels = np.random.default_rng(8).choice(np.array([0, 3, 7, 2**40], np.uint64), (4, 5, 6))
    ids, sizes = label_arrays.count_ids(labels)
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    np.testing.assert_array_equal(ids, values)
    np.testing.assert_array_equal(sizes, counts)
    local, known = label_arrays.consecutive(labels)
    np.testing.assert_array_equal(np.concatenate([[0], known]).astype(np.uint64)[local.astype(int)], labels)
    least = int(np.median(counts))
    kept, removed = label_arrays.remove_small(labels, least, max_size=int(counts.max()) - 1)
    chosen = values[(counts >= least) & (counts < counts.max())]
    np.testing.assert_array_equal(kept, np.where(np.isin(labels, chosen), labels, 0))
    assert removed == len(values) - len(chosen)


def test_a_history_without_merges_leaves_every_fragment_alone():
    history = MergeHistory(np.array([5, 8], np.uint64), np.zeros((0, 2), np.int64), np.zeros(0, np.float32))
    assert history.cut(1.0).tolist() == [1, 2]
    assert np.isnan(history.edge_scores(np.array([[0, 1]]))).all()


def test_a_bias_and_a_noise_for_each_offset_are_those_of_affinities_changed_by_hand():
    offsets = [*NEIGHBOURS, (-2, 0, 0), (0, -3, 0), (0, 0, -3)]
    affinities = np.random.default_rng(9).random((6, 8, 9, 10)).astype(np.float32)
    shifts = (0.1, 0.0, -0.2, 0.3, 0.0, -0.1)
    changed = affinities + np.array([0.1, 0, -0.2, -0.3, 0, 0.1], np.float32)[:, None, None, None]  # repulsion is 1 - a
    one, other = mutex_watershed(affinities, offsets, bias=shifts), mutex_watershed(changed, offsets)
    assert same_partition(one, other)
    assert not same_partition(one, mutex_watershed(affinities, offsets))
    repelled = mutex_watershed(affinities, offsets, bias=(0, 0, 0, 0.25, 0.25, 0.25))
    np.testing.assert_array_equal(repelled, mutex_watershed(affinities, offsets, bias=0.25))
    quiet = mutex_watershed(affinities, offsets, noise=(0, 0, 0, 0, 0, 0))
    np.testing.assert_array_equal(quiet, mutex_watershed(affinities, offsets))
    noisy = mutex_watershed(affinities, offsets, noise=(0, 0, 0, 0, 0, 0.5))
    assert not same_partition(noisy, quiet)
