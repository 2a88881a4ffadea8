"""Segmentation block by block against the same functions on the whole array."""

import itertools
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from instances import NEIGHBOURS, affinities_of, same_partition
from scipy import ndimage

from incasem_like.errors import ConfigError, DataError, IncasemError, InputError
from incasem_like.segmentation import pipeline
from incasem_like.segmentation.agglomeration import agglomerate
from incasem_like.segmentation.components import hysteresis, label_affinities, label_mask
from incasem_like.segmentation.label_arrays import relabel, remove_small
from incasem_like.segmentation.pipeline import segment
from incasem_like.segmentation.planning import plan_segmentation
from incasem_like.segmentation.settings import (
    METHODS,
    SegmentationConfig,
    SegmentationSection,
    load_segmentation_config,
)
from incasem_like.segmentation.watershed import watershed_fragments
from incasem_like.targets import DESCRIPTOR_NAMES, local_shape_descriptors
from incasem_like.volumes import create_volume, open_volume

VOXELS = (10.0, 4.0, 4.0)
SHAPE = (13, 12, 14)
LONG = [*NEIGHBOURS, (-3, 0, 0), (0, -3, 0), (0, 0, -3)]


@pytest.fixture
def store(tmp_path):
    """Write an array as a dataset with an offset of whole voxels."""
    numbers = itertools.count()

    def write(array, attributes=None, **options):
        name = f"data_{next(numbers)}"
        volume = create_volume(
            tmp_path / "cell.zarr", name, shape=array.shape, dtype=array.dtype, voxel_size=VOXELS, offset=(30, 8, 0),
            axes="zyx" if array.ndim == 3 else "czyx", chunk_shape=(5, 5, 5), attributes=attributes, **options,
        )  # fmt: skip
        volume.write(array)
        volume.mark_complete()
        return open_volume(tmp_path / "cell.zarr", name)

    return write


def run(volume, method, options, **more):
    section = SegmentationSection.model_validate({"method": method, method: options, **more})
    result = segment(plan_segmentation(volume, section))
    return [open_volume(made["address"]).read() for made in result["segmentations"]], result


blocks = st.tuples(*(st.integers(4, size + 2) for size in SHAPE))
fuzz = settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))


@fuzz
@given(block=blocks, seed=st.integers(0, 99), sign=st.sampled_from([-1, 1]), min_size=st.integers(0, 6))
def test_components_of_affinities_do_not_depend_on_blocks(store, block, seed, sign, min_size):
    rng = np.random.default_rng(seed)
    offsets = [tuple(sign * abs(step) for step in offset) for offset in NEIGHBOURS]
    values = (rng.random((3, *SHAPE)) * 255).astype(np.uint8)
    expected = label_affinities(values / 255 >= 0.75, offsets)
    expected, removed = remove_small(expected, min_size)
    volume = store(values, {"offsets": offsets, "scale": 255})
    (found,), result = run(volume, "connected_components", {"threshold": 0.75}, block_shape=block, min_size=min_size)
    assert same_partition(found, expected)
    assert found.dtype == np.uint32
    assert result["segmentations"][0]["removed_objects"] == removed
    assert np.unique(found[found > 0]).tolist() == list(range(1, result["segmentations"][0]["objects"] + 1))


@fuzz
@given(block=blocks, seed=st.integers(0, 99), connectivity=st.sampled_from([6, 18, 26]), masked=st.booleans())
def test_components_and_hysteresis_of_probabilities_do_not_depend_on_blocks(store, block, seed, connectivity, masked):
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random(SHAPE), 0.7).astype(np.float32)
    low, high = (float(value) for value in np.quantile(smooth, [0.7, 0.9]))
    mask = (rng.random(SHAPE) > 0.2 * masked).astype(np.uint8)
    more = {"block_shape": block, "mask": str(store(mask).address) if masked else None}
    volume = store(smooth)
    (found,), _ = run(volume, "connected_components", {"threshold": low, "connectivity": connectivity}, **more)
    assert same_partition(found, label_mask((smooth >= np.float32(low)) & (mask > 0), connectivity))
    (found,), _ = run(volume, "hysteresis", {"low": low, "high": high, "connectivity": connectivity}, **more)
    expected = hysteresis(smooth * mask, np.float32(low), np.float32(high), connectivity=connectivity)
    assert same_partition(found, expected)
    (found,), _ = run(volume, "threshold", {"threshold": low}, **more)
    np.testing.assert_array_equal(found, (smooth >= np.float32(low)) & (mask > 0))


