"""Training samples: what they hold, and that they depend on the seed and their number alone."""

import pickle
import random

import numpy as np
import pytest
import torch

from incasem_like.config.training_sections import AugmentationConfig, DisksConfig
from incasem_like.errors import DataError
from incasem_like.samples import TrainingSamples, make_loader
from incasem_like.targets import balance_weights

ARRAYS = ("raw", "labels", "mask", "weight")


def arrays(sample):
    """Return the arrays of a sample by name, the target's among them."""
    return {**sample, **sample["targets"]["classes"]}


def assert_same(one, other):
    for key in ARRAYS:
        np.testing.assert_array_equal(arrays(one)[key], arrays(other)[key])


@pytest.fixture
def samples(cell, make_settings, full_augmentation):
    small = cell.entry("small", offset=(6, 6, 6), shape=(9, 30, 9))
    config = cell.config(cell.entry("large", offset=(4, 4, 4), shape=(32, 36, 40)), small)
    return TrainingSamples(config, make_settings(augmentation=full_augmentation, reject={"min_masked": 0.05}), seed=11)


def test_without_augmentation_a_sample_is_a_crop_with_context_from_beyond_the_region(cell, make_settings):
    entry = cell.entry(offset=(8, 8, 8), shape=(12, 12, 12))
    sample = TrainingSamples(cell.config(entry), make_settings(), seed=1)[0]
    raw = cell.root["volumes/raw"][2:26, 2:26, 2:26].astype(np.float32) / 255
    np.testing.assert_allclose(sample["raw"], raw[None] * 2 - 1, atol=1e-6)
    np.testing.assert_array_equal(sample["labels"], cell.root["volumes/labels/er"][4:16, 4:16, 4:16] > 0)
    assert (sample["mask"] == 1).all()
    assert [arrays(sample)[key].dtype for key in ARRAYS] == [np.float32, np.uint8, np.uint8, np.float32]
    np.testing.assert_array_equal(sample["targets"]["classes"]["target"], sample["labels"])
    np.testing.assert_allclose(sample["info"]["offset"], [2 * 4.6, 10, 10])
    np.testing.assert_allclose(sample["info"]["shape"], [24 * 4.6, 120, 120])
    assert sample["info"]["region"] == 0


def test_what_lies_beyond_a_small_region_does_not_count_as_background(cell, make_settings):
    cell.put("volumes/labels/er", np.ones((32, 36, 40), np.uint8), offset=(4, 4, 4))
    entry = cell.entry(offset=(8, 8, 8), shape=(4, 12, 12))
    sample = TrainingSamples(cell.config(entry), make_settings(), seed=1)[0]
    assert sample["mask"].sum() == 4 * 12 * 12
    assert (sample["mask"][4:8] == 1).all()
    assert (arrays(sample)["weight"] > 0).sum() == 4 * 12 * 12
    np.testing.assert_array_equal(sample["info"]["class_fractions"], [0, 1])


def test_weights_balance_the_classes_inside_the_mask(samples):
    sample = samples[3]
    expected = balance_weights(sample["labels"], sample["mask"], 2, 0.01, 0.99)
    np.testing.assert_array_equal(arrays(sample)["weight"], expected)
    assert sample["raw"].min() >= -1
    assert sample["raw"].max() <= 1


def test_labels_stay_on_the_structures_that_raw_shows(container, make_settings, full_augmentation):
    rng = np.random.default_rng(0)
    blobs = np.kron(rng.random((8, 8, 8)) < 0.5, np.ones((7, 7, 7))).astype(np.uint8)
    container.put("volumes/raw", blobs * 255)
    container.put("volumes/labels/er", blobs)
    settings = make_settings(augmentation=full_augmentation.model_copy(update={"intensity": None}))
    samples = TrainingSamples(
        container.config(container.entry(offset=(10, 10, 10), shape=(36, 36, 36))), settings, seed=2
    )
    for index in range(4):
        sample = samples[index]
        seen = sample["raw"][0, 6:-6, 6:-6, 6:-6] > 0
        counts = sample["mask"] == 1
        assert np.mean(seen[counts] == (sample["labels"][counts] == 1)) > 0.98


