"""The steps of a round: what each depends on, and how it is run. `STEPS` lists them in order."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from incasem_like.bootstrapping.disagreement import other_checkpoint, write_unsure
from incasem_like.bootstrapping.held_out import hold_out
from incasem_like.bootstrapping.painting import data_config_text
from incasem_like.bootstrapping.places import find_places, write_places
from incasem_like.bootstrapping.plan import NEIGHBOURS, RoundPlan, Values
from incasem_like.bootstrapping.pseudo_truth import read_corrections, write_pseudo_truth
from incasem_like.bootstrapping.settings import ModelStep, merged
from incasem_like.config.loading import nest
from incasem_like.disk import write_whole
from incasem_like.errors import ConfigError, InputError
from incasem_like.tracking.model.summaries import flatten
from incasem_like.volumes import Volume, list_datasets, open_volume, parse_address
from incasem_like.volumes.chunk_files import digest


@dataclass(frozen=True)
class Work:
    """What a step needs while it runs.

    Attributes:
        plan: The plan.
        key: Identity of the step with all it depends on; in the names of its run and outputs.
        results: Results of the steps so far.
        run_script: Runs a script as a tracked run of a kind: ``(kind, words, resume)``; returns the result of the run.
        checkpoints: Returns the iterations of a training run's checkpoints, and that of the best one or None.
    """

    plan: RoundPlan
    key: str
    results: Mapping[str, Values]
    run_script: Callable[..., Values]
    checkpoints: Callable[[int], tuple[list[int], int | None]]

    def path(self, name: str) -> Path:
        """Return the path of a file of this step."""
        return self.plan.folder / f"{self.key}_{name}"

    def write(self, name: str, text: str) -> Path:
        """Write a file of this step."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(text.encode()))
        return path

    @property
    def group(self) -> str:
        """The group of this step's datasets in the container of raw."""
        return f"volumes/bootstrapping/{self.key}"

    def config_file(self, values: Mapping[str, Any], *, data_folder: bool = False) -> Path:
        """Write a configuration of a script, with this round's folders."""
        directories = self.plan.config.directories
        folders = {"runs": str(directories.runs), **({"data": str(directories.data)} if data_folder else {})}
        return self.write("config.yaml", yaml.safe_dump(merged(values, {"directories": folders}), sort_keys=False))


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: Its name.
        after: The steps whose results it uses.
        parameters: Returns all it depends on beside these and the data: plain values.
        run: Runs it and returns its result: plain values, with ``run_id`` where it is a run of its own.
        kind: Kind of that run.
        data: Returns the volumes outside of the round that it reads.
        used: Whether the round has this step.
    """

    name: str
    after: tuple[str, ...]
    parameters: Callable[[RoundPlan], Values]
    run: Callable[[Work], Values]
    kind: str | None = None
    data: Callable[[RoundPlan], Sequence[Volume]] = field(default=lambda plan: ())
    used: Callable[[RoundPlan], bool] = field(default=lambda plan: True)


def _paint(work: Work) -> Values:
    plan, painting = work.plan, work.plan.painting
    box = painting.check()
    sections = painting.sections(box)
    labels, mask = painting.write(work.group, box, {"key": work.key}, num_workers=plan.num_workers)
    boxes, share = [roi for roi, _ in sections], plan.config.round.validation_share
    painted = sum(voxels for _, voxels in sections)
    found: Values = {"mask": str(mask.address), "voxels": painted}
    learnt = mask
    if share:
        held = hold_out(mask, share, plan.config.round.seed, {"key": work.key}, num_workers=plan.num_workers)
        text = data_config_text(plan.raw, labels.dataset, held.held_out.dataset, held.boxes)
        found |= {"validation": str(work.write("validation.json", text)), "held_out": held.voxels}
        learnt = held.learnt
        boxes = [box for box in boxes if held.sections.intersection(range(box.begin[0], box.end[0]))]
    data = work.write("data.json", data_config_text(plan.raw, labels.dataset, learnt.dataset, boxes))
    return {"data": str(data), "parts": len(boxes), **found}


def _train(name: str, data_of: str | None) -> Callable[[Work], Values]:
    def run(work: Work) -> Values:
        step: ModelStep = getattr(work.plan.config, name)
        if step.run_id is not None:
            return {"run_id": step.run_id}
        values = work.plan.training_values(name)
        if data_of is not None:
            values = merged(values, {"training": {"data": work.results[data_of]["data"]}})
            validation = {"validation": {"data": work.results["painting"].get("validation")}}
            values = merged(validation, values)
        config = work.config_file(values, data_folder=True)
        words = [work.plan.scripts / "02_train/train.py", "with", config]
        found = work.run_script("trainings", words, lambda run_id: [words[0], "--continue_run", run_id])
        names = ("loss", "iteration", "best_metric", "best_value", "best_iteration")
        return {"run_id": found["run_id"], **{key: found["result"].get(key) for key in names}}

    return run


def _predict(name: str, model: str, source: str | None, *, second: bool = False) -> Callable[[Work], Values]:
    """Return how a model predicts: from raw, or the datasets of an earlier prediction; by a second checkpoint."""

    def run(work: Work) -> Values:
        plan = work.plan
        step: ModelStep = getattr(plan.config, model)
        entry: Values = {
            "file": str(Path(plan.raw.container).resolve()), "voxel_size": list(plan.raw.require_voxel_size()),
            "offset": list(map(int, plan.roi.begin)), "shape": list(map(int, plan.roi.shape)), "raw": plan.raw.dataset,
        }  # fmt: skip
        if source is not None:
            first, *further = work.results[source]["datasets"]
            entry |= {"raw": first, "further_raw": further}
        data = work.write("data.json", json.dumps({plan.config.round.name: entry}, indent=4))
        torch = plan.training_values(model).get("torch", {})
        values = merged({"torch": {"device": torch.get("device", 0)}}, nest(step.prediction))
        values = merged(values, {"prediction": {"data": str(data)}})
        words = [plan.scripts / "03_predict/predict.py", "--run_id", work.results[model]["run_id"]]
        checkpoint = step.checkpoint
        if second:
            kept, best = work.checkpoints(work.results[model]["run_id"])
            used = None if checkpoint == "last" else best
            if checkpoint is not None and checkpoint.isdigit():
                used = int(checkpoint)
            checkpoint = str(other_checkpoint(kept, used))
        if checkpoint is not None:
            words += ["--checkpoint", checkpoint]
        words += ["with", work.config_file(values, data_folder=True)]
        found = work.run_script("predictions", words, lambda run_id: [words[0], "--resume", run_id, *words[1:]])
        address = next(iter(found["result"]["outputs"].values()))
        group = parse_address(address.rpartition("/")[0]).dataset
        targets = [target.name for target in plan.training(model).resolved_targets]
        affinities = [
            target.name
            for target in plan.training(model).resolved_targets
            if target.type == "affinities" and {tuple(offset) for offset in target.describe()["offsets"]} >= NEIGHBOURS
        ]
        datasets = [f"{group}/{target}" for target in targets]
        return {"run_id": found["run_id"], "datasets": datasets, "affinities": [f"{group}/{one}" for one in affinities]}

    return run


def _segment(source: Callable[[RoundPlan], str], options: Callable[[RoundPlan], Values]) -> Callable[[Work], Values]:
    """Return how affinities are segmented, once for each combination of the options' choices."""

    def run(work: Work) -> Values:
        plan, predicted = work.plan, work.results[source(work.plan)]
        if not predicted["affinities"]:
            raise ConfigError("No target of the model is affinities along z, y and x, which a segmentation needs.")
        container, dataset = plan.raw.container, predicted["affinities"][0]
        ids, segmentations = [], []
        for number, values in enumerate(combinations(options(plan))):
            key, group = (f"{one}_{number}" if number else one for one in (work.key, work.group))
            config = replace(work, key=key).config_file({"segmentation": merged(values, {"output": group})})
            words = [
                plan.scripts / "04_postprocessing/10_segment.py", "-f", container, "-d", dataset,
                "--num_workers", plan.num_workers, "with", config,
            ]  # fmt: skip
            found = work.run_script("segmentations", words, None, key=key)
            if found["result"] is None:
                names = sorted(list_datasets(f"{container}/{group}"))
                made = [f"{container}/{group}/{name}" for name in names if name.startswith("segmentation")]
                ids.append((open_volume(made[0]).provenance or {}).get("run_id"))
            else:
                made = [one["address"] for one in found["result"]["segmentations"]]
                ids.append(found["run_id"])
            segmentations += made
        further = {"further_run_ids": ids[1:]} if ids[1:] else {}
        return {"run_id": ids[0], **further, "prediction": f"{container}/{dataset}", "segmentations": segmentations}

    return run


