"""``runs lineage``: from volumes on disk over trainings to predictions, asked in both directions."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands.lab import Lab, at_a_terminal

from incasem_like.volumes import Volume, create_volume, make_provenance, open_volume


def make_dataset(container: Path, dataset: str, tool: str, sources: list[Volume], run_id: int | None = None) -> Volume:
    volume = create_volume(
        container,
        dataset,
        shape=(4, 4, 4),
        dtype=np.uint8,
        voxel_size=(4.0, 4.0, 4.0),
        chunk_shape=(4, 4, 4),
        provenance=make_provenance(tool, {}, sources, run_id),
    )
    volume.write(np.ones((4, 4, 4), np.uint8))
    volume.mark_complete()
    return open_volume(container, dataset)


def described(*volumes: Volume) -> dict[str, object]:
    address = str(volumes[0].address)
    hashes = {str(volume.address): volume.content_hash for volume in volumes}
    return {"name": "cell", "file": address.partition(".zarr")[0] + ".zarr", "content_hashes": hashes}


@pytest.fixture
def whole_way(lab: Lab, tmp_path: Path) -> Lab:
    """Sections to raw to equalised; a training, its prediction, a segmentation, labels made of it, another training."""
    cell = tmp_path / "cell.zarr"
    raw = make_dataset(cell, "volumes/raw", "import_sections", [])
    equalized = make_dataset(cell, "volumes/raw_equalized", "equalize_histogram", [raw])
    labels = make_dataset(cell, "volumes/labels/er", "import_sections", [])
    lab.add(1, name="first", info={"inputs": [described(equalized, labels)]})
    group = "volumes/predictions/train_0001/predict_0001"
    maps = make_dataset(cell, f"{group}/prob_maps/class_1", "predict.py", [equalized], 1)
    lab.add(
        1,
        "predictions",
        name="whole cell",
        info={"inputs": [described(equalized)], "parent": {"training_run_id": 1, "iteration": 500, "sha256": "f" * 64}},
        result={"outputs": {"cell": str(cell / group / "segmentation")}, "prediction_id": 1},
    )
    segmented = make_dataset(cell, "volumes/segmentation", "extract_segmentation_with_threshold", [maps], 1)
    lab.add(
        1,
        "segmentations",
        info={
            "inputs": [{"address": str(maps.address), "content_hash": maps.content_hash}],
            "prediction_run_id": 1,
        },
        result={"address": str(segmented.address)},
    )
    pseudo = make_dataset(cell, "volumes/labels/pseudo", "boundary_labels", [segmented])
    lab.add(2, name="second", info={"inputs": [described(equalized, pseudo)]})
    return lab


def test_a_run_is_asked_where_it_comes_from_and_what_it_led_to(whole_way: Lab, tmp_path: Path) -> None:
    lines = whole_way.ask("runs", "lineage", "predictions/1").output.splitlines()
    assert lines[0] == "prediction 1 whole cell, COMPLETED 2026-01-01"
    assert lines[1].strip().startswith("wrote ")
    origin, outcome = lines.index("comes from"), lines.index("led to")
    before, after = "\n".join(lines[origin:outcome]), "\n".join(lines[outcome:])
    assert "training 1 [checkpoint 500, sha256 ffffffff] first, COMPLETED 2026-01-01" in before
    assert f"cell.zarr [raw_equalized, labels/er] {tmp_path}" in before
    assert "raw_equalized: equalize_histogram from raw" in before
    assert "segmentation 1 [prob_maps/class_1]" in after
    assert "cell.zarr/volumes/labels/pseudo [boundary_labels]" in after
    assert "training 2 second" in after
    assert "training 1" not in after


def test_a_training_on_pseudo_labels_goes_back_to_the_first_training(whole_way: Lab) -> None:
    found = json.loads(whole_way.ask("runs", "lineage", 2, "--json").output)
    assert found["focus"] == "trainings/2"
    keys = [node["key"] for node in found["nodes"]]
    assert {"trainings/1", "predictions/1", "segmentations/1"} < set(keys)
    assert {link["source"] for link in found["links"] if link["target"] == "trainings/2"} == {
        next(key for key in keys if key.endswith("cell.zarr")),
        next(key for key in keys if key.endswith("labels/pseudo")),
    }


def test_a_dataset_names_the_run_that_made_it(whole_way: Lab, tmp_path: Path) -> None:
    written = tmp_path / "cell.zarr/volumes/segmentation"
    assert whole_way.ask("runs", "lineage", written).output.startswith("segmentation 1")
    maps = tmp_path / "cell.zarr/volumes/predictions/train_0001/predict_0001/prob_maps/class_1"
    assert whole_way.ask("runs", "lineage", maps).output.startswith("prediction 1")


def test_raw_data_lead_to_all_that_was_made_of_them(whole_way: Lab, tmp_path: Path) -> None:
    shown = whole_way.ask("runs", "lineage", tmp_path / "cell.zarr/volumes/raw").output
    assert shown.startswith("cell.zarr/volumes/raw")
    assert "comes from: nothing on record" in shown
    for part in ("raw_equalized [equalize_histogram]", "training 1", "prediction 1", "segmentation 1", "training 2"):
        assert part in shown
    labels = whole_way.ask("runs", "lineage", tmp_path / "cell.zarr/volumes/labels/er").output
    assert "training 1" in labels
    container = whole_way.ask("runs", "lineage", tmp_path / "cell.zarr").output
    assert "training 1 [raw_equalized, labels/er]" in container


def test_data_that_are_gone_are_still_on_record(whole_way: Lab, tmp_path: Path) -> None:
    import shutil

    shutil.rmtree(tmp_path / "cell.zarr")
    shown = whole_way.ask("runs", "lineage", tmp_path / "cell.zarr/volumes/raw_equalized").output
    assert "training 1" in shown
    assert "prediction 1" in whole_way.ask("runs", "lineage", 1).output


def test_data_of_a_run_that_was_deleted_name_it(whole_way: Lab, tmp_path: Path) -> None:
    group = "volumes/predictions/train_0001/predict_0035"
    raw = open_volume(tmp_path / "cell.zarr", "volumes/raw_equalized")
    make_dataset(tmp_path / "cell.zarr", f"{group}/segmentation", "predict.py", [raw], 35)
    for asked in (group, f"{group}/segmentation"):
        answered = whole_way.ask("runs", "lineage", tmp_path / "cell.zarr" / asked)
        assert answered.output.startswith("prediction 35")
        assert "not in this store" in answered.output


def test_what_nobody_knows_is_refused(whole_way: Lab, tmp_path: Path) -> None:
    assert "dataset does not exist" in whole_way.refused("runs", "lineage", tmp_path / "other.zarr/volumes/raw")
    assert "There is no training run 9" in whole_way.refused("runs", "lineage", 9)
    assert "There is no evaluation run 1" in whole_way.refused("runs", "lineage", "evaluations/1")
    assert "ends in .svg" in whole_way.refused("runs", "lineage", 1, "--svg", "x.png")


def test_it_is_drawn_for_eyes_and_into_a_file(whole_way: Lab, tmp_path: Path) -> None:
    drawing = tmp_path / "new" / "lineage.svg"
    shown = whole_way.ask("runs", "lineage", 1, "--svg", drawing)
    assert str(drawing) in shown.output
    assert drawing.read_text().startswith("<svg")
    assert shown.output.isascii()
    assert "└─ " in at_a_terminal(whole_way.command("runs", "lineage", 1))