def test_a_sample_depends_on_seed_and_number_alone(samples):
    afterwards = [samples[index] for index in (5, 2, 5)]
    assert_same(afterwards[0], afterwards[2])
    copied = pickle.loads(pickle.dumps(samples))
    assert_same(copied[5], afterwards[0])
    assert_same(copied[2], afterwards[1])
    other_seed = TrainingSamples(samples.data_config, samples.settings, seed=12)
    assert not np.array_equal(other_seed[5]["raw"], afterwards[0]["raw"])


def test_what_is_held_in_memory_changes_nothing(samples):
    frugal = TrainingSamples(samples.data_config, samples.settings, samples.seed, memory_bytes=0)
    for index in range(3):
        assert_same(frugal[index], samples[index])


def test_samples_differ_from_each_other(samples):
    raws = [samples[index]["raw"] for index in range(6)]
    assert len({raw.tobytes() for raw in raws}) == 6


def test_making_a_sample_leaves_the_random_state_of_the_process_as_it_was(samples):
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    next(iter(make_loader(samples, stop=1)))
    assert random.random() == random.Random(1).random()
    assert np.random.random() == np.random.RandomState(2).random_sample()
    expected = torch.rand(1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_batches_are_the_same_whatever_the_number_of_workers_and_after_resuming(samples, num_workers):
    options = {"batch_size": 2, "stop": 7, "prefetch": 4}
    alone = list(make_loader(samples, num_workers=0, **options))
    assert len(alone) == 7
    for start in (0, 4):
        loader = make_loader(samples, num_workers=num_workers, start=start, **options)
        for batch, expected in zip(loader, alone[start:], strict=True):
            assert batch["info"]["index"].tolist() == expected["info"]["index"].tolist()
            for key in ARRAYS:
                assert torch.equal(arrays(batch)[key], arrays(expected)[key])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [(1, [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]), (2, [[[0, 2], [4, 6]], [[1, 3], [5, 7]]])],
)
def test_processes_share_the_samples_of_every_part_of_a_batch(samples, parts, expected):
    numbers = [
        [
            batch["info"]["index"].tolist()
            for batch in make_loader(samples, batch_size=4, stop=2, rank=rank, world_size=2, parts=parts)
        ]
        for rank in (0, 1)
    ]
    assert numbers == expected