def combinations(options: Values) -> list[Values]:
    """Return the options of each segmentation: the plain ones with every combination of their choices.

    >>> combinations({"method": "watershed", "choices": {"min_size": [1, 2]}})
    [{'method': 'watershed', 'min_size': 1}, {'method': 'watershed', 'min_size': 2}]
    """
    plain, choices = {key: value for key, value in options.items() if key != "choices"}, options.get("choices", {})
    return [
        merged(plain, nest(dict(zip(choices, values, strict=True)))) for values in itertools.product(*choices.values())
    ]


def _compare(source: str) -> Callable[[Work], Values]:
    """Return how segmentations are compared with their prediction, and the most consistent one is chosen."""

    def run(work: Work) -> Values:
        plan, segmented, section = work.plan, work.results[source], work.plan.config.selection
        words: list[Any] = [
            plan.scripts / "04_postprocessing/18_self_consistency.py", "-p", segmented["prediction"],
            "-s", *segmented["segmentations"], "--num_workers", plan.num_workers,
            "--trusted_share", section.trusted_share, "--overwrite",
            *(["--weight_by", "objects"] if section.weights == "objects" else []),
        ]  # fmt: skip
        for name in ("largest_error", "largest_object_error"):
            if (value := getattr(section, name)) is not None:
                words += [f"--{name}", value]
        found = work.run_script("evaluations", words, None)
        best = found["result"]["best"]
        scores = found["result"]["scores"][best]
        known = {name: scores[name] for name in ("error", "objects", "excluded_objects", "group")}
        trusted = open_volume(f"{known['group']}/trusted").content_hash
        return {"run_id": found["run_id"], "segmentation": best, **known, "trusted": trusted}

    return run