@pytest.fixture
def neurons():
    """Smooth objects with boundaries of two voxels, and their affinities."""
    rng = np.random.default_rng(11)
    seeds = np.zeros((40, 44, 48), int)
    seeds[tuple(rng.integers(0, size, 12) for size in seeds.shape)] = np.arange(1, 13)
    index = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    labels = seeds[tuple(index)]
    grown = ndimage.grey_dilation(labels, 3) != ndimage.grey_erosion(labels, 3)
    return np.where(grown, 0, labels)


def test_the_watershed_of_one_block_is_that_of_the_array_at_every_threshold(neurons, store):
    rng = np.random.default_rng(1)
    affinities = np.clip(affinities_of(neurons, NEIGHBOURS) + rng.normal(0, 0.1, (3, *neurons.shape)), 0, 1)
    affinities = affinities.astype(np.float32)
    volume = store(affinities, {"offsets": NEIGHBOURS})
    options = {"threshold": [0.0, 0.3, 0.6], "seed_distance": 40}
    found, result = run(volume, "watershed", options, block_shape=neurons.shape)
    fragments = watershed_fragments(affinities.mean(axis=0), seed_distance=40, voxel_size=VOXELS)
    assert result["fragments"] == fragments.max()
    for threshold, segmentation in zip(options["threshold"], found, strict=True):
        history = agglomerate(fragments, affinities)
        assert same_partition(segmentation, relabel(fragments, history.ids, history.cut(threshold)))
    assert len(np.unique(found[0])) > len(np.unique(found[2]))


@pytest.mark.parametrize("method", ["watershed", "mutex_watershed"])
@pytest.mark.parametrize("block", [(40, 44, 48), (20, 25, 15)])
def test_objects_are_joined_across_blocks(neurons, store, method, block):
    affinities = affinities_of(neurons, LONG)
    volume = store(affinities, {"offsets": LONG})
    options = {"threshold": 0.5, "seed_distance": 40} if method == "watershed" else {"boundary_threshold": 0.0}
    (found,), _ = run(volume, method, options, block_shape=block, min_size=20)
    common = (found > 0) & (neurons > 0)
    assert common.mean() > 0.95 * (neurons > 0).mean()
    assert same_partition(found[common], neurons[common])


def test_fragments_stay_within_sections_and_boundaries_may_be_flooded(neurons, store):
    affinities = affinities_of(neurons, NEIGHBOURS)
    volume = store(affinities, {"offsets": NEIGHBOURS})
    run(volume, "watershed", {"fragments_in_xy": True, "flood_boundaries": True}, block_shape=(16, 44, 48))
    fragments = open_volume(volume.container, f"{volume.dataset}_watershed/fragments").read()
    assert (fragments > 0).all()
    sections = [set(np.unique(section).tolist()) for section in fragments]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(sections, 2))


def test_fragments_of_weak_affinities_are_removed_and_sure_ones_merged_early(neurons, store):
    affinities = affinities_of(neurons, NEIGHBOURS)
    affinities[:, neurons == neurons.max()] *= 0.7
    volume = store(affinities.astype(np.float32), {"offsets": NEIGHBOURS})
    (found,), _ = run(volume, "watershed", {"filter_fragments": 0.75, "threshold": 0.5}, block_shape=(40, 44, 48))
    assert not found[neurons == neurons.max()].any()
    options = {"epsilon_agglomerate": 0.2, "seed_distance": 20}
    _, result = run(volume, "watershed", options, block_shape=(40, 44, 48), output="epsilon")
    _, plain = run(volume, "watershed", {"seed_distance": 20}, block_shape=(40, 44, 48), output="plain")
    assert result["fragments"] < plain["fragments"]


