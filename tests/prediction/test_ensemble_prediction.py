"""Predictions by several networks: exact means, on disk once, resumed, by workers, with all parents on record."""

import hashlib

import numpy as np
import pytest
import torch
import zarr

from incasem_like.config.network_sections import OutputSection
from incasem_like.errors import ConfigError
from incasem_like.networks import build_network, save_checkpoint
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.prediction.outputs import OutputLocation
from incasem_like.tracking import run_experiment
from incasem_like.tracking.lineage import gather

AFFINITIES = (OutputSection(name="affinities", channels=2, activation="sigmoid"),)
TILES = "prediction.input_size_voxels=[44,44,44]"
# Of this network a tile of 52 gives 34 voxels along each axis, which is a chunk too.
WIDE_TILES = "prediction.input_size_voxels=[52,52,52]"


def stored(place, dataset="prob_maps/class_1"):
    return np.asarray(zarr.open(str(place.container), mode="r")[f"{place.group}/{dataset}"])


def chunks(place):
    """Hash of every chunk of a prediction, by its name."""
    files = (path for path in sorted(place.folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(place.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def add_training(laboratory, enliven):
    """Track another training, of another network."""

    def added(iteration=7, **changes):
        config = laboratory.training_config
        sections = {name: getattr(config, name).model_copy(update=update) for name, update in changes.items()}
        config = config.model_copy(update=sections)

        def work(run):
            path = laboratory.runs / "models" / f"{run.id:04d}" / f"model_checkpoint_{iteration}"
            network = enliven(build_network(config.model))
            with torch.no_grad():
                network.final_conv_pass.conv_pass[0].bias[0] -= 0.2
            save_checkpoint(path, network)
            run.register_checkpoint(path, iteration, {"dice_class_1": 0.5})
            return run.id

        run_id = run_experiment(
            name="train", config=config.model_dump(mode="json"), main=work, store=laboratory.training_store
        )
        return laboratory.training_store.get(run_id)

    return added


@pytest.fixture
def other(add_training):
    """A deeper network, of another stride and context."""
    return add_training(model={"downsample_factors": ((3, 3, 3),), "num_fmaps": 3})


def test_of_one_run_it_is_that_runs_prediction_byte_for_byte(laboratory):
    alone = laboratory.predict(laboratory.config(None, TILES)).locations["cell_er"]
    of_one = laboratory.predict(laboratory.config(None, TILES, "prediction.weights=[0.3]")).locations["cell_er"]
    assert of_one.group.endswith("train_0001/predict_0002")
    assert chunks(alone) == chunks(of_one)


def test_of_two_checkpoints_it_is_the_mean_of_both_float_predictions(laboratory):
    alone = [
        laboratory.predict(laboratory.config(None, TILES, f"prediction.checkpoint={iteration}")).locations["cell_er"]
        for iteration in (1, 2)
    ]
    config = laboratory.config(None, TILES, "prediction.checkpoint=[1,2]", "prediction.weights=[3,1]")
    both = laboratory.predict(config, further=[laboratory.training]).locations["cell_er"]
    assert both.group == "volumes/predictions/ensemble_0001_0001/predict_0003"
    for dataset in ("prob_maps/class_0", "prob_maps/class_1"):
        first, second = (stored(place, dataset).astype(np.float64) for place in alone)
        assert np.abs(first - second).max() > 0.01
        np.testing.assert_array_equal(stored(both, dataset), ((3 * first + second) / 4).astype(np.float32))
    maps = np.stack([stored(both, f"prob_maps/class_{number}") for number in range(2)])
    np.testing.assert_array_equal(stored(both, "segmentation"), maps.argmax(0))


def test_other_architectures_are_averaged_and_all_parents_named(laboratory, other):
    alone = [laboratory.predict().locations["cell_er"], None]
    alone[1] = laboratory.predict(laboratory.config(None, "prediction.run_id_training=2"), training=other).locations[
        "cell_er"
    ]
    both = laboratory.predict(further=[other]).locations["cell_er"]
    expected = np.mean([stored(place).astype(np.float64) for place in alone], axis=0)
    assert np.abs(stored(both) - expected).max() < 1e-5

    record = laboratory.store.get(3)
    assert record.config["prediction"]["run_id_training"] == [1, 2]
    assert [(one["training_run_id"], one["iteration"]) for one in record.parent["members"]] == [(1, 1), (2, 7)]
    assert [one["sha256"] for one in record.parent["members"]] == [
        laboratory.training.checkpoint("best").sha256,
        other.checkpoint("best").sha256,
    ]
    assert record.result["training_run_id"] == [1, 2]
    summaries = [*laboratory.training_store.summaries(), *laboratory.store.summaries(inputs=True)]
    sources = {link.source for link in gather(summaries).links if link.target == "predictions/3"}
    assert {"trainings/1", "trainings/2"} <= sources


def test_channels_that_stand_for_themselves_are_averaged_too(laboratory, add_training):
    trainings = [
        add_training(iteration, model={"outputs": AFFINITIES, "num_fmaps": number})
        for iteration, number in ((5, 2), (6, 3))
    ]
    alone = [laboratory.predict(training=training).locations["cell_er"] for training in trainings]
    both = laboratory.predict(training=trainings[0], further=trainings[1:]).locations["cell_er"]
    assert both.main == "volumes/predictions/ensemble_0002_0003/predict_0003/affinities"
    first, second = (stored(place, "affinities").astype(np.float64) for place in alone)
    assert np.abs(first - second).max() > 0.01
    assert np.abs(stored(both, "affinities") - (first + second) / 2).max() < 1e-5


def test_the_order_of_the_runs_does_not_matter(laboratory, other):
    first = laboratory.predict(laboratory.config(None, "prediction.weights=[3,1]"), further=[other])
    second = laboratory.predict(
        laboratory.config(None, "prediction.weights=[1,3]"), training=other, further=[laboratory.training]
    )
    np.testing.assert_array_equal(stored(first.locations["cell_er"]), stored(second.locations["cell_er"]))


def test_the_mean_is_rounded_once(laboratory):
    exact = laboratory.predict(
        laboratory.config(None, TILES, "prediction.checkpoint=[1,2]"), further=[laboratory.training]
    )
    small = laboratory.predict(
        laboratory.config(None, TILES, "prediction.checkpoint=[1,2]", "prediction.output_dtype=uint8"),
        further=[laboratory.training],
    )
    expected = np.rint(stored(exact.locations["cell_er"]) * np.float32(255)).astype(np.uint8)
    np.testing.assert_array_equal(stored(small.locations["cell_er"]), expected)


def test_interrupted_it_goes_on_and_predicts_what_is_missing(laboratory, monkeypatch):
    config = laboratory.config({"cell_er": laboratory.wide_entry()}, WIDE_TILES, "prediction.checkpoint=[1,2]")
    whole = laboratory.predict(config, further=[laboratory.training])
    calls, original = [], TiledPredictor.predict_parts

    def interrupting(self, read, tiles, depth=None):
        calls.append(self)
        if len(calls) == 12:  # two networks for each block
            raise KeyboardInterrupt
        return original(self, read, tiles, depth)

    with monkeypatch.context() as patch:
        patch.setattr(TiledPredictor, "predict_parts", interrupting)
        with pytest.raises(KeyboardInterrupt):
            laboratory.predict(config, further=[laboratory.training])
    finished = laboratory.predict(config, further=[laboratory.training], resume=2)
    assert 0 < finished.result["voxels_predicted"] < whole.result["voxels_predicted"]
    assert chunks(finished.locations["cell_er"]) == chunks(whole.locations["cell_er"])
    assert laboratory.store.get(3).info["prediction_run_id"] == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"voxel_size": (4.0, 4.0, 4.0)}}, r"run 1 .* voxels of \[8.0, 4.6, 4.6\] nm, run 2 .* \[4.0, 4.0"),
        (
            {"model": {"num_fmaps_out": 3}, "data": {"num_classes": 3}, "loss": {"weight": (1.0, 1.0, 1.0)}},
            r"2 classes with background, run 2 with 3 classes with background \(data.num_classes\)",
        ),
        ({"data": {"downsample_factor": 2}}, r"every 1. voxel, run 2 with every 2. voxel"),
        (
            {"model": {"outputs": AFFINITIES}},
            r"classes as outputs, run 2 with affinities \(2, sigmoid\) as outputs \(model.outputs\)",
        ),
    ],
)
def test_networks_that_do_not_mean_the_same_are_refused(laboratory, add_training, changes, sentence):
    further = add_training(**changes)
    with pytest.raises(ConfigError, match=sentence):
        laboratory.predict(further=[further])
    assert laboratory.store.ids() == []


