"""Lineage: what comes from what, read from runs and from what datasets say of themselves."""

from datetime import UTC, datetime
from typing import Any

from incasem_like.tracking.lineage import Lineage, Making, data_key, gather, making_of, split_address, written_by
from incasem_like.tracking.model.summaries import RunSummary

CELL = "/data/cell.zarr"
RAW, LABELS = f"{CELL}/volumes/raw", f"{CELL}/volumes/labels/er"
PREDICTED = f"{CELL}/volumes/predictions/train_0001/predict_0003"
SEGMENTED = f"{CELL}/volumes/segmentations/er"


def run(kind: str, run_id: int, *read: str, **fields: Any) -> RunSummary:
    inputs = tuple({"address": address, "content_hash": "a" * 64} for address in read)
    started = datetime(2026, 1, run_id, tzinfo=UTC)
    return RunSummary(kind, run_id, f"run {run_id}", status="COMPLETED", start_time=started, inputs=inputs, **fields)


TRAINING = run("trainings", 1, RAW, LABELS)
PREDICTION = run(
    "predictions",
    3,
    RAW,
    parents=(("trainings", 1),),
    parent={"training_run_id": 1, "iteration": 500, "sha256": "f" * 64},
    result={"outputs": {"cell": f"{PREDICTED}/segmentation"}, "prediction_id": 3},
)
SEGMENTATION = run("segmentations", 2, f"{PREDICTED}/prob_maps/class_1", result={"address": SEGMENTED})


def links(lineage: Lineage) -> set[tuple[str, str, str]]:
    return {(link.source, link.target, link.label) for link in lineage.links}


def test_data_trainings_predictions_and_segmentations_are_linked() -> None:
    lineage = gather([TRAINING, PREDICTION, SEGMENTATION])
    assert links(lineage) == {
        (data_key(CELL), "trainings/1", "raw, labels/er"),
        (data_key(CELL), "predictions/3", "raw"),
        ("trainings/1", "predictions/3", "checkpoint 500, sha256 ffffffff"),
        ("predictions/3", "segmentations/2", "prob_maps/class_1"),
    }
    assert lineage.nodes["trainings/1"].lines == ("run 1", "COMPLETED 2026-01-01")
    assert lineage.nodes["predictions/3"].details == (f"wrote {PREDICTED}",)
    assert lineage.nodes[data_key(CELL)].title == "cell.zarr"


def test_only_what_belongs_to_a_node_is_around_it() -> None:
    other = run("trainings", 2, "/data/other.zarr/volumes/raw")
    sibling = run("predictions", 4, RAW, parents=(("trainings", 1),))
    lineage = gather([TRAINING, PREDICTION, SEGMENTATION, other, sibling])
    assert set(lineage.around("predictions/3").nodes) == {
        data_key(CELL),
        "trainings/1",
        "predictions/3",
        "segmentations/2",
    }
    assert set(lineage.around("trainings/2").nodes) == {data_key("/data/other.zarr"), "trainings/2"}
    assert "predictions/4" in lineage.around("trainings/1").nodes
    assert set(lineage.around(data_key(CELL)).nodes) == {*lineage.nodes} - {"trainings/2", data_key("/data/other.zarr")}


def test_a_fine_tuning_comes_from_its_training_and_a_missing_parent_is_named() -> None:
    tuned = run("trainings", 2, parents=(("trainings", 1841),), parent={"training_run_id": 1841, "iteration": 95000})
    lineage = gather([tuned])
    assert links(lineage) == {("trainings/1841", "trainings/2", "checkpoint 95000")}
    assert lineage.nodes["trainings/1841"].status == "MISSING"


def test_the_mean_of_several_networks_comes_from_all_of_their_trainings() -> None:
    members = [
        {"training_run_id": 1, "iteration": 500, "sha256": "a" * 64, "weight": 1.0},
        {"training_run_id": 1, "iteration": 2, "sha256": "b" * 64, "weight": 1.0},
        {"training_run_id": 2, "iteration": 300, "sha256": "c" * 64, "weight": 2.0},
    ]
    averaged = run("predictions", 3, parents=(("trainings", 1), ("trainings", 2)), parent={"members": members})
    lineage = gather([TRAINING, averaged])
    assert links(lineage) - {(data_key(CELL), "trainings/1", "raw, labels/er")} == {
        ("trainings/1", "predictions/3", "checkpoint 500, sha256 aaaaaaaa and checkpoint 2, sha256 bbbbbbbb"),
        ("trainings/2", "predictions/3", "checkpoint 300, sha256 cccccccc"),
    }
    place = f"{CELL}/volumes/predictions/ensemble_0001_0001_0002/predict_0003/segmentation"
    assert written_by(place, [averaged]) == "predictions/3"


def test_the_output_of_a_prediction_that_died_is_known_by_its_place() -> None:
    dead = run("predictions", 3, RAW)
    lineage = gather([dead, SEGMENTATION])
    assert ("predictions/3", "segmentations/2", "prob_maps/class_1") in links(lineage)
    assert written_by(f"{PREDICTED}/segmentation", [dead]) == "predictions/3"
    assert written_by(f"{SEGMENTED}", [SEGMENTATION]) == "segmentations/2"
    assert written_by(RAW, [PREDICTION, SEGMENTATION]) is None


