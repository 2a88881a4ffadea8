"""Predictions of small volumes, from a tracked training run to datasets on disk."""

import json
import math
import shutil
import threading

import numpy as np
import pytest
import torch
import zarr

from incasem_like.errors import CheckpointError, ConfigError, DataError, InputError
from incasem_like.networks import save_checkpoint
from incasem_like.samples import Region
from incasem_like.tracking import open_store
from incasem_like.tracking.stores.records import choose_checkpoint
from incasem_like.volumes import open_volume

RAW_SHAPE, RAW_BEGIN = (40, 44, 36), (10, -20, 0)
VOXEL_SIZE = (8.0, 4.6, 4.6)
WIDE = (40, 80, 80)  # of the fixture interrupted


def stored(place, dataset):
    return np.asarray(zarr.open(str(place.container), mode="r")[f"{place.group}/{dataset}"])


def test_whole_region_is_predicted_as_the_whole_volume_would_be(laboratory):
    place = laboratory.predict().locations["cell_er"]
    assert place.container == laboratory.container
    assert place.group == "volumes/predictions/train_0001/predict_0001"
    expected = laboratory.one_shot((12, -18, 3), (25, 30, 28))
    maps = np.stack([stored(place, f"prob_maps/class_{c}") for c in range(2)])
    assert maps.dtype == np.float32
    assert np.abs(maps - expected).max() < 1e-5
    segmentation = stored(place, "segmentation")
    assert segmentation.dtype == np.uint8
    np.testing.assert_array_equal(segmentation, maps.argmax(0))
    assert 0 < segmentation.mean() < 1


def test_small_tiles_give_the_same_and_fill_their_chunks(laboratory):
    config = laboratory.config(None, "prediction.input_size_voxels=[44,44,44]")
    place = laboratory.predict(config).locations["cell_er"]
    expected = laboratory.one_shot((12, -18, 3), (25, 30, 28))
    assert np.abs(stored(place, "prob_maps/class_1") - expected[1]).max() < 1e-5


def test_datasets_say_where_they_are_and_where_they_come_from(laboratory):
    place = laboratory.predict().locations["cell_er"]
    volume = open_volume(place.container, place.segmentation)
    assert volume.complete
    assert volume.offset == (96.0, -82.8, 13.8)  # 3 * 4.6 is 13.799999999999999 in binary
    assert volume.voxel_size == VOXEL_SIZE
    provenance = volume.provenance
    assert provenance["run_id"] == 1
    assert provenance["parameters"]["training_run_id"] == 1
    assert provenance["parameters"]["sha256"] == laboratory.training.checkpoint("best").sha256
    assert [entry["address"] for entry in provenance["inputs"]] == [str(laboratory.container / "volumes/raw")]


def test_run_names_its_training_run_checkpoint_inputs_and_outputs(laboratory):
    laboratory.predict(run_name="first")
    record = laboratory.store.get(1)
    assert (record.status, record.name) == ("COMPLETED", "first")
    assert record.parent["training_run_id"] == 1
    assert record.parent["iteration"] == 1
    assert record.config["prediction"]["run_id_training"] == 1
    assert json.loads(record.artifact("prediction_data.json")).keys() == {"cell_er"}
    assert record.inputs[0]["name"] == "cell_er"
    assert record.result["outputs"]["cell_er"].endswith("train_0001/predict_0001/segmentation")


def test_a_second_run_gets_an_id_and_a_place_of_its_own(laboratory):
    assert laboratory.predict().prediction_id == 1
    assert laboratory.predict().locations["cell_er"].group.endswith("predict_0002")


@pytest.mark.parametrize(("which", "iteration"), [(None, 1), ("best", 1), ("last", 2), ("2", 2)])
def test_checkpoint_is_chosen_by_word_or_iteration(laboratory, which, iteration):
    updates = [] if which is None else [f"prediction.checkpoint={which}"]
    place = laboratory.predict(laboratory.config(None, *updates)).locations["cell_er"]
    expected = laboratory.one_shot((12, -18, 3), (25, 30, 28), iteration)
    assert np.abs(stored(place, "prob_maps/class_1") - expected[1]).max() < 1e-5


def test_checkpoint_may_be_a_file_that_the_run_does_not_know(laboratory):
    for parameter in laboratory.network.parameters():
        parameter.data.mul_(0.5)
    save_checkpoint(laboratory.folder / "other.pt", laboratory.network)
    config = laboratory.config(None, f"prediction.checkpoint={laboratory.folder / 'other.pt'}")
    laboratory.predict(config)
    assert laboratory.store.get(1).parent["checkpoint"] == str(laboratory.folder / "other.pt")
    assert laboratory.store.get(1).parent["iteration"] is None