def test_boundary_probabilities_are_segmented_like_objects(neurons, store):
    boundary = ((neurons == 0) * 255).astype(np.uint8)
    volume = store(boundary, {"target": "boundaries", "scale": 255})
    (found,), _ = run(volume, "connected_components", {"connectivity": 6}, block_shape=(20, 20, 20))
    assert same_partition(found, ndimage.label(neurons > 0)[0])
    channel = store(boundary[None], {"target": "boundaries", "scale": 255})  # as a network's only channel
    (found,), _ = run(channel, "watershed", {"threshold": 0.5}, block_shape=(30, 30, 30))
    assert same_partition(found[neurons > 0], ndimage.label(neurons > 0)[0][neurons > 0])


@pytest.mark.slow
def test_labels_do_not_depend_on_workers_nor_on_an_interruption(neurons, store, monkeypatch):
    rng = np.random.default_rng(3)
    affinities = np.clip(affinities_of(neurons, LONG) + rng.normal(0, 0.2, (6, *neurons.shape)), 0, 1)
    volume = store(affinities.astype(np.float32), {"offsets": LONG})
    for method in ("watershed", "mutex_watershed"):
        section = SegmentationSection.model_validate({"method": method, "block_shape": (20, 22, 24), "output": method})
        once = segment(plan_segmentation(volume, section), num_workers=2 if method == "watershed" else 1)
        again = SegmentationSection.model_validate({**section.model_dump(), "output": f"{method}_again"})

        def fail_at_5(block, parameters, original=pipeline.edges_of_block):
            if block.number == 5:
                raise ValueError("broken")
            return original(block, parameters)

        with monkeypatch.context() as patch:
            fail_at_5.__module__, fail_at_5.__qualname__ = pipeline.__name__, "edges_of_block"
            patch.setattr(pipeline, "edges_of_block", fail_at_5)
            with pytest.raises(IncasemError, match="1 of 8 blocks failed"):
                segment(plan_segmentation(volume, again))
        resumed = segment(plan_segmentation(volume, again))
        one, other = (open_volume(result["segmentations"][0]["address"]).read() for result in (once, resumed))
        np.testing.assert_array_equal(one, other)


def test_a_later_stage_is_repeated_without_the_earlier_ones(neurons, store, monkeypatch):
    volume = store(affinities_of(neurons, NEIGHBOURS), {"offsets": NEIGHBOURS})

    def plan(**options):
        return plan_segmentation(volume, SegmentationSection.model_validate({"watershed": options}))

    assert not plan(threshold=0.3).is_finished()
    segment(plan(threshold=0.3))
    assert plan(threshold=0.3).is_finished()
    assert not plan(threshold=0.4).is_finished(overwrite=True)
    with pytest.raises(InputError, match=r"threshold 0.3, but now it is 0.4: add --overwrite"):
        plan(threshold=0.4).is_finished()
    called = []

    def count_calls(name):
        original = getattr(pipeline, name)

        def counted(block, parameters):
            called.append(name)
            return original(block, parameters)

        counted.__module__, counted.__qualname__ = pipeline.__name__, name
        monkeypatch.setattr(pipeline, name, counted)

    count_calls("fragments_of_block")
    count_calls("edges_of_block")
    with pytest.raises(InputError, match="--overwrite"):
        segment(plan(threshold=0.9, scoring="hist_quant_50"))
    segment(plan(threshold=0.0), overwrite=True)
    assert called == []
    segment(plan(threshold=0.0, scoring="hist_quant_50"), overwrite=True)
    assert set(called) == {"edges_of_block"}
    segment(plan(threshold=0.0, seed_distance=30), overwrite=True)
    assert "fragments_of_block" in called


