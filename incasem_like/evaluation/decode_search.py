"""The search of segmentation parameters on validation blocks: many segmentations, each cut at all thresholds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from incasem_like.disk import only_writer
from incasem_like.errors import ConfigError, DataError, InputError
from incasem_like.evaluation.evaluate import covered_roi
from incasem_like.evaluation.instance_run import (
    VOXELS_AT_ONCE,
    counting_task,
    note_parents,
    pooled_score,
    score,
)
from incasem_like.evaluation.instances import Contingency
from incasem_like.evaluation.search_config import METRICS, DecodeSearchConfig
from incasem_like.evaluation.seen import SEARCHED, OpenStore, Policy, check_seen
from incasem_like.search import Search, Trial, best_trial, trials_csv
from incasem_like.segmentation.pipeline import make_graph, segment, segments_at
from incasem_like.segmentation.planning import Segmentation, plan_segmentation
from incasem_like.segmentation.settings import SegmentationSection
from incasem_like.tracking import run_experiment
from incasem_like.volumes import Roi, Volume, create_volume, dataset_exists, make_provenance, open_volume
from incasem_like.volumes.agreement import check_same_voxels
from incasem_like.volumes.chunk_files import digest
from incasem_like.volumes.geometry import nanometres
from incasem_like.volumes.parts import aligned_parts
from incasem_like.volumes.values import check_label_dtype

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunRecord, RunStore

Ids = npt.NDArray[np.uint64]
SHARED = ("method", "input", "min_size", "max_size")
KEPT_ATTRIBUTES = ("offsets", "scale", "target")
BLOCK_ADVICE = "move the --block, or reduce it to the common part {common}."
CURVES = ("voi", "voi_split", "voi_merge", "adapted_rand_error", "f1")


@dataclass(frozen=True)
class ValidationBlock:
    """A part of a prediction with its ground truth.

    Attributes:
        prediction: The whole prediction.
        labels: The ground truth.
        roi: The part, in absolute voxels.
    """

    prediction: Volume
    labels: Volume
    roi: Roi

    @property
    def record(self) -> dict[str, Any]:
        """The voxels that parameters are searched on, as the record of the run keeps them."""
        size = self.prediction.require_voxel_size()
        return {
            "addresses": [str(self.prediction.address), str(self.labels.address)],
            "begin": list(nanometres(self.roi.begin, size)),
            "end": list(nanometres(self.roi.end, size)),
        }

    def copy(self, folder: Path, number: int) -> Volume:
        """Copy the part of the prediction into a container of its own, unless it is there."""
        container = folder / f"block_{number}.zarr"
        source = self.prediction
        if dataset_exists(str(container), "prediction"):
            there = open_volume(container, "prediction", allow_incomplete=True)
            if there.complete:
                return there
        shape = [int(size) for size in self.roi.shape]
        channels = source.shape[:1] if source.axes == "czyx" else ()
        copied = create_volume(
            container,
            "prediction",
            shape=(*channels, *shape),
            dtype=source.dtype,
            voxel_size=source.require_voxel_size(),
            offset=source.corner(self.roi.begin),
            axes=source.axes,
            chunk_shape=tuple(min(64, edge) for edge in shape),
            attributes={name: source.attributes[name] for name in KEPT_ATTRIBUTES if name in source.attributes},
            provenance=make_provenance("search_parameters", {}, [source]),
            overwrite=True,
        )
        for part in aligned_parts(copied, copied.roi, VOXELS_AT_ONCE):
            copied.write(source.read(part), part)
        copied.mark_complete()
        return open_volume(container, "prediction")


def validation_blocks(
    prediction: Volume, labels: Volume, rois: Sequence[Roi], open_store: OpenStore | None, seen: Policy
) -> list[ValidationBlock]:
    """Check labels and ROIs, and return the blocks; without ROIs, what both volumes cover is one.

    Raises:
        DataError: The volumes differ in their voxels, or do not cover an ROI.
        InputError: The model was trained on some of the voxels, and ``seen`` is ``refuse``.
    """
    reference = open_volume(f"{prediction.address}@c=0") if prediction.axes == "czyx" else prediction
    check_same_voxels(labels, reference)
    check_label_dtype(labels)
    whole = covered_roi(labels, reference, reference.roi, True)
    blocks = []
    for roi in rois or [whole]:
        if min(roi.shape) < 1:
            raise InputError(f"--block has the shape {list(roi.shape)}: give three numbers of voxels above 0.")
        for volume in (reference, labels):
            covered_roi(volume, reference, roi, False, BLOCK_ADVICE)
        found = check_seen(reference, [labels], roi, open_store, "score")
        if "trained" in found.shares and seen == "refuse":
            raise InputError(
                f"{found.shares['trained']:.0%} of these voxels are those that the model of {prediction.address} was "
                "trained on, where parameters look better than they are: choose a --block elsewhere, or add --seen "
                "score."
            )
        blocks.append(ValidationBlock(prediction, labels, roi))
    return blocks


@dataclass
class Candidate:
    """Segmentations by one choice of parameters at all thresholds.

    Attributes:
        trial: The choice, with the best value.
        section: Its options.
        thresholds: Those tried; None for a method without one.
        scores: Of each threshold.
        best: Index of the best threshold; None if the metric is undefined at all.
    """

    trial: Trial
    section: SegmentationSection
    thresholds: list[float | None] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    best: int | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """The section ``segmentation`` that makes the best of them, without what belongs to one volume."""
        assert self.best is not None
        values, method, threshold = (
            self.section.model_dump(mode="json"),
            self.section.method,
            self.thresholds[self.best],
        )
        options = values[method] if threshold is None else {**values[method], "threshold": threshold}
        return {**{name: values[name] for name in SHARED}, method: options}

    def log_curves(self, run: Run) -> None:
        """Log the scores at all thresholds, as curves over the number of the threshold."""
        for step, scores in enumerate(self.scores):
            run.log_scalar("threshold", _value(self.thresholds[step]), step)
            for name in CURVES:
                if scores[name] is not None:
                    run.log_scalar(f"{name}_by_threshold", scores[name], step)


class DecodeSearch:
    """Segments validation blocks with many parameters and scores them.

    Fragments and graphs are made once for all choices that share their options; a graph is cut at all thresholds, and
    the contingency table of fragments and ground truth is relabelled by each cut, so that no segmentation is written.

    Args:
        config: The configuration.
        blocks: The validation blocks.
        folder: Folder of the intermediate results, which a repeated search continues with.
        how: ``num_workers`` and ``workers``.
    """

    def __init__(
        self, config: DecodeSearchConfig, blocks: Sequence[ValidationBlock], folder: Path, how: Mapping[str, Any]
    ) -> None:
        self.config, self.blocks, self.folder, self.how = config, blocks, folder, how
        self.crops = [block.copy(folder, number) for number, block in enumerate(blocks)]

    def trials(self) -> Iterator[Candidate]:
        """Yield each choice with its scores."""
        section = self.config.search
        mode = METRICS[section.metric]
        search = Search(section, section.metric, mode) if section.dimensions else None
        done: list[Trial] = []
        while True:
            asked = search.ask(done, 1) if search is not None else [Trial(0, {})] * (not done)
            if not asked:
                return
            candidate = Candidate(asked[0], self.section_of(asked[0]))
            self._score(candidate, mode)
            done.append(candidate.trial)
            yield candidate

    def check_space(self) -> None:
        """Check the keys of the search before anything is segmented; errors as for ``section_of``."""
        section = self.config.search
        if section.dimensions:
            search = Search(section, section.metric, METRICS[section.metric])
            for trial in search.ask([], search.total if section.method == "grid" else 1):
                self.section_of(trial)

    def section_of(self, trial: Trial) -> SegmentationSection:
        """Return the options of a trial.

        Raises:
            ConfigError: They are wrong, or contradict each other.
        """
        values = self.config.model_dump(mode="json", exclude={"search"})
        for key, value in trial.parameters.items():
            *sections, name = key.split(".")
            target: Any = values
            for part in sections:
                target = target.get(part) if isinstance(target, dict) else None
            if not isinstance(target, dict) or name not in target:
                raise ConfigError(f"search.space.{key} is not a key of the segmentation: correct it.")
            target[name] = value
        source = f"in trial {trial.number} of the search"
        return type(self.config).from_values(values, lambda _path: source).segmentation

    def plan(self, section: SegmentationSection, number: int, threshold: float | None = None) -> Segmentation:
        """Return the segmentation of one block, in a group that all choices with the same fragments share."""
        plan = plan_segmentation(self.crops[number], section.model_copy(update={"graph": None}))
        method = section.chosen
        stage = plan.options(*method.edge_options, *method.table_options)
        update: dict[str, Any] = {"output": f"fragments_{digest(stage)[:12]}", "graph": None}
        if threshold is not None:
            update[section.method] = method.model_copy(update={"threshold": threshold})
        return plan_segmentation(self.crops[number], section.model_copy(update=update))

    def _score(self, candidate: Candidate, mode: str) -> None:
        section = candidate.section
        cut = "threshold" in section.chosen.table_options
        candidate.thresholds = list(self.config.search.thresholds) if cut else list(section.chosen.cuts())
        parts = []
        for number in range(len(self.blocks)):
            plan = self.plan(section, number)
            fragments, nodes, edges = make_graph(plan, overwrite=True, **self.how)
            labels, mask = self.blocks[number].labels, self.config.segmentation.mask
            others = [labels, *([open_volume(mask)] if mask else [])]
            task = counting_task("search", fragments, others, self.blocks[number].roi)
            task.run(**self.how, description="Ground truth")
            rows = np.concatenate(list(task.results()))
            parts.append((plan, nodes, edges, Contingency.merged([Contingency.from_array(rows[:, 1:])])))
        for threshold in candidate.thresholds:
            tables = [
                relabelled(table, nodes["id"], segments_at(plan, nodes, edges, threshold)[0])
                for plan, nodes, edges, table in parts
            ]
            candidate.scores.append(pooled_score(tables))
        values = np.array([_value(scores[self.config.search.metric]) for scores in candidate.scores])
        candidate.trial.status = "COMPLETED"
        if not np.isnan(values).all():
            candidate.best = int(np.nanargmax(values) if mode == "max" else np.nanargmin(values))
            candidate.trial.value = float(values[candidate.best])

    def result(self, candidates: Sequence[Candidate]) -> dict[str, Any]:
        """Return the best of all choices, and all of them, as plain values.

        Raises:
            DataError: The metric is undefined for all.
        """
        metric = self.config.search.metric
        best = best_trial([candidate.trial for candidate in candidates], METRICS[metric])
        if best is None:
            raise DataError(f"{metric} is undefined for all segmentations: check the labels in the blocks.")
        chosen = candidates[best.number]
        assert chosen.best is not None
        threshold = chosen.thresholds[chosen.best]
        about = {"trial": best.number, "threshold": threshold, "value": best.value, "segmentation": chosen.parameters}
        return {
            "metric": metric,
            "best": about,
            "best_scores": chosen.scores[chosen.best],
            "trials": [{**asdict(one.trial), "thresholds": one.thresholds,
                        "values": [scores[metric] for scores in one.scores]} for one in candidates],
        }  # fmt: skip

    def worst_errors(self, chosen: Candidate) -> tuple[str, str, dict[str, Any]]:
        """Write the best segmentation of the first block; return its address, that of the labels, and its scores."""
        assert chosen.best is not None
        plan = self.plan(chosen.section, 0, chosen.thresholds[chosen.best])
        made = segment(plan, overwrite=True, **self.how)["segmentations"][0]["address"]
        block, segmentation = self.blocks[0], open_volume(made)
        tables = [
            Contingency.of(block.labels.read(part), segmentation.read(part), begin=part.begin)
            for part in aligned_parts(segmentation, block.roi, VOXELS_AT_ONCE)
        ]
        return made, str(block.labels.address), score(Contingency.merged(tables))


def _value(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def relabelled(table: Contingency, ids: Ids, segments: Ids) -> Contingency:
    """Return the table of a segmentation, from that of its fragments.

    Args:
        table: Ground truth and fragments.
        ids: The fragments, ascending.
        segments: The segment of each.

    >>> table = Contingency.of(np.array([[[1, 1, 2]]]), np.array([[[5, 8, 8]]]))
    >>> relabelled(table, np.array([5, 8], np.uint64), np.array([1, 1], np.uint64)).counts.tolist()
    [2, 1]
    """
    new = np.zeros(len(table.predicted), np.uint64)
    labelled = table.predicted > 0
    new[labelled] = segments[np.searchsorted(ids, table.predicted[labelled])]
    return Contingency.merged([Contingency(table.truth, new, table.counts, table.positions)])


def search_as_run(
    config: DecodeSearchConfig,
    blocks: Sequence[ValidationBlock],
    *,
    store: RunStore | None,
    open_store: OpenStore | None = None,
    report: Callable[[Candidate], None] = lambda candidate: None,
    draw: Callable[[Sequence[Candidate], str, str], bytes] | None = None,
    draw_errors: Callable[[str, str, Mapping[str, Any]], bytes | None] | None = None,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Search the best parameters, tracked as a run, whose result ``10_segment.py --parameters_of`` uses.

    A repeated search finds the fragments and graphs of an interrupted one.

    Args:
        config: The configuration.
        blocks: The validation blocks.
        store: Run store, of kind ``evaluations``; None does not track the run.
        open_store: Opens the stores in which the lineage of the prediction is looked up.
        report: Called with each choice once it is scored.
        draw: Draws curves of all choices, given these, the metric and its mode (``min``, ``max``).
        draw_errors: Draws the worst errors, as for ``evaluate_instances_as_run``.
        num_workers: Maximum number of processes.
        workers: Workers of a workers file, instead of local processes.
        **options: run_name, comment, run_id, sources, as ``tracking.run_experiment`` takes them.

    Returns:
        ``metric``, ``best`` (trial, threshold, value, the section ``segmentation`` that makes it), its ``best_scores``,
        ``trials``, and the ``run_id``.

    Raises:
        ConfigError: The parameters of a trial are wrong.
        DataError: The metric is undefined for all.
        InputError: Another process is searching on the same blocks.
    """
    metric = config.search.metric
    about = [{**block.prediction.as_input(), **{"labels": block.labels.as_input(), "roi": str(block.roi)}}
             for block in blocks]  # fmt: skip
    folder = Path(config.directories.runs) / "searches" / digest([about, config.segmentation.mask])[:16]

    def work(run: Run) -> dict[str, Any]:
        run.inputs([*(block.prediction.as_input() for block in blocks), blocks[0].labels.as_input()])
        run.set_info(SEARCHED, [block.record for block in blocks])
        sources = ((blocks[0].prediction, open_store), (blocks[0].labels, None))
        lineages = (check_seen(volume, [], blocks[0].roi, stores, "score").runs for volume, stores in sources)
        note_parents(run, next(filter(None, lineages), ()))
        candidates: list[Candidate] = []
        for candidate in search.trials():
            candidates.append(candidate)
            if candidate.trial.value is not None:
                run.log_scalar(metric, candidate.trial.value, candidate.trial.number)
            report(candidate)
        result = search.result(candidates)
        chosen = candidates[result["best"]["trial"]]
        chosen.log_curves(run)
        run.add_artifact(trials_csv([one.trial for one in candidates], metric, "run").encode(), "trials.csv")
        if draw is not None:
            run.add_artifact(draw(candidates, metric, METRICS[metric]), "search.png")
        if draw_errors is not None and (picture := draw_errors(*search.worst_errors(chosen))):
            run.add_artifact(picture, "errors.png")
        return {**result, "run_id": run.id}

    values = config.model_dump(mode="json")
    with only_writer(folder):
        search = DecodeSearch(config, blocks, folder, {"num_workers": num_workers, "workers": workers})
        search.check_space()
        result = run_experiment(name="search_parameters", config=values, main=work, store=store, **options)
        shutil.rmtree(folder, ignore_errors=True)  # only after the run has the result
    return result


def best_parameters(record: RunRecord) -> dict[str, Any]:
    """Return the section ``segmentation`` that a search found best.

    Raises:
        InputError: The run is not a search, or has no result.
    """
    best = record.result.get("best") if isinstance(record.result, Mapping) else None
    found = best.get("segmentation") if isinstance(best, Mapping) else None
    if not isinstance(found, Mapping):
        raise InputError(
            f"Evaluation run {record.id} in {record.store.description} is not a finished search of parameters (its "
            f"status is {record.status}): name one of 11_search_parameters.py."
        )
    return dict(found)