@pytest.mark.parametrize(
    ("which", "sentence"),
    [("7", "has no checkpoint '7': choose best, last"), ("nowhere.pt", r"The checkpoint .*nowhere.pt does not exist")],
)
def test_a_checkpoint_that_is_not_there_is_refused(laboratory, which, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        choose_checkpoint(laboratory.training, which)


def test_changed_checkpoint_is_refused_before_a_run_starts(laboratory):
    path = laboratory.training.checkpoint("best").path
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match=r"is another file \(\d+ bytes, not \d+\)"):
        laboratory.predict()
    with pytest.raises(CheckpointError, match=r"is another file \(\d+ bytes, not \d+\)"):
        laboratory.predict(laboratory.config(None, f"prediction.checkpoint={path}"))
    assert laboratory.store.ids() == []


def test_checkpoint_of_another_architecture_is_refused(laboratory):
    path = laboratory.folder / "other.pt"
    save_checkpoint(path, torch.nn.Conv3d(1, 2, 3))
    with pytest.raises(CheckpointError, match="belongs to another architecture: it lacks unet"):
        laboratory.predict(laboratory.config(None, f"prediction.checkpoint={path}"))


def test_a_network_that_gives_no_numbers_is_told(laboratory):
    with torch.no_grad():
        laboratory.network.final_conv_pass.conv_pass[0].bias[0] = math.nan
    save_checkpoint(laboratory.folder / "diverged.pt", laboratory.network)
    with pytest.raises(CheckpointError, match="NaN or Inf"):
        laboratory.predict(laboratory.config(None, f"prediction.checkpoint={laboratory.folder / 'diverged.pt'}"))
    assert laboratory.store.get(1).status == "FAILED"


def test_without_workers_everything_happens_in_one_thread(laboratory):
    config = laboratory.config(None, "prediction.num_threads=0", "prediction.input_size_voxels=[44,44,44]")
    place = laboratory.predict(config).locations["cell_er"]
    expected = laboratory.one_shot((12, -18, 3), (25, 30, 28))
    assert np.abs(stored(place, "prob_maps/class_1") - expected[1]).max() < 1e-5


def test_tiles_outside_the_mask_are_passed_over_and_stay_zero(laboratory, predicted):
    # The mask is 0 in the first 20 planes of raw, which are 18 of the region's; tiles are 10 planes deep.
    entries = {"cell_er": laboratory.entry(mask="volumes/mask")}
    config = laboratory.config(entries, "prediction.input_size_voxels=[28,44,44]")
    place = laboratory.predict(config).locations["cell_er"]
    assert {int(tile.write_roi.begin[0]) for tile in predicted} == {22, 32}
    maps = np.stack([stored(place, f"prob_maps/class_{c}") for c in range(2)])
    assert not maps[:, :10].any()
    assert np.abs(maps[:, 10:] - laboratory.one_shot((12, -18, 3), (25, 30, 28))[:, 10:]).max() < 1e-5
    assert open_volume(place.container, place.segmentation).complete
    assert laboratory.store.get(1).result["voxels_predicted"] == 25 * 30 * 28


def test_mask_clears_the_segmentation_and_leaves_probabilities(laboratory):
    entries = {"cell_er": laboratory.entry(mask="volumes/mask")}
    place = laboratory.predict(laboratory.config(entries)).locations["cell_er"]
    segmentation, foreground = stored(place, "segmentation"), stored(place, "prob_maps/class_1")
    assert not segmentation[:18].any()
    assert segmentation[18:].any()
    assert (foreground[:18] > 0.5).any()


def test_entries_of_one_container_get_a_group_each(laboratory):
    entries = {"left": laboratory.entry(), "right": laboratory.entry(offset=[12, -18, 5], shape=[25, 30, 31])}
    places = laboratory.predict(laboratory.config(entries)).locations
    assert places["right"].group.endswith("predict_0001/right")
    for name, begin, shape in [("left", (12, -18, 3), (25, 30, 28)), ("right", (12, -18, 5), (25, 30, 31))]:
        expected = laboratory.one_shot(begin, shape)
        assert np.abs(stored(places[name], "prob_maps/class_0") - expected[0]).max() < 1e-5