def test_an_empty_volume_has_no_objects(store):
    volume = store(np.zeros((3, 8, 8, 8), np.float32), {"offsets": NEIGHBOURS})
    for method in ("watershed", "connected_components"):
        (found,), result = run(volume, method, {}, block_shape=(4, 4, 4))
        assert not found.any()
        assert result["segmentations"][0]["objects"] == 0


@pytest.mark.parametrize(
    ("attributes", "channels", "method", "message"),
    [
        ({}, 3, "watershed", 'add "offsets"'),
        ({"offsets": NEIGHBOURS}, 2, "watershed", "2 channels, but 3 offsets"),
        ({"offsets": [[-1, 0, 0], [0, -1, 0], [0, 0, -2]]}, 3, "connected_components", "neighbours along x"),
        ({"offsets": "all"}, 3, "watershed", "which are not offsets"),
        ({"offsets": [[0, 0, 0]]}, 3, "watershed", "which are not offsets"),
        ({"offsets": NEIGHBOURS}, 3, "mutex_watershed", "needs affinities of neighbours and longer ones"),
        ({"offsets": NEIGHBOURS}, 3, "hysteresis", "needs boundaries or objects"),
        ({"offsets": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}, 3, "watershed", "correct the sign"),
    ],
)
def test_affinities_that_cannot_be_segmented_are_refused(neurons, store, attributes, channels, method, message):
    volume = store(affinities_of(neurons, NEIGHBOURS)[:channels], attributes)
    with pytest.raises(InputError, match=message):
        plan_segmentation(volume, SegmentationSection(method=method))


def test_the_sign_of_offsets_that_a_network_was_trained_with_is_not_doubted(neurons, store):
    offsets = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    outputs = [{"name": "affinities", "attributes": {"offsets": offsets}}]
    attributes = {"offsets": offsets, "provenance": {"parameters": {"model": {"outputs": outputs}}}}
    volume = store(affinities_of(neurons, NEIGHBOURS), attributes)
    assert plan_segmentation(volume, SegmentationSection()).offsets == ((1, 0, 0), (0, 1, 0), (0, 0, 1))


def test_the_values_of_a_network_that_was_trained_are_checked(store):
    outputs = [{"name": "affinities", "attributes": {"offsets": NEIGHBOURS}}]
    attributes = {"offsets": NEIGHBOURS, "provenance": {"parameters": {"model": {"outputs": outputs}}}}
    with pytest.raises(DataError, match="holds 2 at"):
        plan_segmentation(store(np.full((3, 8, 8, 8), 2, np.float32), attributes), SegmentationSection())


@pytest.mark.parametrize("method", ["connected_components", "hysteresis", "threshold"])
def test_a_store_of_graphs_is_refused_where_no_graph_is_made(store, method):
    volume = store(np.zeros((8, 8, 8), np.float32), {"target": "boundaries"})
    with pytest.raises(InputError, match=f"{method} makes none: leave it out"):
        plan_segmentation(volume, SegmentationSection(method=method, graph="sqlite:////tmp/graph.db"))


def test_values_that_are_not_affinities_and_masks_of_another_grid_are_refused(store):
    volume = store(np.full((3, 8, 8, 8), 2, np.float32), {"offsets": NEIGHBOURS})
    with pytest.raises(DataError, match="holds 2 at"):
        plan_segmentation(volume, SegmentationSection())
    volume = store(np.full((3, 8, 8, 8), 1, np.float32), {"offsets": NEIGHBOURS})
    mask = store(np.ones((4, 8, 8), np.uint8))
    with pytest.raises(DataError, match="but the prediction z"):
        plan_segmentation(volume, SegmentationSection(mask=str(mask.address)))


