"""predict.py with a network on sections: each section is what the network makes of it alone."""

import numpy as np
import pytest
import torch
import zarr
from tracked_networks import track_network

from incasem_like.blockwise.workers_file import Workers
from incasem_like.prediction.experiment import examine_prediction, predict_data


@pytest.fixture
def training(laboratory, enliven, monkeypatch, tmp_path):
    """A tracked training of a network on sections."""
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))
    return track_network(laboratory, enliven, downsample_factors=[[2, 2]])


def one_by_one(laboratory, begin, shape):
    """Probabilities of the region, the network applied to one whole mirrored section after the other."""
    network = laboratory.network
    raw = np.asarray(zarr.open(str(laboratory.container), mode="r")["volumes/raw"]) / np.float32(255)
    margin, size = network.geometry.context, network.geometry.input_for_output(raw.shape[1:])
    padding = [(m, s - m - r) for m, s, r in zip(margin, size, raw.shape[1:], strict=True)]
    sections = []
    for section in raw[begin[0] : begin[0] + shape[0]]:
        with torch.no_grad():
            logits = network(torch.from_numpy(np.pad(section, padding, mode="reflect"))[None, None] * 2 - 1)[0]
        whole = torch.softmax(logits, 0).numpy()
        sections.append(whole[:, begin[1] : begin[1] + shape[1], begin[2] : begin[2] + shape[2]])
    return np.stack(sections, axis=1)


@pytest.mark.parametrize(
    ("updates", "workers"),
    [
        ([], None),
        (["prediction.input_size_voxels=[3,28,28]"], None),
        (["prediction.input_size_voxels=[7,32,28]"], Workers.local(2)),
    ],
)
def test_each_section_is_predicted_for_itself(laboratory, training, updates, workers):
    done = predict_data(laboratory.config(None, *updates), training, store=lambda: laboratory.store, workers=workers)
    place = done.locations["cell_er"]
    expected = one_by_one(laboratory, (2, 2, 3), (25, 30, 28))
    group = zarr.open(str(place.container), mode="r")
    for class_id in range(2):
        found = np.asarray(group[place.probability_map(class_id)])
        assert np.abs(found - expected[class_id]).max() < 1e-5
    assert expected.std() > 0.01


def test_no_section_is_read_twice(laboratory, training):
    """A tile of sections reads those that it writes, no more: sections know nothing of their neighbours."""
    found = examine_prediction(laboratory.config(), lambda: [training], lambda: laboratory.store)
    assert found.problems == []
    said = "\n".join(found.lines)
    assert "25 x 30 x 28 voxels in 1 tile, 1 block; a tile reads 25 x " in said


def test_mirrored_positions_are_averaged_within_the_section(laboratory, training):
    config = laboratory.config(None, "prediction.test_time_augmentation=mirrors")
    place = predict_data(config, training, store=lambda: laboratory.store).locations["cell_er"]
    found = np.asarray(zarr.open(str(place.container), mode="r")[place.probability_map(1)])
    plain = one_by_one(laboratory, (2, 2, 3), (25, 30, 28))[1]
    assert 1e-4 < np.abs(found - plain).mean() < 0.2
