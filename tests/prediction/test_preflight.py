"""predict.py --dry_run: what it says against what then happens, and every problem at once."""

import json
import re

import numpy as np
import pytest

from incasem_like.errors import InputError
from incasem_like.prediction.experiment import examine_prediction
from incasem_like.prediction.outputs import read_begun
from incasem_like.prediction.planning.plan import PredictionPlan
from incasem_like.prediction.planning.tile_size import TileSpeed

SMALL = "prediction.input_size_voxels=[44,44,44]"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def examine(laboratory):
    def examined(config, **options):
        return examine_prediction(config, lambda: [laboratory.training], lambda: laboratory.store, **options)

    return examined


def everything_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "cache" not in path.parts}


@pytest.mark.parametrize("updates", [[], [SMALL], [SMALL, "prediction.output_dtype=uint8"]])
def test_what_it_says_is_what_then_happens(laboratory, examine, predicted, updates):
    config = laboratory.config(None, *updates)
    before = everything_below(laboratory.folder)
    found = examine(config)
    assert found.problems == []
    assert everything_below(laboratory.folder) == before
    said = "\n".join(found.lines)
    tiles, blocks = (int(number) for number in re.search(r"in (\d+) tiles?, (\d+) blocks?;", said).groups())
    size = [int(edge) for edge in re.search(r"a tile reads (\d+) x (\d+) x (\d+)", said).groups()]
    predicted.clear()  # what was measured how fast the network is with
    place = laboratory.predict(config).locations["cell_er"]
    begun = read_begun(place)
    assert list(begun.input_size) == size
    assert begun.done == blocks
    assert len(predicted) == tiles
    assert "train_0001/predict_0001" in said
    assert "Expected time: " in said
    voxels, per_voxel = 25 * 30 * 28, 3 if "prediction.output_dtype=uint8" in updates else 9
    assert f"at most {voxels * per_voxel / 2**10:.3g} KiB on disk" in said


def test_every_problem_is_named_at_once(laboratory, examine, tmp_path):
    entries = {
        "good": laboratory.entry(),
        "missing": laboratory.entry(raw="volumes/nothing"),
        "outside": laboratory.entry(shape=[25, 30, 99]),
    }
    workers = tmp_path / "workers.yaml"
    workers.write_text("launcher: local\ncolour: red\n")
    config = laboratory.config(entries, "torch.device=99", "prediction.checkpoint=7")
    # Whether a GPU has to be here follows from the workers.
    for problems, one in ((examine(config, workers_file=workers).problems, "colour"), (examine(config).problems, "99")):
        assert len(problems) == 4
        for part in ("volumes/nothing", "outside asks for", "no checkpoint '7'", one):
            assert part in "\n".join(problems)
    assert laboratory.store.ids() == []


def test_problems_of_tiles_disk_and_folder_are_found_too(laboratory, examine, monkeypatch):
    problems = examine(laboratory.config(None, "prediction.input_size_voxels=[45,44,44]")).problems
    assert len(problems) == 1
    assert "nearest it can is [44, 44, 44]" in problems[0]
    full = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: full)
    (problem,) = examine(laboratory.config()).problems
    assert "free some, set prediction.output_dtype=uint8" in problem


def test_a_place_that_is_taken_is_a_problem(laboratory, examine):
    config = laboratory.config()
    laboratory.predict(config)
    found = examine_prediction(config, lambda: [laboratory.training], lambda: None)
    assert "already holds a prediction" in found.problems[0]
    assert examine(config).problems == []


def test_what_is_left_of_an_interrupted_prediction_is_said(laboratory, examine, interrupted):
    for workers_file in (None, _workers(laboratory)):
        found = examine(interrupted, resume=1, workers_file=workers_file)
        assert found.problems == []
        said = "\n".join(found.lines)
        left = 18 - int(re.search(r"18 blocks; .*; ([1-4]) blocks are done", said)[1])
        assert f"at most {40 * 80 * 80 * 9 * left / 18 / 2**20:.3g} MiB needed" in said
    config = interrupted
    assert "holds no prediction that was begun" in examine(config, resume=9).problems[0]


def _workers(laboratory, text="count: 4\ncores: 2\n"):
    path = laboratory.folder / "workers.yaml"
    path.write_text(text)
    return path


