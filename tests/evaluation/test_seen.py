"""Evaluation knows which voxels a model was trained on, validated on and tuned on."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from incasem_like.commands.cli import answer
from incasem_like.errors import InputError
from incasem_like.evaluation.instance_run import InstanceEvaluation, evaluate_instances_as_run, instance_table, score
from incasem_like.evaluation.instances import Contingency
from incasem_like.evaluation.run_comparison import compare_evaluations, evaluation_of
from incasem_like.evaluation.seen import union_size
from incasem_like.evaluation.threshold_run import ThresholdEvaluation, best_sentence, evaluate_as_run
from incasem_like.tracking import open_store, run_experiment
from incasem_like.volumes import Roi, create_volume, make_provenance, open_volume

SCRIPTS = Path(__file__).parents[2] / "scripts/04_postprocessing"
VOXELS = (10.0, 5.0, 5.0)
SHAPE = (20, 16, 16)
EVERY = 5120


class Project:
    """A training on sections 0-7, validated on 8-9, whose prediction of all sections was segmented."""

    def __init__(self, folder):
        self.folder, self.container = folder, folder / "cell.zarr"
        rng = np.random.default_rng(1)
        self.truth = np.kron(rng.integers(1, 9, (5, 4, 4)), np.ones((4, 4, 4), int)).astype(np.uint32)
        self.write("raw", rng.integers(0, 255, SHAPE).astype(np.uint8))
        self.labels = self.write("labels", self.truth)
        self.start = self.train("start", {})
        self.train("fine", {"parent": {"training_run_id": 1}}, sections=(8, 2), validation=False)
        self.predict()

    def open(self, kind):
        return open_store(None, kind=kind, runs_directory=self.folder / "runs")

    def write(self, name, array, tool="test", inputs=(), run_id=None):
        volume = create_volume(
            self.container, name, shape=array.shape, dtype=array.dtype, voxel_size=VOXELS, chunk_shape=(4, 8, 8),
            provenance=make_provenance(tool, {}, inputs, run_id),
        )  # fmt: skip
        volume.write(array)
        volume.mark_complete()
        return str(volume.address)

    def train(self, name, info, sections=(0, 8), validation=True):
        def entry(begin, depth):
            return {"cell": {"file": str(self.container), "voxel_size": VOXELS, "offset": [begin, 0, 0],
                             "shape": [depth, 16, 16], "raw": "raw", "labels": {"labels": 1}}}  # fmt: skip

        artifacts = {"training_data.json": json.dumps(entry(*sections))}
        if validation:
            artifacts["validation_data.json"] = json.dumps(entry(8, 2))

        def work(run):
            for key, value in info.items():
                run.set_info(key, value)
            run.inputs([{"name": "cell", "file": str(self.container), "content_hashes": {f"{self.container}/raw": ""}}])

        run_experiment(name="train", config={}, main=work, store=self.open("trainings"), artifacts=artifacts)

    def predict(self, training=2):
        def work(run):
            run.set_info("parent", {"training_run_id": training, "sha256": "", "iteration": 1})
            raw = open_volume(self.container, "raw")
            probabilities = np.clip((self.truth > 4) * 200.0 + 20, 0, 255).astype(np.uint8)
            self.probabilities = self.write("probs", probabilities, "predict.py", [raw], run.id)
            return {"outputs": {"cell": self.probabilities}}

        run_experiment(name="predict", config={}, main=work, store=self.open("predictions"))

    def segment(self, name, array, info=()):
        def work(run):
            run.set_info("prediction_run_id", 1)
            for key, value in dict(info).items():
                run.set_info(key, value)
            source = [open_volume(self.container, "probs")]
            return {"address": self.write(name, array, "segment", source, run.id)}

        return run_experiment(name="segment", config={}, main=work, store=self.open("segmentations"))["address"]

    def evaluate(self, *segmentations, **options):
        request = InstanceEvaluation(labels=(self.labels,), segmentations=segmentations, **options)
        return evaluate_instances_as_run(request, store=self.open("evaluations"), open_store=self.open)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_voxels_that_the_model_has_seen_are_refused_left_out_or_marked(project):
    predicted = np.where(np.arange(20)[:, None, None] % 4 == 0, 0, project.truth).astype(np.uint32)
    address = project.segment("seg", predicted)
    with pytest.raises(InputError, match=r"50% of these voxels .* trained on and 10% .*validated on") as caught:
        project.evaluate(address)
    assert "\n" not in str(caught.value)
    assert not project.open("evaluations").summaries()
    unseen = project.evaluate(address, offset=(10, 0, 0), shape=(10, 16, 16))
    assert unseen["scores"][address]["seen"]["held_out"] == "yes"
    expected = score(Contingency.of(project.truth[10:], predicted[10:], begin=(10, 0, 0)))
    rest = project.evaluate(address, seen="leave_out")
    for found in (unseen, rest):
        assert {name: found["scores"][address][name] for name in expected} == expected
    whole = project.evaluate(address, seen="score")
    seen = whole["scores"][address]["seen"]
    assert seen["shares"] == {"trained": 0.5, "selected": 0.1}
    assert seen["lineage"] == ["segmentations/1", "predictions/1", "trainings/2", "trainings/1"]
    assert seen["held_out"] == "NO: 50% trained, 10% selected"
    assert instance_table(whole)[1][-1] == "NO: 50% trained, 10% selected"
    assert whole["scores"][address]["voxels"] == EVERY
    record = project.open("evaluations").get(whole["run_id"])
    assert record.result["scores"][address]["seen"]["boxes"][0]["run"] == "trainings/2"
    assert (record.info["segmentation_run_id"], record.info["prediction_run_id"]) == (1, 1)
    with pytest.raises(InputError, match="has seen all voxels"):
        project.evaluate(address, offset=(0, 0, 0), shape=(6, 16, 16), seen="leave_out")


def test_voxels_that_parameters_were_searched_on_are_seen(project):
    def search(run):
        run.set_info("searched_on", [{"addresses": [project.labels], "begin": [120, 0, 0], "end": [160, 80, 80]}])

    run_experiment(name="search", config={}, main=search, store=project.open("evaluations"))
    address = project.segment("seg", project.truth, {"evaluation_run_id": 1})
    with pytest.raises(InputError, match=r"40% of these voxels are those that its segmentation parameters"):
        project.evaluate(address, offset=(10, 0, 0), shape=(10, 16, 16))


def test_without_a_record_the_lineage_is_unknown(project):
    address = project.write("elsewhere", project.truth)
    assert project.evaluate(address)["scores"][address]["seen"]["held_out"] == "unknown"


def test_probability_maps_are_checked_too(project):
    request = {"labels": project.labels, "prediction_probas": project.probabilities}
    with pytest.raises(InputError, match="trained on"):
        evaluate_as_run(ThresholdEvaluation(**request), store=None, open_store=project.open)
    found = evaluate_as_run(ThresholdEvaluation(**request, seen="leave_out"), store=None, open_store=project.open)
    assert found["voxels"] == EVERY / 2
    assert found["seen"]["shares"] == {"trained": 0.5, "selected": 0.1}
    scored = evaluate_as_run(ThresholdEvaluation(**request, seen="score"), store=None, open_store=project.open)
    assert "Held out: NO: 50% trained" in best_sentence(scored)
    low, high = scored["intervals"]["jaccard"]
    assert low < scored["best"]["value"] < high


def test_the_better_run_is_named(project, capsys):
    rng = np.random.default_rng(2)
    noise = rng.integers(1, 9, SHAPE)
    addresses = [project.segment(name, np.where(rng.random(SHAPE) < right, project.truth, noise).astype(np.uint32))
                 for name, right in (("good", 0.95), ("bad", 0.6))]  # fmt: skip
    part = {"offset": (10, 0, 0), "shape": (10, 16, 16)}
    for address in addresses:
        project.evaluate(address, **part)
    both = project.evaluate(*addresses, **part)
    assert both["comparison"].startswith("cell.zarr/good is better than cell.zarr/bad: voi is lower by")
    store = ["--runs_directory", str(project.folder / "runs")]
    assert answer(["runs", "compare", "1", "2", "--kind", "evaluations", *store]) == 0
    assert "Evaluation run 1 is better than evaluation run 2: voi is lower by" in capsys.readouterr().out
    assert answer(["runs", "compare", "2", "1", "--kind", "segmentations", "--json", *store]) == 0
    verdicts = json.loads(capsys.readouterr().out)["verdicts"]
    assert answer(["runs", "compare", "2", "1", "--kind", "segmentations", "--metric", "rand_index", *store]) == 0
    assert "Segmentation run 1 is better than segmentation run 2: rand_index is higher" in capsys.readouterr().out
    assert len(verdicts) == 1
    assert verdicts[0].startswith("Segmentation run 1 is better than segmentation run 2")
    evaluations = project.open("evaluations")
    records = [evaluation_of(project.open("segmentations").get(number), lambda: evaluations) for number in (1, 2)]
    (found,) = compare_evaluations(records, "voi")
    assert found[2].better == 0
    project.evaluate(addresses[0], seen="score")
    assert answer(["runs", "compare", "2", "4", "--kind", "evaluations", *store]) == 0
    assert "Evaluation runs 2 and 4 scored different voxels" in capsys.readouterr().out
    assert answer(["runs", "compare", "1", "2", "--kind", "evaluations", "--metric", "f1", *store]) == 0
    assert "Evaluation run 1 is better than evaluation run 2: f1 is higher by" in capsys.readouterr().out
    assert answer(["runs", "compare", "1", "2", "--kind", "evaluations", "--metric", "dice", *store]) == 0
    assert "Unknown metric 'dice' of these evaluations: choose one of voi" in capsys.readouterr().out


def test_the_script_refuses_with_status_2_and_marks_on_request(project):
    address = project.segment("seg", project.truth)
    command = [sys.executable, SCRIPTS / "15_evaluate_segmentation.py", "-l", project.labels, "-p", address, "-n", "1",
               "--runs_directory", project.folder / "runs"]  # fmt: skip
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--seen leave_out" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    done = subprocess.run([*command, "--seen", "score"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "NO: 50% trained, 10% selected" in done.stdout


def test_the_union_of_boxes_counts_voxels_once():
    rng = np.random.default_rng(3)
    grid = np.zeros((9, 9, 9), bool)
    boxes = []
    for _ in range(6):
        begin, shape = rng.integers(0, 5, 3), rng.integers(1, 5, 3)
        boxes.append(Roi(begin.tolist(), shape.tolist()))
        grid[boxes[-1].to_slices()] = True
    assert union_size(boxes) == grid.sum()