def _make_pseudo_truth(work: Work) -> Values:
    plan, chosen = work.plan, work.results["selection"]
    corrections = read_corrections(plan.config.pseudo_truth.corrections, chosen["segmentation"])
    trusted = {"mask": f"{chosen['group']}/trusted"}
    if plan.config.selection.weights != "none":
        trusted["weight"] = f"{chosen['group']}/weight"
    made = write_pseudo_truth(chosen["segmentation"], trusted, work.group, corrections, num_workers=plan.num_workers)
    weights = {"voxel_weights": made["weight"]} if "weight" in made else {}
    text = data_config_text(plan.raw, made["labels"], made["mask"], [open_volume(chosen["segmentation"]).roi], weights)
    return {"data": str(work.write("data.json", text)), **made}


def _evaluate(work: Work) -> Values:
    plan, address = work.plan, work.results["errors"]["segmentation"]
    words = [
        plan.scripts / "04_postprocessing/15_evaluate_segmentation.py", "-l", plan.config.round.ground_truth,
        "-p", address, "--intersect", "--seen", "score", "--num_workers", plan.num_workers,
    ]  # fmt: skip
    found = work.run_script("evaluations", words, None)
    scores = found["result"]["scores"][address]
    kept = ("voi", "voi_split", "voi_merge", "nvi", "adapted_rand_error", "cremi_score", "f1")
    return {"run_id": found["run_id"], **{name: scores[name] for name in kept}}


def _choose_places(work: Work) -> Values:
    plan, section, errors = work.plan, work.plan.config.where_to_paint, work.results["errors"]
    painted = open_volume(work.results["painting"]["mask"])
    error_map = open_volume(f"{errors['group']}/error_map")
    if section.disagreement:
        names = [work.results[name]["affinities"][0] for name in ("prediction", "second_prediction")]
        both = [open_volume(f"{plan.raw.container}/{name}") for name in names]
        error_map = write_unsure(error_map, both, work.group, num_workers=plan.num_workers)
    places = find_places(error_map, painted, section.count, section.size, num_workers=plan.num_workers)
    folder = work.path("places")
    write_places(folder, places, plan.raw, open_volume(errors["segmentation"]), section.context)
    return {"folder": str(folder), "places": len(places)}


def _painting_parameters(plan: RoundPlan) -> Values:
    section = plan.config.round
    return {"validation_share": section.validation_share, "seed": section.seed} if section.validation_share else {}


def _training_parameters(name: str) -> Callable[[RoundPlan], Values]:
    def parameters(plan: RoundPlan) -> Values:
        step: ModelStep = getattr(plan.config, name)
        if step.run_id is not None:
            return {"run_id": step.run_id}
        values = plan.training_values(name)
        plan.training(name)  # a mistake is found before anything runs
        return {key: value for key, value in values.items() if key not in ("directories", "tracking")}

    return parameters


def _prediction_parameters(name: str) -> Callable[[RoundPlan], Values]:
    def parameters(plan: RoundPlan) -> Values:
        step: ModelStep = getattr(plan.config, name)
        roi = [list(map(int, plan.roi.begin)), list(map(int, plan.roi.shape))]
        return {"checkpoint": step.checkpoint, "options": nest(step.prediction), "roi": roi}

    return parameters