def test_workers_are_counted_and_their_queue_is_looked_for(laboratory, examine, monkeypatch):
    found = examine(laboratory.config(), workers_file=_workers(laboratory))
    assert found.problems == []
    assert "on 4 workers" in found.lines[-1]
    monkeypatch.setenv("PATH", str(laboratory.folder))
    text = "launcher: slurm\ncount: 4\nscheduler: {listen: 203.0.113.7}\n"
    problems = examine(laboratory.config(), workers_file=_workers(laboratory, text)).problems
    assert any("the program sbatch is missing" in problem for problem in problems)
    assert any("cannot listen on 203.0.113.7" in problem for problem in problems)


def test_a_training_run_that_is_not_there_is_the_only_problem(laboratory):
    def missing():
        raise InputError("There is no training run 9.")

    found = examine_prediction(laboratory.config(), missing, lambda: laboratory.store)
    assert found.problems == ["There is no training run 9."]


@pytest.mark.slow
def test_the_script_prints_it_and_its_status_says_whether_all_is_well(laboratory, run_predict):
    laboratory.config()
    done = run_predict("--run_id", "1", "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "Network: training run 1, iteration 1" in done.stdout
    assert not (laboratory.container / "volumes" / "predictions").exists()
    assert laboratory.store.ids() == []
    laboratory.folder.joinpath("predict.json").write_text(json.dumps({"a": laboratory.entry(raw="no")}))
    done = run_predict("--run_id", "1", "--dry_run")
    assert done.returncode == 2
    assert "Problem: " in done.stdout
    assert "1 problem would stop this prediction" in done.stderr


@pytest.fixture
def wide(laboratory, write_volume):
    """The configuration of a prediction in 18 blocks of one tile each."""
    write_volume(laboratory.container, "volumes/wide", np.ones((40, 80, 80), dtype=np.uint8))
    entry = {**laboratory.entry(raw="volumes/wide"), "offset": None, "shape": None}
    return lambda *updates: laboratory.config({"cell_er": entry}, "prediction.input_size_voxels=[52,52,52]", *updates)


def test_the_time_with_workers_is_that_of_the_one_with_most_blocks(laboratory, wide, examine, monkeypatch):
    monkeypatch.setattr(PredictionPlan, "speed", lambda plan, most_voxels: TileSpeed(0.0, 0.0, per_tile=100.0))
    monkeypatch.setattr("incasem_like.prediction.planning.dry_run._cores", lambda workers: 4)
    assert examine(wide()).lines[-1] == "Expected time: 30 min 0 s on this machine with 1 thread."
    # Of 18 blocks one of four workers does five.
    (said,) = [line for line in examine(wide(), workers_file=_workers(laboratory)).lines if "Expected" in line]
    assert said.startswith("Expected time: 8 min 20 s on 4 workers,")
    assert said.endswith("; 30 min 0 s here alone with 1 thread.")


def test_one_of_a_kind_is_said_as_one(laboratory, examine):
    said = "\n".join(examine(laboratory.config()).lines)
    assert "25 x 30 x 28 voxels in 1 tile, 1 block; a tile reads " in said
    assert "and gives 25 x 30 x 28 voxels." in said
    single = examine(laboratory.config(), workers_file=_workers(laboratory, "count: 1\n")).lines
    assert "on 1 worker," in single[-1]


def test_workers_that_get_too_little_memory_are_a_problem(laboratory, wide, examine):
    launcher = "launcher: command\ncommand: ssh node {command}\ncount: 2\nmemory: "
    (problem,) = examine(wide(), workers_file=_workers(laboratory, f"{launcher}512MiB\n")).problems
    assert "asks for 512 MiB of memory for a worker, but one needs about " in problem
    assert examine(wide(), workers_file=_workers(laboratory, f"{launcher}4GiB\n")).problems == []


def test_the_precision_that_would_be_used_is_said(laboratory, examine):
    updates = "torch.precision=bf16", "prediction.precision_tolerance=0.00001"
    (line,) = [line for line in examine(laboratory.config(None, *updates)).lines if line.startswith("Precision: ")]
    assert line.endswith("predicting in fp32.")