def test_every_method_has_options_and_a_wrong_one_is_named(tmp_path):
    assert set(METHODS) == {"watershed", "mutex_watershed", "connected_components", "hysteresis", "threshold"}
    config = load_segmentation_config([], ["segmentation.method=hysteresis", "segmentation.hysteresis.low=0.3"])
    assert config.segmentation.chosen.low == 0.3
    assert SegmentationConfig.model_validate(config.model_dump(mode="json")) == config
    for update, message in (
        ("segmentation.method=watersheds", "did you mean 'watershed'"),
        ("segmentation.watershed.threshold=1.5", "a number from 0 to 1"),
        ("segmentation.watershed.scoring=median", "hist_quant_10"),
        ("segmentation.hysteresis.low=0.99", "exchange them"),
        ("segmentation={min_size: 9, max_size: 8}", "min_size is 9 and above max_size 8"),
        ("segmentation.graph=graph.db", "Unknown graph store graph.db: use"),
        ("segmentation.watershed.seeds=3", "Unknown key"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_segmentation_config([], [update])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("/elsewhere", "must be a group inside of"),
        ("../elsewhere", "must be a group inside of"),
        ("data_0", "data_0 is a dataset: name a new group"),
        ("data_1/new", "data_1 is a dataset: name a new group"),
    ],
)
def test_an_output_outside_of_the_container_or_in_a_dataset_is_refused(neurons, store, output, message):
    volume = store(affinities_of(neurons, NEIGHBOURS), {"offsets": NEIGHBOURS})
    store(neurons)
    with pytest.raises(InputError, match=message):
        plan_segmentation(volume, SegmentationSection(output=output))


def test_a_prediction_in_the_place_of_an_output_is_refused(tmp_path):
    volume = create_volume(
        tmp_path / "cell.zarr", "made/segmentation", shape=(3, 8, 8, 8), dtype="uint8", voxel_size=VOXELS, axes="czyx",
        attributes={"offsets": NEIGHBOURS},
    )  # fmt: skip
    volume.mark_complete()
    with pytest.raises(InputError, match=r"would replace the input .*name another segmentation\.output"):
        plan_segmentation(volume, SegmentationSection(output="made"))


def test_a_second_job_on_the_same_output_is_refused_and_changes_nothing(neurons, store, monkeypatch):
    volume = store(affinities_of(neurons, NEIGHBOURS), {"offsets": NEIGHBOURS})

    def plan(output, **options):
        values = {"output": output, "block_shape": (20, 44, 48), "watershed": options}
        return plan_segmentation(volume, SegmentationSection.model_validate(values))

    refused = []

    def beside_another_job(block, parameters, original=pipeline.edges_of_block):
        if parameters["options"]["seed_distance"] is None:
            with pytest.raises(InputError, match=r"Another process is writing .*/shared: wait for it"):
                segment(plan("shared", seed_distance=30), overwrite=True)
            refused.append(block.number)
        return original(block, parameters)

    alone = segment(plan("alone"))
    beside_another_job.__module__, beside_another_job.__qualname__ = pipeline.__name__, "edges_of_block"
    monkeypatch.setattr(pipeline, "edges_of_block", beside_another_job)
    shared = segment(plan("shared"))
    assert refused == [0, 1]
    one, other = (open_volume(result["segmentations"][0]["address"]).read() for result in (alone, shared))
    np.testing.assert_array_equal(one, other)
    assert segment(plan("shared", seed_distance=30), overwrite=True)["fragments"] > 0


def test_fragments_of_another_roi_are_refused(neurons, store):
    affinities = affinities_of(neurons, NEIGHBOURS)
    whole, part = store(affinities, {"offsets": NEIGHBOURS}), store(affinities[:, :20], {"offsets": NEIGHBOURS})
    segment(plan_segmentation(whole, SegmentationSection(output="made")))
    other = plan_segmentation(part, SegmentationSection(output="made"))
    with pytest.raises(InputError, match="--overwrite to replace it, or name another output"):
        segment(other)
    shutil.rmtree(other.folder / "segmentation")  # so that fragments are met first
    with pytest.raises(InputError, match=r"exists already with shape \[40, 44, 48\]"):
        segment(other)


