"""The tracked run of an instance segmentation, and the search for the dataset of a prediction's id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from incasem_like.errors import InputError, RunNotFoundError
from incasem_like.segmentation.pipeline import segment
from incasem_like.segmentation.planning import Segmentation
from incasem_like.segmentation.predicted import PredictedVolume
from incasem_like.tracking import run_experiment
from incasem_like.volumes import Volume, dataset_exists, list_datasets, open_volume

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.segmentation.settings import SegmentationConfig
    from incasem_like.tracking import Run, RunRecord, RunStore


LINEAGE = ("training_run_id", "checkpoint", "sha256", "iteration", "members")


def predicted_dataset(record: RunRecord, region: str | None = None, dataset: str | None = None) -> Volume:
    """Open a dataset that a prediction run wrote.

    Args:
        record: The prediction run.
        region: Name of the region; None for the only one.
        dataset: Its name in the group of the prediction, such as ``prob_maps/class_2``; None for the affinities, or
            other channels, that were predicted, or for the first class.

    Raises:
        RunNotFoundError: The run has no result.
        InputError: There are several regions, or none of that name.
        DataError: The dataset is missing or incomplete.
    """
    outputs = (record.document.get("result") or {}).get("outputs")
    if not isinstance(outputs, Mapping) or not outputs:
        raise RunNotFoundError(
            f"Prediction run {record.id} in {record.store.description} has no result (its status is {record.status}): "
            "resume it, or name its dataset with -f and -d."
        )
    if region is None and len(outputs) > 1:
        raise InputError(f"Prediction run {record.id} has several regions: add --region, one of {', '.join(outputs)}.")
    if region is not None and region not in outputs:
        raise InputError(f"Prediction run {record.id} has no region {region}: choose one of {', '.join(outputs)}.")
    address = str(outputs[region or next(iter(outputs))])
    group = address.rpartition("/")[0]
    if dataset is not None:
        return open_volume(f"{group}/{dataset}")
    for name in list_datasets(group):  # of a network with several targets, the affinities, whatever their name
        found = open_volume(f"{group}/{name}", allow_incomplete=True)
        if found.attributes.get("offsets"):
            return open_volume(found.address)
    first_class = f"{group}/prob_maps/class_1"
    return open_volume(first_class if dataset_exists(first_class) else address)


def segment_as_run(
    config: SegmentationConfig,
    plan: Segmentation,
    *,
    store: RunStore | None,
    prediction_run_id: int | None = None,
    parameters_of: int | None = None,
    overwrite: bool = False,
    num_workers: int = 1,
    workers: Workers | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Segment block by block, tracked as a run; a second call resumes the stages that are not complete.

    Args:
        config: The configuration, which is tracked.
        plan: What to segment.
        store: Run store, of kind ``segmentations``; None does not track the run.
        prediction_run_id: Run that made the prediction; None takes it from the dataset's provenance.
        parameters_of: Evaluation run whose best parameters these are.
        overwrite: Replace stages that were made with other options.
        num_workers: Number of processes.
        workers: Workers of a workers file, instead of local processes.
        **options: run_name, comment, run_id, sources, as ``tracking.run_experiment`` takes them.

    Returns:
        The result of ``segment``, and the ``run_id``; None where an earlier call had done all.

    Raises:
        InputError: A stage was made with other options, and ``overwrite`` is False.
    """
    if plan.is_finished(overwrite):
        return {"segmentations": [{"address": f"{plan.prediction.container}/{name}"} for name in plan.names().values()],
                "run_id": None}  # fmt: skip
    made_by = prediction_run_id or (plan.prediction.provenance or {}).get("run_id")

    def work(run: Run) -> dict[str, Any]:
        run.inputs([volume.as_input() for volume in plan.inputs])
        run.set_info("prediction_run_id", made_by)
        if isinstance(plan.prediction, PredictedVolume):  # no prediction run stands between it and the training
            known = (plan.prediction.provenance or {}).get("parameters") or {}
            run.set_info("parent", {key: known[key] for key in LINEAGE if key in known})
        run.set_info("evaluation_run_id", parameters_of)
        found = segment(plan, overwrite=overwrite, num_workers=num_workers, workers=workers, run_id=run.id or None)
        return {**found, "run_id": run.id}

    return run_experiment(name="segment", config=config.model_dump(mode="json"), main=work, store=store, **options)