def _selection_parameters(plan: RoundPlan) -> Values:
    section = plan.config.selection
    by_object = {"weights": section.weights} if section.weights == "objects" else {}
    return section.model_dump(mode="json", exclude={"weights", "choices"}) | by_object


def _correction_parameters(plan: RoundPlan) -> Values:
    path, weights = plan.config.pseudo_truth.corrections, plan.config.selection.weights
    read_corrections(path)
    known = {"corrections": None if path is None else digest(Path(path).read_text())}
    return known if weights == "none" else {**known, "weights": weights}


def _place_parameters(plan: RoundPlan) -> Values:
    # Only if it is asked for: what earlier versions found without it is still valid.
    left_out = set() if plan.config.where_to_paint.disagreement else {"disagreement"}
    return plan.config.where_to_paint.model_dump(mode="json", exclude=left_out)


def affinities_step(plan: RoundPlan) -> str:
    """Return the step that predicts 3-D affinities."""
    return "affinities_prediction" if plan.two_networks else "sparse_prediction"


def first_options(plan: RoundPlan) -> Values:
    """Return the options of the first segmentation, with their choices."""
    return _with_choices(plan, plan.config.segmentation)


def final_options(plan: RoundPlan) -> Values:
    """Return the options of the last segmentation, with their choices."""
    given = plan.config.final_segmentation
    return _with_choices(plan, plan.config.segmentation if given is None else given)


def _with_choices(plan: RoundPlan, options: Mapping[str, Any]) -> Values:
    choices = flatten(plan.config.selection.choices)
    for key, values in choices.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"selection.choices.{key} is {json.dumps(values)}: give a list of values to try.")
    return nest(options) | ({"choices": choices} if choices else {})


def _raw(plan: RoundPlan) -> Sequence[Volume]:
    return (plan.raw,)


STEPS = (
    Step("painting", (), _painting_parameters, _paint, data=lambda plan: (plan.raw, *plan.painting.sources)),
    Step(
        "sparse_model", ("painting",), _training_parameters("sparse_model"), _train("sparse_model", "painting"),
        "trainings",
    ),
    Step(
        "sparse_prediction", ("sparse_model",), _prediction_parameters("sparse_model"),
        _predict("sparse_prediction", "sparse_model", None), "predictions", data=_raw,
    ),
    Step(
        "affinities_model", (), _training_parameters("affinities_model"), _train("affinities_model", None),
        "trainings", used=lambda plan: plan.two_networks,
    ),
    Step(
        "affinities_prediction", ("sparse_prediction", "affinities_model"), _prediction_parameters("affinities_model"),
        _predict("affinities_prediction", "affinities_model", "sparse_prediction"), "predictions",
        used=lambda plan: plan.two_networks,
    ),
    Step(
        "segmentation", ("sparse_prediction", "affinities_prediction"), first_options,
        _segment(affinities_step, first_options), "segmentations",
    ),
    Step("selection", ("segmentation",), _selection_parameters, _compare("segmentation"), "evaluations"),
    Step("pseudo_truth", ("selection",), _correction_parameters, _make_pseudo_truth),
    Step("model", ("pseudo_truth",), _training_parameters("model"), _train("model", "pseudo_truth"), "trainings"),
    Step(
        "prediction", ("model",), _prediction_parameters("model"), _predict("prediction", "model", None), "predictions",
        data=_raw,
    ),
    Step(
        "final_segmentation", ("prediction",), final_options, _segment(lambda plan: "prediction", final_options),
        "segmentations",
    ),
    Step("errors", ("final_segmentation",), _selection_parameters, _compare("final_segmentation"), "evaluations"),
    Step(
        "evaluation", ("errors",), lambda plan: {}, _evaluate, "evaluations",
        data=lambda plan: (open_volume(plan.config.round.ground_truth or ""),),
        used=lambda plan: plan.config.round.ground_truth is not None,
    ),
    Step(
        "second_prediction", ("model",), _prediction_parameters("model"),
        _predict("second_prediction", "model", None, second=True), "predictions", data=_raw,
        used=lambda plan: plan.config.where_to_paint.disagreement,
    ),
    Step("where_to_paint", ("errors", "painting", "second_prediction"), _place_parameters, _choose_places),
)  # fmt: skip
NAMES = tuple(step.name for step in STEPS)


def used_steps(plan: RoundPlan) -> list[Step]:
    """Return the steps of a round, in order."""
    return [step for step in STEPS if step.used(plan)]


def check_step(name: str | None, flag: str) -> None:
    """Check the name of a step.

    Raises:
        InputError: It is unknown.
    """
    if name is not None and name not in NAMES:
        raise InputError(f"{flag} {name} is not a step: known are {', '.join(NAMES)}.")