def test_sections_beyond_the_volume_are_named(store, caplog):
    volume = store(np.zeros((3, 8, 8, 8), np.float32), {"offsets": NEIGHBOURS})
    plan_segmentation(volume, SegmentationSection(excluded_sections=(4,)))
    assert not caplog.records
    plan_segmentation(volume, SegmentationSection(excluded_sections=(0, 99)))
    assert "z 3-10: they are absolute indices" in caplog.text


def test_a_graph_that_was_removed_is_missed(neurons, store):
    volume = store(affinities_of(neurons, NEIGHBOURS), {"offsets": NEIGHBOURS})
    segment(plan_segmentation(volume, SegmentationSection()))
    plan = plan_segmentation(volume, SegmentationSection.model_validate({"watershed": {"threshold": 0.4}}))
    shutil.rmtree(plan.graph.nodes)
    with pytest.raises(IncasemError, match="which the graph beside it lacks"):
        segment(plan, overwrite=True)


@pytest.mark.parametrize("method", ["watershed", "connected_components"])
def test_values_that_the_mask_excludes_may_be_anything(neurons, store, method):
    values = affinities_of(neurons, NEIGHBOURS).astype(np.float32)
    mask = np.ones(neurons.shape, np.uint8)
    mask[:4] = 0
    clean, damaged = values.copy(), values.copy()
    clean[:, :4], damaged[:, :4] = 0, np.nan
    address = str(store(mask).address)
    attributes = {"offsets": NEIGHBOURS, "scale": 1}
    (wanted,), _ = run(store(clean, attributes), method, {}, mask=address)
    (found,), _ = run(store(damaged, attributes), method, {}, mask=address)
    assert same_partition(found, wanted)


@pytest.mark.parametrize("components", [None, (0, 1, 2, 9)])
def test_fragments_are_found_from_shape_descriptors(neurons, store, components):
    descriptors = local_shape_descriptors(neurons, sigma=20.0, voxel_size=VOXELS, components=components)
    names = [DESCRIPTOR_NAMES[3][channel] for channel in components or range(10)]
    stored = np.rint(descriptors * 255).astype(np.uint8)
    volume = store(stored, {"target": "lsd", "scale": 255, "channel_names": names})
    options = {"boundary_threshold": 0.1, "seed_distance": 60, "threshold": 0.0}
    (found,), result = run(volume, "watershed", options, block_shape=neurons.shape)
    length = np.linalg.norm(2 * (stored[:3] / 255) - 1, axis=0)
    expected = watershed_fragments(1 - length.clip(max=1), threshold=0.1, seed_distance=60, voxel_size=VOXELS)
    assert result["fragments"] == expected.max() > 8
    assert not found[neurons == 0].any()
    mixed = [len(np.unique(neurons[(found == one) & (neurons > 0)])) for one in np.unique(found[found > 0])]
    assert max(mixed) == 1


def test_descriptors_without_mean_offsets_are_refused(store):
    volume = store(np.zeros((3, 6, 6, 6), np.uint8), {"target": "lsd", "channel_names": ["size", "a", "b"]})
    with pytest.raises(DataError, match="no mean offsets among its 3 channels"):
        plan_segmentation(volume, SegmentationSection())


def test_debris_and_excluded_sections_are_left_out(neurons, store):
    volume = store(affinities_of(neurons, LONG), {"offsets": LONG})
    for method in ("watershed", "mutex_watershed"):
        more = {"block_shape": neurons.shape, "excluded_sections": [4, 13]}  # the first section is number 3
        (found,), _ = run(volume, method, {"remove_debris": 100}, output=f"{method}_without", **more)
        assert not found[[1, 10]].any()
        assert found[[0, 2, 9, 11]].any(axis=(1, 2)).all()
        assert np.bincount(found.ravel())[1:].min() >= 100


