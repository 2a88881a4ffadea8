"""Networks that read predictions: trained on random objects, and what they are given is what they were trained on."""

import json
from pathlib import Path

import numpy as np
import pytest

from incasem_like.config import PredictionConfig, TrainingConfig, load_data_config
from incasem_like.errors import ConfigError, DataError
from incasem_like.prediction.experiment import predict_data
from incasem_like.samples import SampleSettings, SyntheticSamples, open_regions
from incasem_like.targets import affinities, local_shape_descriptors
from incasem_like.tracking import open_store
from incasem_like.training.experiment import train
from incasem_like.volumes import create_volume, open_volume

OFFSETS = [[0, -1, 0], [0, 0, -1]]
VALUES = {
    "seed": 1,
    "targets": [{"type": "affinities", "offsets": [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]}],
    "training": {
        "iterations": 2, "input_size_voxels": [5, 20, 20], "output_size_voxels": [5, 20, 20], "save_every": 2,
        "image_every": 1, "snapshot": {"every": 1}, "precache": {"num_workers": 0},
        "synthetic": {
            "objects": "C",
            "input": [
                {"type": "lsd", "sigma": 24, "per_section": True}, {"type": "affinities", "offsets": OFFSETS}
            ],
        },
        "augmentation": {"elastic": None, "intensity": None, "simple": {"transpose_only": [1, 2]}},
    },
    "data": {"voxel_size": [40, 8, 8]},
    "model": {"type": "OneConv3d"},
    "torch": {"device": "cpu"},
}  # fmt: skip


def config_with(**training):
    values = json.loads(json.dumps(VALUES))
    values["training"] |= training
    return TrainingConfig.from_values(values, lambda key: "here")


def settings_and_samples(**training):
    settings = SampleSettings.from_config(config_with(**training))
    return settings, SyntheticSamples(settings, 7)


def test_the_input_is_what_the_targets_make_of_the_objects_and_the_target_is_theirs():
    synthetic = {**VALUES["training"]["synthetic"], "split": 0, "merge": 0, "artefact": 0}
    settings, samples = settings_and_samples(synthetic=synthetic)
    sample = samples[3]
    assert settings.input_channels == 8
    assert sample["raw"].shape == (8, 5, 20, 20)
    ids = sample["instances"]
    # In the middle, farther from the edge than descriptors reach, the block itself is enough.
    described = local_shape_descriptors(ids, 24, (40, 8, 8), axes=(1, 2))
    read = sample["raw"] * 0.5 + 0.5
    np.testing.assert_allclose(read[:6, :, 9:11, 9:11], described[:, :, 9:11, 9:11], atol=1e-5)
    np.testing.assert_array_equal(read[6:, :, 1:, 1:], affinities(ids, OFFSETS)[0][:, :, 1:, 1:])
    target, weight = sample["targets"]["affinities"].values()
    expected = affinities(ids, VALUES["targets"][0]["offsets"])[0]
    np.testing.assert_array_equal(target[:, 1:, 1:, 1:], expected[:, 1:, 1:, 1:])
    assert (weight > 0).all()  # what surrounds the block is known


def test_samples_depend_on_seed_and_number_alone():
    _, samples = settings_and_samples(augmentation={"simple": None, "gaussian_noise": {"probability": 1}, "blur": {}})
    one, other = samples[5], samples[5]
    assert np.array_equal(one["raw"], other["raw"])
    assert not np.array_equal(one["raw"], samples[6]["raw"])
    assert one["raw"].min() >= -1
    assert one["raw"].max() <= 1


def test_faults_are_in_the_input_only():
    faulty = {**VALUES["training"]["synthetic"], "split": 1, "merge": 1, "artefact": 1}
    none = {**faulty, "split": 0, "merge": 0, "artefact": 0}
    (_, with_faults), (_, without) = (settings_and_samples(synthetic=section) for section in (faulty, none))
    assert np.array_equal(with_faults[1]["instances"], without[1]["instances"])
    assert not np.array_equal(with_faults[1]["raw"], without[1]["raw"])