def test_a_batch_has_the_promised_shapes_and_types(samples):
    batch = arrays(next(iter(make_loader(samples, batch_size=2, stop=1))))
    assert {key: tuple(batch[key].shape) for key in ARRAYS} == {
        "raw": (2, 1, 24, 24, 24), "labels": (2, 12, 12, 12), "mask": (2, 12, 12, 12), "weight": (2, 12, 12, 12),
    }  # fmt: skip
    assert [batch[key].dtype for key in ARRAYS] == [torch.float32, torch.uint8, torch.uint8, torch.float32]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_search_without_success_reaches_the_person_as_one_sentence(cell, make_settings, num_workers):
    settings = make_settings(reject={"min_masked": 0.99, "reject_probability": 1.0})
    samples = TrainingSamples(cell.config(cell.entry(offset=(8, 8, 8), shape=(16, 16, 16))), settings, seed=1)
    with pytest.raises(DataError, match=r"^None of 1000 random blocks") as caught:
        list(make_loader(samples, num_workers=num_workers, stop=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("off", [("simple",), ("elastic",), ("intensity",), ("simple", "elastic", "intensity")])
def test_each_augmentation_can_be_switched_off(cell, make_settings, full_augmentation, off):
    settings = make_settings(augmentation=full_augmentation.model_copy(update=dict.fromkeys(off)))
    sample = TrainingSamples(cell.config(cell.entry(offset=(4, 4, 4), shape=(32, 36, 40))), settings, seed=1)[0]
    assert sample["raw"].shape == (1, 24, 24, 24)


def test_mirroring_and_transposing_reach_every_allowed_orientation_and_no_other(cell, make_settings):
    augmentation = AugmentationConfig(
        simple={"transpose_only": (1, 2), "mirror_only": (0, 2)}, elastic=None, intensity=None
    )
    cell.put("volumes/labels/er", (cell.root["volumes/raw"][:] > 127).astype(np.uint8))
    entry = cell.entry(offset=(8, 8, 8), shape=(12, 12, 12))
    samples = TrainingSamples(cell.config(entry), make_settings(augmentation=augmentation), seed=1)
    block = cell.root["volumes/raw"][2:26, 2:26, 2:26].astype(np.float32) / 255 * 2 - 1
    # The axes are exchanged after mirroring, so x mirrored may end up as y.
    allowed = [
        mirrored.transpose(order)
        for order in ((0, 1, 2), (0, 2, 1))
        for z in (1, -1)
        for x in (1, -1)
        for mirrored in [block[::z, :, ::x]]
    ]
    found = set()
    for index in range(60):
        raw, labels = samples[index]["raw"][0], samples[index]["labels"]
        np.testing.assert_array_equal(labels, raw[6:-6, 6:-6, 6:-6] > 0)
        found |= {number for number, other in enumerate(allowed) if np.allclose(raw, other, atol=1e-6)}
    assert found == set(range(8))


def test_intensity_stays_within_its_limits(container, make_settings):
    raw = np.full((40, 40, 40), 102, np.uint8)
    raw[::2] = 153
    container.put("volumes/raw", raw)
    container.put("volumes/labels/er", np.ones_like(raw))
    augmentation = AugmentationConfig(simple=None, elastic=None)
    samples = TrainingSamples(container.config(container.entry()), make_settings(augmentation=augmentation), seed=1)
    contrasts, shifts = [], []
    for index in range(40):
        seen = (samples[index]["raw"] + 1) / 2
        contrasts.append((seen.max() - seen.min()) / 0.2)
        shifts.append(seen.mean() - 0.5)
    assert 0.85 - 1e-4 <= min(contrasts) < 0.92 < 1.08 < max(contrasts) <= 1.15 + 1e-4
    assert -0.15 - 1e-4 <= min(shifts) < -0.08 < 0.08 < max(shifts) <= 0.15 + 1e-4


def test_anisotropic_blocks_are_deformed_too(cell, make_settings, full_augmentation):
    settings = make_settings((5, 24, 24), (3, 16, 16), augmentation=full_augmentation)
    sample = TrainingSamples(cell.config(cell.entry(offset=(10, 4, 4), shape=(3, 36, 40))), settings, seed=1)[0]
    assert sample["labels"].shape == (3, 16, 16)
    assert sample["mask"].any()


def test_mirrored_blocks_one_section_deep_become_tensors(cell, make_settings):
    mirrored = AugmentationConfig(elastic=None, intensity=None, simple={"transpose_only": [1, 2]})
    settings = make_settings(input_size=(3, 24, 24), output_size=(1, 12, 12), augmentation=mirrored)
    samples = TrainingSamples(cell.config(cell.entry(offset=(8, 8, 8), shape=(12, 24, 24))), settings, seed=2)
    for index in range(8):
        sample = samples[index]
        for key in ARRAYS:
            assert torch.as_tensor(arrays(sample)[key]).shape[-2:] in {(24, 24), (12, 12)}


OFFSETS = [[-1, 0, 0], [-4, 0], [0, 0, 5]]


@pytest.fixture
def neurons(container):
    """Raw and instance ids that are the same, in blobs of 6 voxels, so that one can be read from the other."""
    ids = np.kron(np.random.default_rng(0).integers(0, 200, (8, 8, 8)), np.ones((6, 6, 6))).astype(np.uint64)
    container.put("volumes/raw", ids.astype(np.uint8))
    container.put("volumes/labels/er", ids * 10**12)
    return container


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_affinities_are_computed_on_augmented_labels_larger_than_the_block(
    neurons, make_settings, full_augmentation, memory_bytes
):
    settings = make_settings(
        targets=[{"type": "affinities", "offsets": OFFSETS, "balance": False}],
        augmentation=full_augmentation.model_copy(update={"intensity": None}),
    )
    assert settings.label_context == (1, 5, 5), "y and x may be exchanged"
    entry = neurons.entry(offset=(12, 12, 12), shape=(24, 24, 24))
    samples = TrainingSamples(neurons.config(entry), settings, seed=4, memory_bytes=memory_bytes)
    checked = 0
    for index in range(6):
        sample = samples[index]
        made = sample["targets"]["affinities"]
        assert made["target"].shape == made["weight"].shape == (3, 12, 12, 12)
        ids = sample["instances"]
        assert ids.shape == (12, 12, 12)
        assert set(np.unique(ids % 10**12)) == {0}, "as stored"
        inside = np.pad(sample["mask"], 5)
        padded = np.pad(ids, 5)
        for channel, offset in enumerate([(-1, 0, 0), (0, -4, 0), (0, 0, 5)]):
            there = tuple(slice(5 + step, 17 + step) for step in offset)
            # Pairs that reach beyond the block are known too, but not from the ids of the sample.
            within = np.pad(np.ones_like(ids, dtype=bool), 5)[there]
            same = (ids == padded[there]) & (ids > 0)
            np.testing.assert_array_equal(made["target"][channel][within], same[within])
            np.testing.assert_array_equal(made["weight"][channel][within], (sample["mask"] * inside[there])[within])
            checked += made["weight"][channel][~within].sum()
    assert checked > 0, "pairs across the face of the block count too"


def test_labels_of_classes_alone_carry_no_instance_ids(samples):
    assert "instances" not in samples[0]


def test_several_targets_are_made_of_the_same_block(neurons, make_settings, full_augmentation):
    settings = make_settings(
        targets=["classes", "affinities", {"type": "boundaries", "thickness": 2}], augmentation=full_augmentation
    )
    entry = neurons.entry(offset=(12, 12, 12), shape=(24, 24, 24))
    samples = TrainingSamples(neurons.config(entry), settings, seed=4)
    batch = next(iter(make_loader(samples, batch_size=2, stop=1, num_workers=1)))
    shapes = {name: tuple(made["target"].shape) for name, made in batch["targets"].items()}
    assert shapes == {
        "classes": (2, 12, 12, 12), "affinities": (2, 3, 12, 12, 12), "boundaries": (2, 1, 12, 12, 12),
    }  # fmt: skip
    alone = TrainingSamples(samples.data_config, make_settings(augmentation=full_augmentation), seed=4)[0]
    assert set(batch["targets"]["classes"]) == set(alone["targets"]["classes"])


def test_disks_at_new_places_are_left_of_the_mask_of_each_section(cell, make_settings, full_augmentation):
    config = cell.config(cell.entry(offset=(4, 4, 4), shape=(32, 36, 40), mask="volumes/mask"))

    def samples(**sections):
        augmentation = full_augmentation.model_copy(update=sections)
        return TrainingSamples(config, make_settings(augmentation=augmentation), seed=3)

    sparse, dense = samples(disks=DisksConfig(count=1, radius=2.5)), samples()
    masks = []
    for index in range(3):
        one, whole = sparse[index], dense[index]
        for key in ("raw", "labels"):
            np.testing.assert_array_equal(one[key], whole[key])
        np.testing.assert_array_equal(sparse[index]["mask"], one["mask"])
        assert (one["mask"] <= whole["mask"]).all()
        for section in one["mask"][whole["mask"].all(axis=(1, 2))]:
            pixels = np.argwhere(section)
            assert 5 <= len(pixels) <= 25  # 20 on average; at a corner of the section a quarter of them
            assert np.linalg.norm(pixels[:, None] - pixels, axis=-1).max() <= 5
        assert not arrays(one)["weight"][one["mask"] == 0].any()
        masks.append(one["mask"])
    assert not np.array_equal(masks[0], masks[1])
    assert not all(np.array_equal(masks[0][0], section) for section in masks[0])