@pytest.mark.parametrize("name", ["bias", "noise"])
def test_a_list_must_have_a_value_for_each_offset(neurons, store, name):
    volume = store(affinities_of(neurons, LONG), {"offsets": LONG})
    options = {"method": "mutex_watershed", "mutex_watershed": {name: [0.1, 0.2]}}
    with pytest.raises(InputError, match=f"{name} has 2 values, but there are 6 offsets"):
        plan_segmentation(volume, SegmentationSection.model_validate(options))


def test_thresholds_that_are_almost_equal_have_outputs_of_their_own(neurons, store):
    volume = store(affinities_of(neurons, NEIGHBOURS), {"offsets": NEIGHBOURS})
    plan = plan_segmentation(
        volume, SegmentationSection.model_validate({"watershed": {"threshold": [0.3, 0.3000000001, 0.3]}})
    )
    assert [name.rpartition("_")[2] for name in plan.names().values()] == ["0.3", "0.3000000001"]
    with pytest.raises(ConfigError, match="threshold is an empty list: give at least one"):
        load_segmentation_config([], ["segmentation.watershed.threshold=[]"])


def test_voxels_without_any_attraction_belong_to_no_object(neurons, store):
    affinities = affinities_of(neurons, LONG)
    affinities[:, :, :, :9] = 0
    volume = store(affinities, {"offsets": LONG})
    (found,), _ = run(volume, "mutex_watershed", {}, block_shape=(20, 22, 24))
    attraction = np.zeros(neurons.shape, bool)
    for channel, offset in enumerate(NEIGHBOURS):
        for voxel in np.argwhere(affinities[channel] > 0):
            attraction[tuple(voxel)] = attraction[tuple(voxel + offset)] = True
    np.testing.assert_array_equal(found > 0, attraction)


@pytest.mark.parametrize("block", [(40, 44, 48), (20, 22, 24)])
def test_seeds_do_not_merge_and_keep_their_ids(neurons, store, block):
    seeds = np.zeros(neurons.shape, np.uint64)
    names = {3: 7, 4: 2**40, 5: 9, 6: 12}
    for one, seed in names.items():
        seeds[ndimage.binary_erosion(neurons == one, iterations=2)] = seed
    assert set(np.unique(seeds)) == {0, *names.values()}
    options = {"seeds": str(store(seeds).address)}
    connected = store(np.full((6, *neurons.shape), 0.9, np.float32), {"offsets": LONG})  # no boundary was predicted
    (plain,), _ = run(connected, "mutex_watershed", {}, block_shape=block, output="plain")
    assert (plain == 1).all()
    (found,), result = run(connected, "mutex_watershed", options, block_shape=block)
    np.testing.assert_array_equal(found[seeds > 0], seeds[seeds > 0])
    assert set(np.unique(found)) == set(names.values())
    assert result["segmentations"][0]["objects"] == 4
    separate = store(affinities_of(neurons, LONG), {"offsets": LONG})
    (found,), _ = run(separate, "mutex_watershed", options, block_shape=block)
    labelled = (neurons > 0) & (found > 0)
    assert same_partition(found[labelled], neurons[labelled])
    for one, seed in names.items():
        assert (found[labelled & (neurons == one)] == seed).all()


def test_seeds_of_another_grid_and_negative_ones_are_refused(neurons, store):
    volume = store(affinities_of(neurons, LONG), {"offsets": LONG})
    with pytest.raises(DataError, match="holds the label -1"):
        run(volume, "mutex_watershed", {"seeds": str(store(np.full(neurons.shape, -1, np.int32)).address)})
    seeds = create_volume(volume.container, "seeds", shape=neurons.shape, dtype="uint32", voxel_size=(4, 4, 4))
    seeds.mark_complete()
    options = {"method": "mutex_watershed", "mutex_watershed": {"seeds": str(seeds.address)}}
    with pytest.raises(DataError, match="voxel"):
        plan_segmentation(volume, SegmentationSection.model_validate(options))