def test_whole_volume_is_predicted_where_no_offset_and_shape_are_given(laboratory):
    entry = laboratory.entry()
    entry.pop("offset"), entry.pop("shape")
    place = laboratory.predict(laboratory.config({"all": entry})).locations["all"]
    assert np.abs(stored(place, "prob_maps/class_1") - laboratory.one_shot(RAW_BEGIN, RAW_SHAPE)[1]).max() < 1e-5


def test_prefix_moves_the_output_to_another_container_of_that_name(laboratory):
    config = laboratory.config(None, f"prediction.directories.prefix={laboratory.folder / 'elsewhere'}")
    assert laboratory.predict(config).locations["cell_er"].container == laboratory.folder / "elsewhere" / "cell.zarr"


@pytest.mark.parametrize(("dtype", "tolerance"), [("uint8", 0.5 / 255 + 1e-5), ("float16", 1e-3)])
def test_probabilities_may_be_stored_smaller(laboratory, dtype, tolerance):
    place = laboratory.predict(laboratory.config(None, f"prediction.output_dtype={dtype}")).locations["cell_er"]
    volume = open_volume(place.container, place.probability_map(1))
    assert volume.dtype == dtype
    expected = laboratory.one_shot((12, -18, 3), (25, 30, 28))[1]
    assert np.abs(volume.read() / volume.attributes["scale"] - expected).max() <= tolerance


class Recorder:
    """Remembers the tiles it is shown."""

    def __init__(self, region, index, num_classes):
        self.tiles, self.name = {}, f"seen_{index}_{num_classes}"

    def observe(self, roi, probabilities):
        assert tuple(roi.begin) not in self.tiles
        self.tiles[tuple(roi.begin)] = probabilities.copy()

    def scores(self):
        return {self.name: float(sum(tile[0].size for tile in self.tiles.values())), "undefined": math.nan}


def test_scores_of_the_observer_are_tracked_at_the_checkpoints_iteration(laboratory):
    entries = {"cell_er": laboratory.entry(labels={"volumes/labels/er": 1})}
    finished = laboratory.predict(laboratory.config(entries, "prediction.log_metrics=true"), observing=Recorder)
    assert finished.scores == {"seen_0_2": 25 * 30 * 28}
    metric = laboratory.store.get(1).metrics["seen_0_2"]
    assert (metric.steps, metric.values) == ((1,), (25.0 * 30 * 28,))


def test_an_interrupted_prediction_is_incomplete_and_names_the_command_to_resume(laboratory, interrupted):
    assert laboratory.store.get(1).status == "INTERRUPTED"
    place = laboratory.container / "volumes/predictions/train_0001/predict_0001"
    with pytest.raises(DataError, match=r"--resume 1"):
        open_volume(place / "segmentation").read()


def test_resuming_predicts_only_what_is_missing_and_shows_the_observer_all(laboratory, interrupted, predicted):
    finished = laboratory.predict(interrupted, resume=1, observing=Recorder)

    assert finished.prediction_id == 1
    assert laboratory.store.get(2).info["prediction_run_id"] == 1
    assert finished.scores["seen_0_2"] == math.prod(WIDE)
    place = finished.locations["cell_er"]
    assert open_volume(place.container, place.segmentation).complete
    assert 13 < len(predicted) < 18
    assert finished.result["voxels_predicted"] == sum(tile.write_roi.size for tile in predicted)
    again = laboratory.predict(interrupted, resume=1, observing=Recorder)
    assert again.scores == finished.scores
    assert again.result["voxels_predicted"] == 0
    undisturbed = laboratory.predict(interrupted).locations["cell_er"]
    for dataset in ("segmentation", "prob_maps/class_1"):
        np.testing.assert_array_equal(stored(place, dataset), stored(undisturbed, dataset))


def test_a_torn_log_line_costs_one_block_and_nothing_else(laboratory, interrupted, predicted):
    folder = laboratory.container / "volumes/predictions/train_0001/predict_0001"
    path = folder / "segmentation" / ".blocks.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    before = path.read_bytes().count(b"\n") - 1
    laboratory.predict(interrupted, resume=1)
    assert len(predicted) == 18 - before


@pytest.mark.parametrize("left", ["datasets without a log", "half of the datasets", "nothing"])
def test_what_was_killed_while_it_began_is_begun_anew_under_its_number(laboratory, interrupted, left):
    folder = laboratory.container / "volumes/predictions/train_0001/predict_0001"
    (folder / "segmentation" / ".blocks.jsonl").unlink()
    if left == "half of the datasets":
        shutil.rmtree(folder / "segmentation")
    if left == "nothing":
        shutil.rmtree(folder)
    place = laboratory.predict(interrupted, resume=1).locations["cell_er"]
    assert place.folder == folder
    assert open_volume(place.container, place.segmentation).complete
    shutil.rmtree(folder)  # by hand, of a prediction that is finished; its number is not used again
    with pytest.raises(InputError, match="holds no prediction that was begun"):
        laboratory.predict(interrupted.model_copy(), resume=2)