def test_channels_follow_from_the_input_and_contradictions_are_named(tmp_path):
    config = config_with()
    assert config.model.in_channels == 8
    assert config.model.inputs[0].attributes["sigma_voxels"] == [3, 3]
    assert TrainingConfig.from_values(config.model_dump(mode="json"), lambda key: "here") == config
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"set training\.data and validation\.data to null"):
        config_with(data=str(tmp_path / "data.json"))
    values = json.loads(json.dumps(VALUES))
    values["model"]["in_channels"] = 3
    with pytest.raises(ConfigError, match=r"set model.in_channels=8"):
        TrainingConfig.from_values(values, lambda key: "here")


@pytest.fixture
def predictions(tmp_path):
    """Datasets as a prediction writes them: descriptors and affinities of slabs, and their data configuration."""
    labels = np.repeat(np.arange(1, 5), 8)[None, None] * np.ones((6, 30, 1), int)
    described = local_shape_descriptors(labels, 24, (40, 8, 8), axes=(1, 2))
    groups = config_with().model.inputs
    for group, values in zip(groups, (described, affinities(labels, OFFSETS)[0] * 255), strict=True):
        attributes = {key: value for key, value in group.attributes.items() if key != "sigma_voxels"}
        volume = create_volume(
            tmp_path / "cell.zarr", group.name, shape=values.shape, axes="czyx", dtype=values.dtype,
            voxel_size=(40, 8, 8), chunk_shape=(len(values), 6, 30, 32),
            attributes={**attributes, "scale": 1 if values.dtype == np.float32 else 255},
        )  # fmt: skip
        volume.write(values)
        volume.mark_complete()
    return tmp_path


def data_config(folder, **changes):
    entry = {"file": "cell.zarr", "voxel_size": [40, 8, 8], "raw": "lsd", "further_raw": ["affinities"]} | changes
    (folder / "data.json").write_text(json.dumps({"cell": entry}))
    return folder / "data.json"


def test_it_trains_and_predicts_from_several_datasets(predictions):
    runs = predictions / "runs"
    config = config_with().model_copy(
        update={"directories": config_with().directories.model_copy(update={"runs": runs})}
    )
    trainings = open_store(None, kind="trainings", runs_directory=runs)
    finished = train(config, store=lambda: trainings)
    assert finished.result["iteration"] == 2
    record = trainings.get(1)
    assert record.config["model"]["inputs"][0]["attributes"]["sigma_voxels"] == [3, 3]
    values = {
        "directories": {"runs": str(runs), "data": str(predictions)}, "torch": {"device": "cpu"},
        "prediction": {"data": str(data_config(predictions)), "run_id_training": 1, "num_threads": 0},
    }  # fmt: skip
    found = predict_data(PredictionConfig.model_validate(values), record, store=lambda: None)
    place = found.locations["cell"]
    predicted = open_volume(f"{place.container}/{place.group}/affinities")
    assert predicted.shape == (3, 6, 30, 32)
    assert 0 < predicted.read().std() < 1


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"sigma": [40, 40]}, r"has sigma_voxels \[5.0, 5.0\], but the network was trained to read lsd"),
        ({"sigma": None}, "does not say its sigma"),
        ({"channel_names": ["a", "b"]}, "has channel_names"),
    ],
)
def test_another_sigma_or_an_unknown_one_is_refused(predictions, attributes, message):
    open_volume(predictions / "cell.zarr", "lsd", writable=True).update_attributes(attributes)
    config = load_data_config(data_config(predictions), predictions)
    with pytest.raises(DataError, match=message):
        open_regions(config, num_classes=2, voxel_size=(40, 8, 8), need_labels=False, inputs=config_with().model.inputs)


def test_a_missing_dataset_is_named(predictions):
    config = load_data_config(data_config(predictions, further_raw=[]), predictions)
    with pytest.raises(DataError, match="names 1 datasets of raw, but the network reads lsd, affinities"):
        open_regions(config, num_classes=2, voxel_size=(40, 8, 8), need_labels=False, inputs=config_with().model.inputs)


def test_float_values_of_other_dtypes_are_scaled_alike(predictions):
    region = open_regions(
        load_data_config(data_config(predictions), predictions),
        num_classes=2, voxel_size=(40, 8, 8), need_labels=False, inputs=config_with().model.inputs,
    )[0]  # fmt: skip
    read = region.read_raw(region.roi)
    stored = open_volume(predictions / "cell.zarr", "affinities").read()
    np.testing.assert_allclose(read[6:], stored / 255, atol=1e-6)
    assert Path(region.entry.file).name == "cell.zarr"
