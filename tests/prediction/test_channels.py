"""Networks whose channels are no classes: affinities and descriptors, written as the training run describes them."""

import numpy as np
import pytest
import torch
import zarr
from tracked_networks import track_network

from incasem_like.blockwise.workers_file import Workers
from incasem_like.config import load_training_config
from incasem_like.config.network_sections import OutputSection
from incasem_like.errors import ConfigError
from incasem_like.prediction.computing.tiles import activated
from incasem_like.prediction.experiment import examine_prediction, predict_data
from incasem_like.prediction.planning.planner import plan_prediction
from incasem_like.training.preflight import check_network

GROUPS = [
    {"name": "affinities", "channels": 3, "activation": "sigmoid"},
    {"name": "kinds", "channels": 2, "activation": "softmax"},
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def training(laboratory, enliven):
    """A tracked training of a network of five channels, of which three are affinities."""
    return track_network(laboratory, enliven, outputs=GROUPS, num_fmaps_out=5)


def one_shot_logits(laboratory, begin, shape):
    """The network applied once to the whole mirrored volume, cropped."""
    network = laboratory.network.eval()
    raw = np.asarray(zarr.open(str(laboratory.container), mode="r")["volumes/raw"]) / np.float32(255)
    margin, size = network.geometry.context, network.geometry.input_for_output(raw.shape)
    padding = [(m, s - m - r) for m, s, r in zip(margin, size, raw.shape, strict=True)]
    with torch.no_grad():
        whole = network(torch.from_numpy(np.pad(raw, padding, mode="reflect"))[None, None] * 2 - 1)[0].numpy()
    return whole[(slice(None), *(slice(b, b + s) for b, s in zip(begin, shape, strict=True)))]


@pytest.mark.parametrize(("dtype", "scale", "tolerance"), [("float32", 1, 1e-5), ("uint8", 255, 0.51 / 255)])
@pytest.mark.parametrize("workers", [None, Workers.local(2)])
def test_each_group_is_a_dataset_with_its_own_activation(laboratory, training, dtype, scale, tolerance, workers):
    updates = [f"prediction.output_dtype={dtype}", "prediction.input_size_voxels=[44,44,44]"]
    config = laboratory.config(None, *updates)
    done = predict_data(config, training, store=lambda: laboratory.store, workers=workers)
    place = done.locations["cell_er"]
    group = zarr.open(str(place.container), mode="r")[place.group]
    assert sorted(group.array_keys()) == ["affinities", "kinds"]
    logits = one_shot_logits(laboratory, (2, 2, 3), (25, 30, 28))
    expected = {
        "affinities": 1 / (1 + np.exp(-logits[:3])),
        "kinds": np.exp(logits[3:]) / np.exp(logits[3:]).sum(axis=0),
    }
    for name, values in expected.items():
        dataset = group[name]
        assert dataset.shape == (len(values), 25, 30, 28)
        assert dataset.attrs["scale"] == scale
        assert dataset.attrs["complete"]
        assert np.abs(np.asarray(dataset).astype(float) / scale - values).max() < tolerance
        assert values.std() > 0.01
    assert done.result["outputs"]["cell_er"].endswith("predict_0001/affinities")


def test_the_dry_run_says_what_is_written(laboratory, training):
    found = examine_prediction(laboratory.config(), lambda: [training], lambda: laboratory.store)
    assert found.problems == []
    said = "\n".join(found.lines)
    assert "affinities (3 channels) and kinds (2 channels) of float32, at most " in said
    assert f"at most {25 * 30 * 28 * 20 / 2**10:.3g} KiB on disk" in said


def test_metrics_of_classes_are_refused(laboratory, training):
    entries = {"cell_er": laboratory.entry(labels={"volumes/labels/er": 1})}
    with pytest.raises(ConfigError, match="but the network gives affinities, kinds: set it to false"):
        plan_prediction(laboratory.config(entries, "prediction.log_metrics=true"), [training])


def test_channels_that_may_mean_a_direction_are_not_mirrored(laboratory, training):
    with pytest.raises(ConfigError, match="which may mean a direction, as affinities do: set it to none"):
        plan_prediction(laboratory.config(None, "prediction.test_time_augmentation=mirrors"), [training])


def test_without_groups_all_channels_are_classes():
    logits = torch.randn(2, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(activated(logits), torch.softmax(logits, dim=1))
    groups = [OutputSection(name="a", channels=1), OutputSection(name="b", channels=3, activation="softmax")]
    values = activated(logits, groups)
    assert torch.equal(values[:, :1], torch.sigmoid(logits[:, :1]))
    assert torch.allclose(values[:, 1:].sum(dim=1), torch.ones(2, 3, 3, 3))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ("[{name: a, channels: 3}]", "has 3 channels, but model.num_fmaps_out is 2"),
        ("[{name: a, channels: 1}, {name: a, channels: 1}]", "a name twice"),
        ("[{name: prob_maps, channels: 2}]", "those of classes"),
        ("[{name: a/b, channels: 2}]", "letters, digits and underscores"),
        ("[{name: a, channels: 2, activation: tanh}]", "activation"),
    ],
)
def test_groups_that_cannot_be_are_refused_in_a_sentence(outputs, message):
    with pytest.raises(ConfigError, match=message):
        load_training_config([], [f"model.outputs={outputs}"])


def test_such_a_network_is_not_trained():
    config = load_training_config([], ["model.outputs=[{name: boundaries, channels: 2}]"])
    with pytest.raises(ConfigError, match=r"describes boundaries, but loss\.type=cross_entropy_scaling trains classes"):
        check_network(config)