@pytest.mark.parametrize(
    ("update", "sentence"),
    [
        ("prediction.weights=[1,2,3]", "prediction.weights lists 3 values for 2 training runs"),
        ("prediction.checkpoint=[best,last,1]", "prediction.checkpoint lists 3 values for 2 training runs"),
    ],
)
def test_weights_and_checkpoints_are_as_many_as_runs(laboratory, update, sentence):
    with pytest.raises(ConfigError, match=sentence):
        laboratory.predict(laboratory.config(None, update), further=[laboratory.training])
    assert laboratory.store.ids() == []


def test_the_script_takes_several_runs_and_says_what_it_would_do(laboratory, other, run_predict):
    laboratory.config()
    flags = ("--run_id", "1", "--run_id", "2", "--checkpoint", "last", "7", "--weights", "2", "1")
    examined = run_predict(*flags, "--dry_run")
    assert examined.returncode == 0, examined.stderr
    assert "Network: training run 1, iteration 2" in examined.stdout
    assert "Network: training run 2, iteration 7" in examined.stdout
    assert laboratory.store.ids() == []
    done = run_predict(*flags)
    assert done.returncode == 0, done.stderr
    assert "Prediction run 1 with training run 1, iteration 2" in done.stdout
    assert "ensemble_0001_0002/predict_0001" in done.stdout
    members = laboratory.store.get(1).parent["members"]
    assert [(one["iteration"], one["weight"]) for one in members] == [(2, 2.0), (7, 1.0)]


@pytest.mark.slow
def test_workers_write_the_bytes_that_one_process_writes(laboratory, run_predict, tmp_path):
    laboratory.config({"cell_er": laboratory.wide_entry()})
    workers = tmp_path / "workers.yaml"
    workers.write_text("count: 2\ncores: 1\n")
    for flags in ((), ("--workers", str(workers))):
        done = run_predict("--run_id", "1", "1", "--checkpoint", "1", "2", *flags, updates=[WIDE_TILES])
        assert done.returncode == 0, done.stderr
    places = [
        OutputLocation(laboratory.container, f"volumes/predictions/ensemble_0001_0001/predict_{number:04d}")
        for number in (1, 2)
    ]
    assert len(chunks(places[0])) > 10
    assert chunks(places[0]) == chunks(places[1])
    assert len(laboratory.store.get(2).parent["members"]) == 2
