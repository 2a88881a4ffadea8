"""What a round runs, resumes and repeats; with steps that only note that they ran, and paint for real."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from bootstrapping_laboratory import make_round, store, write

from incasem_like.bootstrapping import round_run, steps
from incasem_like.bootstrapping.plan import RoundPlan
from incasem_like.bootstrapping.round_run import earlier_rounds, parent_results, plan_steps, run_round
from incasem_like.bootstrapping.settings import load_round_config
from incasem_like.errors import ConfigError, DataError, InputError
from incasem_like.pretrained.foreign import ForeignRun, blank_document
from incasem_like.pretrained.importing import Importer
from incasem_like.tracking.kinds import kind_named
from incasem_like.tracking.lineage import gather
from incasem_like.volumes import open_volume


class Killed(BaseException):
    """Ends a process without any clean-up of its own."""


@pytest.fixture
def laboratory(tmp_path, monkeypatch):
    """A round whose steps but the painting note their name and return what they were given."""
    return Laboratory(tmp_path, monkeypatch)


class Laboratory:
    def __init__(self, folder, monkeypatch):
        self.folder, self.path, self.ran, self.killed_in = folder, make_round(folder), [], None
        noting = tuple(
            step if step.name == "painting" else dataclasses.replace(step, run=self.noting(step.name), kind=None)
            for step in steps.STEPS
        )
        for module in (steps, round_run):
            monkeypatch.setattr(module, "STEPS", noting)

    def noting(self, name):
        def run(work):
            if self.killed_in == name:
                raise Killed
            self.ran.append(name)
            before = {one: result.get("value") for one, result in work.results.items()}
            if "paint" in name:
                (self.folder / "places.csv").write_text("rank,z,y,x,height,width,error\n")
            return {"value": len(before), "key": work.key, **({"folder": str(self.folder)} if "paint" in name else {})}

        return run

    def plan(self, *updates, parent=None):
        config = load_round_config([self.path], updates)
        known = {} if parent is None else parent_results(store(self.folder).get(parent))
        return RoundPlan(config, known, parent, self.folder)

    def run(self, *updates, parent=None, **options):
        self.ran.clear()
        plan = self.plan(*updates, parent=parent)
        return run_round(plan, store=store(self.folder), command=["python"], **options)


DEPENDENTS = ["segmentation", "selection", "pseudo_truth", "model", "prediction", "final_segmentation", "errors",
              "evaluation", "where_to_paint"]  # fmt: skip


def test_all_steps_run_once_and_the_same_command_again_runs_none(laboratory):
    finished = laboratory.run()
    assert laboratory.ran == [step for step in steps.NAMES if step not in ("painting", "second_prediction")]
    assert store(laboratory.folder).get(1).status == "COMPLETED"
    again = laboratory.run()
    assert again.was_complete
    assert again.run_id == finished.run_id
    assert laboratory.ran == []


def test_a_killed_round_resumes_in_its_own_run(laboratory):
    laboratory.killed_in = "pseudo_truth"
    with pytest.raises(Killed):
        laboratory.run()
    laboratory.killed_in = None
    assert laboratory.run().run_id == 1
    assert laboratory.ran == DEPENDENTS[2:]


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ("segmentation.methd=watershed", "methd"),
        ("final_segmentation={watershed.threshold: 2}", "final_segmentation|watershed.threshold"),
        ("selection.choices={min_sise: [1]}", "min_sise"),
        ("selection.choices={min_size: [1, -1]}", "min_size"),
        ("selection.choices={min_size: 3}", "give a list of values to try"),
        ("model.prediction={prediction.tile: 3}", "model.prediction"),
        ("model.values.training.output_size_voxels=[4, 30, 30]", r"model\.values: training\.output_size_voxels"),
        ("sparse_model.values.validation.output_size_voxels=[4, 30, 30]", "sparse_model.values: validation"),
    ],
)
def test_wrong_options_of_later_steps_are_refused_before_anything_runs(laboratory, update, message):
    with pytest.raises(ConfigError, match=message):
        laboratory.run(update)
    assert laboratory.ran == []
    assert store(laboratory.folder).ids() == []


def test_each_combination_of_choices_is_segmented_and_all_compete(tmp_path):
    choices = "selection.choices={min_size: [1, 2], watershed.scoring: [mean, hist_quant_50]}"
    config = load_round_config([make_round(tmp_path)], [choices])
    plan, given = RoundPlan(config, {}, None, tmp_path), []

    def script(kind, words, resume, key):
        given.append(yaml.safe_load(Path(words[-1]).read_text())["segmentation"])
        return {"run_id": len(given), "result": {"segmentations": [{"address": f"{given[-1]['output']}/segmentation"}]}}

    before = {"affinities_prediction": {"affinities": ["affinities"]}}
    work = steps.Work(plan, "segmentation_key", before, script, lambda run_id: ([], None))
    found = next(step for step in steps.STEPS if step.name == "segmentation").run(work)
    tried = [(one["min_size"], one["watershed"]["scoring"]) for one in given]
    assert tried == [(1, "mean"), (1, "hist_quant_50"), (2, "mean"), (2, "hist_quant_50")]
    assert len({one["output"] for one in given}) == 4
    assert found["segmentations"] == [f"{one['output']}/segmentation" for one in given]
    assert [found["run_id"], *found["further_run_ids"]] == [1, 2, 3, 4]


def test_the_reason_of_a_step_names_only_what_changed(laboratory):
    target = "sparse_model.values.targets=[{type: lsd, sigma: 64}]"  # not in the order of the alphabet
    laboratory.run(target)
    finished = laboratory.run(target, "sparse_model.values.training.iterations=40")
    reason = next(step.reason for step in finished.steps if step.name == "sparse_model")
    assert "training.iterations is 40" in reason
    assert "targets" not in reason


@pytest.mark.parametrize(
    ("update", "repeated"),
    [
        ("segmentation.min_size=20", ["segmentation", *DEPENDENTS[1:]]),
        ("selection.trusted_share=0.8", DEPENDENTS[1:]),
        ("model.values.training.iterations=40", DEPENDENTS[3:]),
        ("sparse_model.values.training.iterations=40",
         ["sparse_model", "sparse_prediction", "affinities_prediction", *DEPENDENTS]),
        ("affinities_model.values.training.iterations=40",
         ["affinities_model", "affinities_prediction", *DEPENDENTS]),
        ("affinities_model.prediction.prediction.output_dtype=uint8", ["affinities_prediction", *DEPENDENTS]),
        ("where_to_paint.count=3", ["where_to_paint"]),
        ("round.ground_truth=null", []),
        ("tracking.max=0", None),
    ],
)  # fmt: skip
def test_a_changed_parameter_repeats_exactly_the_dependent_steps(laboratory, update, repeated):
    laboratory.run()
    if repeated is None:
        with pytest.raises(ConfigError, match="Unknown key"):
            laboratory.run(update)
        return
    finished = laboratory.run(update)
    assert laboratory.ran == repeated
    assert finished.run_id == (1 if update == "nothing" else 2)
    key, _, value = update.partition("=")
    if repeated:
        planned = {step.name: step for step in finished.steps}
        assert f"is {value} (was" in planned[repeated[0]].reason
        assert key.rpartition(".")[2] in planned[repeated[0]].reason
        for name in repeated[1:]:
            own = {"final_segmentation": "segmentation.", "errors": "selection."}.get(name, "-")  # the same options
            assert planned[name].reason.startswith("depends on") != key.startswith(own)
    laboratory.run()  # as it was before: everything is still there
    assert laboratory.ran == []


def test_disagreement_is_a_second_prediction_of_the_last_model(laboratory):
    laboratory.run()
    laboratory.run("where_to_paint.disagreement=true")
    assert laboratory.ran == ["second_prediction", "where_to_paint"]


def test_weights_of_trust_repeat_what_makes_or_learns_them(laboratory):
    laboratory.run()
    laboratory.run("selection.weights=voxels")
    assert laboratory.ran == DEPENDENTS[2:]
    laboratory.run("selection.weights=objects")
    assert laboratory.ran == DEPENDENTS[1:]


def test_held_out_pixels_choose_checkpoint_and_iterations_unless_the_values_say_more(laboratory):
    values = laboratory.plan().training_values("model")
    assert values["training"]["early_stopping"] == 10
    assert values["training"]["checkpoints"]["best_metric"] == "affinities_dice"
    assert values["validation"]["validate_every"] == values["training"]["save_every"] == 50
    assert laboratory.plan().training("model").training.checkpoints.best_mode == "max"
    assert "early_stopping" not in laboratory.plan().training_values("affinities_model")["training"]
    other = laboratory.plan(
        "model.values.training.early_stopping=null", "model.values.training.checkpoints.best_metric=loss"
    ).training_values("model")["training"]
    assert other["early_stopping"] is None
    assert other["checkpoints"]["best_metric"] == "loss"
    assert "early_stopping" not in laboratory.plan("round.validation_share=0").training_values("model")["training"]


def test_another_share_of_held_out_pixels_repeats_what_learns_them(laboratory):
    laboratory.run()
    data = json.loads(Path(laboratory.run(repeat_from="painting").steps[0].result["data"]).read_text())
    assert data["part_0"]["mask"].endswith("/learnt")
    finished = laboratory.run("round.validation_share=0")
    assert "affinities_model" not in laboratory.ran
    assert laboratory.ran[:2] == ["sparse_model", "sparse_prediction"]
    assert "validation" not in finished.steps[0].result
    assert "validation_share is None (was 0.1)" in finished.steps[0].reason


def test_repainted_labels_repeat_what_learns_them_and_say_so(laboratory):
    laboratory.run()
    write(laboratory.folder, "painted", np.full((1, 40, 40), 3, np.uint32), (2, 0, 0))
    planned = {step.name: step for step in laboratory.run().steps}
    assert "affinities_model" not in laboratory.ran
    assert laboratory.ran[:2] == ["sparse_model", "sparse_prediction"]
    assert "painted changed" in planned["painting"].reason


def test_stop_after_and_from(laboratory):
    laboratory.run(stop_after="segmentation")
    assert laboratory.ran[-1] == "segmentation"
    assert laboratory.run().run_id == 1
    assert laboratory.ran == DEPENDENTS[1:]
    laboratory.run(repeat_from="model")
    assert laboratory.ran == DEPENDENTS[3:]
    laboratory.killed_in = "evaluation"
    with pytest.raises(Killed):
        laboratory.run(repeat_from="prediction")
    laboratory.killed_in = None
    laboratory.run(repeat_from="prediction")
    assert laboratory.ran == ["evaluation", "where_to_paint"]
    laboratory.run()  # the latest repetition counts
    assert laboratory.ran == []
    for flag in ("stop_after", "repeat_from"):
        with pytest.raises(InputError, match="known are painting, sparse_model"):
            laboratory.run(**{flag: "sparse"})


def test_a_step_whose_data_are_gone_is_run_again(laboratory):
    laboratory.run()
    entry = {
        step.name: step for step in plan_steps(laboratory.plan(), earlier_rounds(store(laboratory.folder), "tiny"))
    }
    mask = open_volume(entry["painting"].result["mask"])
    (laboratory.folder / "cell.zarr" / mask.dataset / ".zarray").unlink()
    planned = plan_steps(laboratory.plan(), earlier_rounds(store(laboratory.folder), "tiny"))
    assert planned[0].reason == "its run or its data are gone"


def test_the_next_round_has_its_parent_and_its_weights_and_places(laboratory):
    laboratory.run()
    finished = laboratory.run("round.keep_weights=false", "selection.trusted_share=0.9", parent=1)
    assert finished.run_id == 2
    record = store(laboratory.folder).get(2)
    assert record.info["parent"]["members"][0] == {kind_named("bootstrapping").parent_key: 1}
    assert record.info["paint_folders"] == [str(laboratory.folder)]
    lineage = gather(store(laboratory.folder).summaries(), {})
    assert [link.source for link in lineage.sources("bootstrapping/2") if "bootstrapping" in link.source] == [
        "bootstrapping/1"
    ]
    values = RoundPlan(
        laboratory.plan("round.keep_weights=true").config, {"model": {"run_id": 7}}, 1, laboratory.folder
    )
    assert values.training_values("model")["training"]["start_from"] == {"run_id": 7}


def test_what_the_affinities_network_reads_is_what_the_sparse_model_predicts(laboratory):
    plan = laboratory.plan()
    assert plan.two_networks
    read = plan.training("affinities_model").model.inputs
    assert [group.name for group in read] == ["lsd", "affinities"]
    assert read[0].attributes["sigma_voxels"] == [3, 3]
    assert plan.training("affinities_model").training.synthetic.objects == "C"
    three = laboratory.plan(
        "sparse_model.values.targets=[{type: affinities, offsets: [[-1,0,0],[0,-1,0],[0,0,-1]]}]",
        "sparse_model.values.training.input_size_voxels=[4,32,32]",
        "sparse_model.values.training.output_size_voxels=[4,32,32]",
    )
    assert not three.two_networks


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        (["round.raw=null"], "round.raw is null"),
        (["round.labels=[]"], "round.labels is empty"),
        (["round.offset=[0,0,0]"], "belong together"),
        (["round.offset=[0,0,0]", "round.shape=[9,40,40]"], "are not inside"),
        (["model.values.training.iterations=none"], "training.iterations must be"),
        (["round.name=a/b"], "use letters, digits and underscores"),
    ],
)
def test_bad_configurations_start_no_run(laboratory, updates, message):
    with pytest.raises(InputError, match=message):
        laboratory.run(*updates)
    assert store(laboratory.folder).ids() == []


def test_bad_painting_starts_no_run(laboratory):
    empty = write(laboratory.folder, "empty", np.zeros((2, 40, 40), np.uint32))
    outside = write(laboratory.folder, "outside", np.ones((1, 40, 40), np.uint32), (6, 0, 0))
    other = write(laboratory.folder, "other", np.full((1, 40, 40), 9, np.uint32), (2, 0, 0))
    painted = laboratory.folder / "cell.zarr/painted"
    for labels, message in (
        (f"[{empty}]", "No voxel is painted"),
        (f"[{outside}]", "is painted in .* but .* covers"),
        (f"[{painted},{other}]", "Section 2 is painted twice with different ids"),
    ):
        with pytest.raises(DataError, match=message):
            laboratory.run(f"round.labels={labels}")
    assert store(laboratory.folder).ids() == []


def test_labels_with_other_voxels_than_raw_are_refused(laboratory):
    other = write(laboratory.folder, "other", np.ones((1, 40, 40), np.uint32))
    open_volume(other, writable=True).update_attributes({"resolution": [20, 5, 5]})
    with pytest.raises(DataError, match=r"other .*10.*5|other .*5.*10"):
        laboratory.run(f"round.labels=[{other}]")


def test_a_round_does_not_forget_what_was_painted_in_a_deleted_folder(laboratory):
    laboratory.run()
    (laboratory.folder / "places.csv").unlink()
    with pytest.raises(DataError, match=r"places\.csv of an earlier round is missing"):
        laboratory.run(parent=1)


def test_a_volume_of_one_section_is_refused_and_a_thin_one_reported(laboratory, caplog):
    with pytest.raises(InputError, match="has one section to predict"):
        laboratory.run("round.offset=[2,0,0]", "round.shape=[1,40,40]")
    assert store(laboratory.folder).ids() == []
    laboratory.run("round.offset=[1,0,0]", "round.shape=[3,40,40]", stop_after="painting")
    assert "has 3 sections, fewer than the networks see (affinities_model: 4, model: 4)" in caplog.text


def test_a_trained_network_that_is_gone_or_reads_something_else_is_refused_before_anything_runs(laboratory):
    with pytest.raises(InputError, match=r"Training run 7, affinities_model\.run_id, does not exist"):
        laboratory.run("affinities_model.run_id=7")
    trained = laboratory.plan().training("affinities_model").model_dump(mode="json")
    trainings = store(laboratory.folder, "trainings")
    run = ForeignRun(None, "imported", "one", blank_document(None, "imported", "", trained, {}))
    run_id = Importer(trainings).add(run).run_id
    laboratory.run(f"affinities_model.run_id={run_id}", stop_after="painting")
    with pytest.raises(ConfigError, match=r"reads lsd of sigma_voxels \[3.*\], but .* of \[5"):
        laboratory.run(
            f"affinities_model.run_id={run_id}",
            "sparse_model.values.targets=[{type: lsd, sigma: 50, per_section: true}, "
            "{type: affinities, offsets: [[0,-1,0],[0,0,-1]]}]",
        )
    with pytest.raises(ConfigError, match="reads lsd, affinities, but the sparse model predicts affinities"):
        laboratory.run(
            f"affinities_model.run_id={run_id}",
            "sparse_model.values.targets=[{type: affinities, offsets: [[0,-1,0],[0,0,-1]]}]",
        )


def test_one_object_is_enough_but_is_reported(laboratory, caplog):
    one = write(
        laboratory.folder, "one", np.where(np.arange(40) < 20, 4, 0)[None, None].repeat(40, 1).astype(np.uint32)
    )
    laboratory.run(f"round.labels=[{one}]", stop_after="painting")
    assert "Only one object is painted" in caplog.text