def test_a_prediction_that_was_resumed_comes_from_the_one_it_resumed() -> None:
    resumed = run("predictions", 5, RAW, result={"prediction_id": 3})
    assert ("predictions/3", "predictions/5", "resumed") in links(gather([PREDICTION, resumed]))
    parents = (("trainings", 1), ("predictions", 3))
    noted = run("predictions", 5, RAW, parents=parents, parent=PREDICTION.parent, result={"prediction_id": 3})
    found = {link for link in links(gather([TRAINING, PREDICTION, noted])) if link[1] == "predictions/5"}
    assert found == {
        (data_key(CELL), "predictions/5", "raw"),
        ("trainings/1", "predictions/5", "checkpoint 500, sha256 ffffffff"),
        ("predictions/3", "predictions/5", "resumed"),
    }


def test_a_prediction_that_got_another_id_wrote_what_its_first_id_stands_on() -> None:
    """Begun offline as prediction 3, delivered as 5, since 3 was taken by then."""
    place = f"{CELL}/volumes/predictions/train_0009/predict_0003"
    outputs = {"all": f"{place}/segmentation"}
    delivered = run("predictions", 5, RAW, result={"prediction_id": 3, "outputs": outputs})
    runs = [PREDICTION, delivered]
    assert "resumed" not in {label for _, _, label in links(gather(runs))}
    says_3 = Making("predict.py", "predictions/3")
    assert written_by(f"{place}/segmentation", runs, says_3) == "predictions/5"
    assert written_by(f"{CELL}/volumes/elsewhere", runs, says_3) == "predictions/3"


def test_data_that_changed_between_two_runs_is_told_apart() -> None:
    changed = RunSummary("trainings", 2, inputs=({"address": RAW, "content_hash": "c" * 64},))
    labels = {link.target: link.label for link in gather([TRAINING, changed]).links}
    assert labels == {"trainings/1": "raw @aaaaaaaa, labels/er", "trainings/2": "raw @cccccccc"}


def test_regions_of_one_container_are_one_node() -> None:
    regions = tuple(
        {"name": name, "file": CELL, "content_hashes": {RAW: "a" * 64, LABELS: "b" * 64}} for name in ("one", "two")
    )
    assert links(gather([RunSummary("trainings", 1, inputs=regions)])) == {
        (data_key(CELL), "trainings/1", "raw, labels/er")
    }


def test_labels_made_from_a_segmentation_lead_back_to_its_run() -> None:
    pseudo = f"{CELL}/volumes/labels/pseudo"
    makings = {pseudo: Making("boundaries", sources=(SEGMENTED,)), RAW: Making("import_sections")}
    next_round = run("trainings", 2, RAW, pseudo)
    lineage = gather([TRAINING, PREDICTION, SEGMENTATION, next_round], makings)
    assert ("segmentations/2", data_key(pseudo), "boundaries") in links(lineage)
    assert (data_key(pseudo), "trainings/2", "") in links(lineage)
    assert (data_key(CELL), "trainings/2", "raw") in links(lineage)
    before = lineage.around("trainings/2").nodes
    assert {"trainings/1", "predictions/3", "segmentations/2", data_key(pseudo)} < set(before)
    assert lineage.nodes[data_key(CELL)].details == ("raw: import_sections",)


def test_a_dataset_apart_leads_to_what_was_made_of_it() -> None:
    equalized = f"{CELL}/volumes/raw_equalized"
    makings = {equalized: Making("equalize_histogram", sources=(RAW,)), RAW: Making("import_sections")}
    lineage = gather([run("trainings", 1, equalized, LABELS)], makings, apart=[RAW])
    assert links(lineage) == {
        (data_key(RAW), data_key(equalized), "equalize_histogram"),
        (data_key(equalized), "trainings/1", ""),
        (data_key(CELL), "trainings/1", "labels/er"),
    }
    assert lineage.nodes[data_key(RAW)].details == ("raw: import_sections",)


def test_a_container_never_becomes_its_own_ancestor() -> None:
    tuned = run("trainings", 2, SEGMENTED, parents=(("trainings", 1),))
    lineage = gather([TRAINING, PREDICTION, SEGMENTATION, tuned])
    assert lineage.sources(data_key(CELL)) == ()
    assert {link.source for link in lineage.sources("trainings/2")} == {"trainings/1", "segmentations/2"}


def test_datasets_that_name_each_other_do_not_go_round_for_ever() -> None:
    one, other = f"{CELL}/a", f"{CELL}/b"
    makings = {one: Making("copy", sources=(other,)), other: Making("copy", sources=(one,))}
    assert links(gather([run("trainings", 1, one)], makings)) == {(data_key(CELL), "trainings/1", "a")}
    apart = gather([run("trainings", 1, one)], makings, apart=[other])
    assert (data_key(other), data_key(one), "copy") in links(apart)


def test_a_datasets_provenance_names_its_run_and_sources() -> None:
    entries = [{"address": RAW, "content_hash": "x"}]
    assert making_of({"tool": "predict.py", "run_id": 3, "inputs": entries}) == Making(
        "predict.py", "predictions/3", (RAW,)
    )
    assert making_of({"tool": "equalize_histogram", "run_id": None, "inputs": entries}) == Making(
        "equalize_histogram", None, (RAW,)
    )
    assert making_of({"tool": "extract_segmentation_with_threshold", "run_id": 2}) == Making(
        "extract_segmentation_with_threshold", "segmentations/2"
    )
    assert making_of({"tool": "predict.py", "run_id": 0}) == Making("predict.py")
    assert making_of({}) is making_of(None) is None


def test_addresses_are_split_where_the_container_ends() -> None:
    assert split_address(f"{RAW}/") == (CELL, "volumes/raw")
    assert split_address("s3://bucket/x.n5/a/b") == ("s3://bucket/x.n5", "a/b")
    assert split_address("/data/sections") == ("/data/sections", "")