def test_resuming_with_another_checkpoint_is_refused(laboratory, interrupted):
    section = interrupted.prediction.model_copy(update={"checkpoint": "last"})
    with pytest.raises(InputError, match="was begun with checkpoint"):
        laboratory.predict(interrupted.model_copy(update={"prediction": section}), resume=1, observing=Recorder)
    assert laboratory.store.ids() == [1]


def test_resuming_what_was_never_begun_is_refused(laboratory):
    with pytest.raises(InputError, match="holds no prediction that was begun"):
        laboratory.predict(resume=7)
    assert laboratory.store.ids() == []


def test_a_prediction_of_another_store_is_not_overwritten(laboratory):
    laboratory.predict()
    other = open_store(laboratory.folder / "other_store", "predictions", laboratory.runs)
    with pytest.raises(InputError, match="already holds a prediction"):
        laboratory.predict(store=lambda: other)


@pytest.mark.parametrize(
    ("updates", "sentence"),
    [
        (["prediction.input_size_voxels=[45,44,44]"], r"nearest it can is \[44, 44, 44\]"),
        (
            ["prediction.input_size_voxels=[44,44,44]", "prediction.output_size_voxels=[9,9,9]"],
            r"network makes \[26, 26, 26\]",
        ),
        (["prediction.data=null"], "prediction.data is not set"),
        (["torch.device=99"], "torch.device=99 asks for"),
    ],
)
def test_configuration_mistakes_take_no_run_id(laboratory, updates, sentence):
    with pytest.raises(ConfigError, match=sentence):
        laboratory.predict(laboratory.config(None, *updates))
    assert laboratory.store.ids() == []


def test_wrong_voxel_size_and_missing_datasets_take_no_run_id(laboratory):
    with pytest.raises(
        ConfigError,
        match=r"has voxels of 5 5 5 nm, but the network was trained with 8 4.6 4.6 nm: resample .*_size 8 4.6 4.6",
    ):
        laboratory.predict(laboratory.config({"cell_er": laboratory.entry(voxel_size=[5, 5, 5])}))
    with pytest.raises(DataError, match="volumes/nothing"):
        laboratory.predict(laboratory.config({"cell_er": laboratory.entry(raw="volumes/nothing")}))
    with pytest.raises(DataError, match="cell_er asks for"):
        laboratory.predict(laboratory.config({"cell_er": laboratory.entry(shape=[25, 30, 99])}))
    assert laboratory.store.ids() == []


def test_a_training_that_records_no_voxel_size_is_warned_of(laboratory, caplog):
    del laboratory.training.config["data"]["voxel_size"]
    with pytest.raises(ConfigError, match="the network was trained with 5 5 5 nm"):
        laboratory.predict()
    assert "Training run 1 does not record its voxel size: incasem's default is assumed" in caplog.text


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_the_tiles_of_a_block_are_read_by_as_many_threads_as_are_configured(laboratory, monkeypatch, num_threads):
    """A block of four tiles; the threads wait for each other, so that fewer would break the barrier."""
    reading, most, lock = set(), [0], threading.Lock()
    barrier = threading.Barrier(max(1, num_threads), timeout=60)
    original = Region.read_raw

    def read(region, roi, outside="error", fill=0):
        with lock:
            reading.add(threading.get_ident())
            most[0] = max(most[0], len(reading))
        barrier.wait()
        values = original(region, roi, outside, fill)
        with lock:
            reading.discard(threading.get_ident())
        return values

    monkeypatch.setattr(Region, "read_raw", read)
    updates = ["prediction.input_size_voxels=[44,44,44]", "prediction.batch_size=4"]
    averaged = "prediction.test_time_augmentation=mirrors"  # so that tiles are computed together on a CPU too
    entry = laboratory.entry(offset=[12, -18, 4], shape=[16, 30, 28])
    config = laboratory.config({"a": entry}, *updates, averaged, f"prediction.num_threads={num_threads}")
    place = laboratory.predict(config).locations["a"]
    assert most[0] == max(1, num_threads)
    assert open_volume(place.container, place.segmentation).complete
