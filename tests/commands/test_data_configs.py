"""Data configurations made from datasets on disk, and their reports, compared with counts of the arrays."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.measure import label

from incasem_like.commands.data_configs import (
    Datasets,
    check_entries,
    shared_voxels,
    split_entry,
    suggest_entry,
    write_contact_sheet,
    write_data_configs,
)
from incasem_like.config import load_data_config
from incasem_like.errors import DataError, InputError
from incasem_like.volumes import create_volume, open_volume

NAMES = Datasets(raw="raw", labels=("labels/er", "labels/mito"), mask="mask")


def write(container: Path, name: str, array: np.ndarray, begin: tuple[int, ...] = (0, 0, 0)) -> None:
    offset = [4 * first for first in begin]
    volume = create_volume(
        container, name, shape=array.shape, dtype=array.dtype, voxel_size=(4,) * 3, offset=offset, chunk_shape=(8,) * 3
    )
    volume.write(array)
    volume.mark_complete()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    blobs = np.kron(rng.random((4, 5, 6)) > 0.7, np.ones((5, 5, 5), bool))
    mito = np.zeros((20, 25, 30), np.uint32)
    mito[2:5, 3:9, 20:29] = 3
    mask = np.ones((20, 25, 30), np.uint8)
    mask[:, :3] = 0
    return {"labels/er": blobs.astype(np.uint8), "labels/mito": mito * ~blobs, "mask": mask}


@pytest.fixture
def cell(tmp_path, arrays):
    container = tmp_path / "cell.zarr"
    write(container, "raw", np.random.default_rng(1).integers(0, 256, (40, 45, 32)).astype(np.uint8))
    for name, array in arrays.items():
        write(container, name, array, (10, 10, 1))
    return container


def test_the_region_is_where_all_overlap_with_context_where_there_is_enough(cell):
    entry = suggest_entry(cell, NAMES, 12)
    assert (list(entry.roi.begin), list(entry.roi.shape)) == ([12, 12, 1], [16, 21, 30])  # x has no room for context
    assert entry.document() == {
        "file": str(cell),
        "offset": [12, 12, 1],
        "shape": [16, 21, 30],
        "voxel_size": [4, 4, 4],
        "raw": "raw",
        "labels": {"labels/er": 1, "labels/mito": 2},
        "mask": "mask",
    }
    assert tuple(suggest_entry(cell, Datasets(raw="raw"), 12).roi.shape) == (40, 45, 32)  # of a prediction


def test_datasets_that_do_not_fit_together_are_refused(cell):
    write(cell, "far", np.ones((4, 4, 4), np.uint8), (100, 0, 0))
    with pytest.raises(DataError, match=r"do not overlap .*far: z 100-103"):
        suggest_entry(cell, Datasets(raw="raw", labels=("far",)), 0)
    other = create_volume(cell, "fine", shape=(4, 4, 4), dtype="uint8", voxel_size=(2, 2, 2))
    other.write(np.ones((4, 4, 4), np.uint8))
    other.mark_complete()
    with pytest.raises(DataError, match="voxels of 2 2 2 nm"):
        suggest_entry(cell, Datasets(raw="raw", labels=("fine",)), 0)


def test_the_parts_do_not_touch_and_validation_is_the_more_typical_end(cell, arrays):
    entry = suggest_entry(cell, NAMES, 0)
    labels = [open_volume(cell, name) for name in NAMES.labels]
    train, validation = split_entry(entry, labels, 0.2, 5)
    assert entry.roi.contains(train.roi)
    assert entry.roi.contains(validation.roi)
    assert validation.roi.shape[2] == 6
    assert train.roi.shape[2] == 30 - 6 - 5
    low, high = sorted([train.roi, validation.roi], key=lambda roi: roi.begin[2])
    assert high.begin[2] - low.end[2] == 5
    share = [(arrays[name] > 0).mean((0, 1)) for name in NAMES.labels]
    along = sum(share)
    near_begin = abs(along[:6].mean() - along.mean()) < abs(along[-6:].mean() - along.mean())
    assert (validation.roi.begin[2] == entry.roi.begin[2]) == near_begin
    for wrong in (0, 1, 0.95):
        with pytest.raises(InputError, match="cannot be split"):
            split_entry(entry, labels, wrong, 5)


def test_the_report_counts_what_is_there(cell, arrays, tmp_path):
    entry = suggest_entry(cell, NAMES, 0)
    write_data_configs([(tmp_path / "data.json", [entry])], False)
    [report] = check_entries([tmp_path / "data.json"])
    inside = arrays["mask"] > 0
    er, mito = (arrays[name] > 0 for name in NAMES.labels)
    assert report.voxels == inside.sum()
    assert report.classes == {0: (inside & ~er & ~mito).sum(), 1: (inside & er).sum(), 2: (inside & mito).sum()}
    count = [label(arrays[name].astype(int), connectivity=1, return_num=True)[1] for name in NAMES.labels]
    assert report.objects == {1: count[0], 2: count[1]}
    assert report.context == ((10, 10), (10, 10), (1, 1))
    text = "\n".join(report.lines())
    assert "z 10 and 10" in text
    assert f"{count[0]} connected objects" in text
    with pytest.raises(InputError, match="exists already"):
        write_data_configs([(tmp_path / "data.json", [entry])], False)


def test_shared_voxels_of_two_files_are_named(cell, tmp_path):
    entry = suggest_entry(cell, NAMES, 0)
    train, validation = split_entry(entry, [open_volume(cell, name) for name in NAMES.labels], 0.3, 2)
    for name, entries in {"a": [train], "b": [validation], "c": [entry]}.items():
        write_data_configs([(tmp_path / f"{name}.json", entries)], False)
    assert not [*shared_voxels(check_entries([tmp_path / "a.json", tmp_path / "b.json"]))]
    [sentence] = shared_voxels(check_entries([tmp_path / "b.json", tmp_path / "c.json"]))
    assert f"share {validation.roi.size} voxels" in sentence


def test_the_contact_sheet_shows_each_entry(cell, tmp_path):
    entry = suggest_entry(cell, NAMES, 0)
    write_data_configs([(tmp_path / "data.json", [entry])], False)
    reports = check_entries([tmp_path / "data.json"])
    write_contact_sheet(reports, tmp_path / "one.png")
    write_contact_sheet(reports * 2, tmp_path / "two.png")
    one, two = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"), int) for name in ("one", "two"))
    assert two.shape[0] == 2 * one.shape[0]
    assert (np.ptp(one, axis=-1) > 30).any()  # classes are coloured


@pytest.mark.slow
def test_from_the_command_line(cell, tmp_path):
    import subprocess
    import sys

    stage = Path(__file__).parents[2] / "scripts/01_data_formatting"

    def run(script, *words):
        return subprocess.run(
            [sys.executable, str(stage / script), *map(str, words)], cwd=tmp_path, capture_output=True, text=True
        )

    flags = ("-f", "cell.zarr", "-r", "raw", "-l", "labels/er", "labels/mito", "--mask", "mask", "--context", 2)
    made = run("make_data_config.py", *flags, "-o", "d.json", "--validation", 0.2, "--gap", 3)
    assert made.returncode == 0, made.stderr
    assert "d_validation.json" in made.stdout
    assert load_data_config(tmp_path / "d_validation.json").entries[0].name == "cell_validation"
    assert json.loads((tmp_path / "d.json").read_text())["cell_train"]["mask"] == "mask"
    checked = run("check_data_config.py", "d.json", "d_validation.json", "-o", "sheet.png", "-n", 1)
    assert checked.returncode == 0, checked.stderr
    assert "class 2 (labels/mito)" in checked.stdout
    assert "Warning" not in checked.stdout
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    missing = run("check_data_config.py", "none.json")
    assert missing.returncode == 2
    assert "none.json" in missing.stderr
    refused = run("make_data_config.py", *flags, "-o", "d.json")
    assert refused.returncode == 2
    assert "exists already" in refused.stderr
    split = ("--gap", 3, "--validation", 0.2, "--validation_output", "d_validation.json")
    for wrong, sentence in (
        (("-o", "new.json", *split), "d_validation.json exists already"),
        (("-o", "same.json", *split[:-1], "same.json"), "would hold both"),
        (("-o", "gap.json", "--validation", 0.2, "--gap", -9), "at least 0"),
        (("-o", "nan.json", "--validation", "nan"), "not a finite number"),
        (("-o", "twice.json", "-l", "labels/er", "labels/er"), "labels/er twice"),
    ):
        refused = run("make_data_config.py", *flags, *wrong)
        assert (refused.returncode, sentence in refused.stderr) == (2, True), refused.stderr
        assert not (tmp_path / wrong[1]).exists()
