"""Contents of the report of a tracked run, or of several compared: figures, tables, commands and configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from incasem_like.errors import DataError, IncasemError, InputError
from incasem_like.prediction import SERIES_FIGURE
from incasem_like.terminal import duration, shell_command
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.lineage import input_hashes
from incasem_like.tracking.model.summaries import differing, flatten, named_runs, origins
from incasem_like.tracking.queries.fields import better
from incasem_like.viewing.comparison import comparison_figure
from incasem_like.viewing.figures import Curve, curves_figure, ortho_slices_figure
from incasem_like.viewing.opening import open_place, places_of_run
from incasem_like.viewing.planes import around, busiest_point, plane_aspects, read_planes
from incasem_like.viewing.report import Command, Picture, Report, Table

if TYPE_CHECKING:
    from incasem_like.tracking import RunRecord
    from incasem_like.volumes import Volume

LOSS = re.compile(r"^loss_(train|val)")
DICE = re.compile(r"^dice_class_[1-9]\d*(_train|_validation_ds_\d+)?$")
MOST_ROWS = 60  # of a table
LIBRARIES = ("torch", "gunpowder", "zarr", "tensorstore", "sacred", "waterz", "bioimage-cpp")
SCRIPTS = {
    "trainings": "scripts/02_train/train.py",
    "predictions": "scripts/03_predict/predict.py",
    "segmentations": "scripts/04_postprocessing/10_segment.py",
}


def report_of_run(record: RunRecord, lineage: bytes | None = None) -> Report:
    """Return the report of any tracked run from its record in the store, and of the volumes that still exist.

    Args:
        record: The run.
        lineage: A drawing of its lineage, SVG.
    """
    pictures = list(pictures_of_run(record))
    if lineage is not None:
        pictures.append(Picture("Lineage", "What the run came from, and what came of it.", lineage))
    return Report(
        title=f"Run {record.id}" + (f": {record.name}" if record.name else ""),
        summary=f"A run of kind {record.kind}, as tracked in {record.store.description}.",
        facts=facts_of_run(record),
        pictures=pictures,
        tables=[table for table in (metrics_table(record), result_table(record), parent_table(record)) if table],
        commands=commands_of_run(record),
        commands_heading="The commands that repeat it",
        methods=methods_of_run(record),
        configuration=yaml.safe_dump(record.config, sort_keys=False),
    )


def pictures_of_run(record: RunRecord) -> Iterator[Picture]:
    """Yield the pictures of a run, the quickest first: scores or curves, figures of evaluations, slices."""
    if (first := scores_of_series(record) or curves_of_run(record)) is not None:
        yield first
    yield from pictures_of_evaluation(record)
    if (slices := slices_of_run(record)) is not None:
        yield slices


def report_of_runs(
    records: Sequence[RunRecord],
    metrics: Sequence[str] = (),
    draw: Callable[[RunRecord], Picture | None] | None = None,
) -> Report:
    """Return the report of two or more runs side by side: curves, scores, and configuration where they differ.

    Args:
        records: The runs.
        metrics: Metrics whose curves are drawn; by default as ``comparison_figure`` chooses.
        draw: Makes the picture of each run; by default ``slices_of_run``.

    Raises:
        InputError: None of the runs has one of the metrics.
    """
    names = [f"{singular(record.kind)} {record.id}" for record in records]
    pictures = []
    try:
        pictures.append(
            Picture("Curves", "Metrics of all runs over their iterations.", comparison_figure(records, metrics))
        )
    except InputError:  # no run has curves
        if metrics:
            raise
    slices = zip(names, map(draw or slices_of_run, records), strict=True)
    flat = [flatten(record.config) for record in records]
    return Report(
        title=f"Comparison of {', '.join(names)}",
        summary="; ".join(
            f"{name}: {record.name or 'no name'}, {record.status}" for name, record in zip(names, records, strict=True)
        ),
        pictures=pictures,
        tables=[
            table
            for table in (
                scores_table(records, names),
                _differences("Configuration", names, flat),
            )
            if table.rows
        ],
        side_pictures=[replace(picture, heading=f"Slices of {name}") for name, picture in slices if picture],
    )


def curves_of_run(record: RunRecord) -> Picture | None:
    """Draw the run's losses and foreground dice over its iterations; None when it logged neither."""
    panels = {}
    for title, pattern in (("loss", LOSS), ("dice of the foreground", DICE)):
        curves = [Curve(name, m.steps, m.values) for name, m in sorted(record.metrics.items()) if pattern.match(name)]
        if curves:
            panels[title] = curves
    if not panels:
        return None
    return Picture("Training", "Losses and dice as the run logged them.", curves_figure(panels))


def scores_of_series(record: RunRecord) -> Picture | None:
    """Return the figure stored by a series of predictions; None for any other run."""
    if SERIES_FIGURE not in record.artifacts:
        return None
    said = "Scores against the iteration of the checkpoint"
    best = record.result.get("best_iteration") if isinstance(record.result, dict) else None
    caption = f"{said}; iteration {best} is the best by {record.result['best_metric']}." if best else f"{said}."
    return Picture("Series", caption, record.artifact(SERIES_FIGURE))


# The figures that evaluations and searches of parameters store, with heading and caption.
EVALUATION_FIGURES = {
    "search.png": ("Search", "The score of each choice of parameters by threshold, and its splits against its merges."),
    "precision_recall.png": ("Precision and recall", "At thresholds from 0 to 1, and the ROC curve."),
    "examples.png": ("Examples", "Sections with ground truth (red) and prediction (green)."),
    "errors.png": ("Worst errors", "The largest splits and merges; objects that take part are coloured."),
}


def pictures_of_evaluation(record: RunRecord) -> list[Picture]:
    """Return the figures that an evaluation, or a search of segmentation parameters, stored; none for other runs."""
    return [
        Picture(*about, record.artifact(name)) for name, about in EVALUATION_FIGURES.items() if name in record.artifacts
    ]


def slices_of_run(record: RunRecord) -> Picture | None:
    """Draw raw, labels and what the run wrote; None if it has no raw volume, or its volumes are gone."""
    try:
        layers = [layer for place in places_of_run(record) for layer in open_place(place)]
        written = {str(layer.served.finest.address) for layer in layers} - set(input_hashes(record))  # type: ignore[arg-type]
        first = {
            (layer.meaning, str(layer.served.finest.address) in written): layer.served.finest
            for layer in reversed(layers)
        }
        made = first.get(("labels", True)) or first.get(("channels", True))
        raw, truth = first.get(("raw", False)) or _raw_of(made), first.get(("labels", False))
        named = {"labels": truth, singular(record.kind): made}
        overlays = {title: volume for title, volume in named.items() if volume is not None}
        return slices_of_volumes(raw, overlays) if raw is not None and overlays else None
    except (IncasemError, OSError):
        return None  # a report of the record alone is better than none


def _raw_of(volume: Volume | None) -> Volume | None:
    """Find the raw volume that a dataset was made from, by its provenance."""
    inputs = (volume.provenance or {}).get("inputs", ()) if volume is not None else ()
    for entry in inputs:
        for layer in open_place(str(entry["address"])):
            if layer.meaning == "raw":
                return layer.served.finest
            if (further := _raw_of(layer.served.finest)) is not None:
                return further
    return None


def slices_of_volumes(raw: Volume, overlays: Mapping[str, Volume]) -> Picture:
    """Draw the three planes through the point with most foreground of the first overlay: raw, and raw below each.

    Args:
        raw: Grey values.
        overlays: By title, labels, whose nonzero voxels are foreground, or volumes with channels.

    Raises:
        DataError: The volumes do not overlap.
    """
    roi, (first, *_) = raw.roi, overlays.values()
    for volume in overlays.values():
        roi = roi.intersect(volume.roi)
    if roi.empty:
        raise DataError(f"{first.address} and {raw.address} do not overlap.")
    centre = busiest_point(first, roi)
    roi = around(roi, centre)
    figure = ortho_slices_figure(
        read_planes(raw, roi, centre),
        {title: read_planes(volume, roi, centre) for title, volume in overlays.items()},
        plane_aspects(raw.voxel_size or (1, 1, 1)),
    )
    z, y, x = centre
    shown = ", ".join(f"{title}: {volume.address}" for title, volume in {"raw": raw, **overlays}.items())
    return Picture("Slices", f"Planes through voxel z {z}, y {y}, x {x}. {shown}.", figure)


def facts_of_run(record: RunRecord) -> list[tuple[str, str]]:
    """Return the metadata of the run for a methods section: id, state, time, machine, commit, checkpoints."""
    facts = [("run", f"{record.id} ({record.kind})"), ("status", record.status)]
    if record.name:
        facts.append(("name", record.name))
    if record.start_time and record.stop_time:
        facts.append(("took", duration((record.stop_time - record.start_time).total_seconds())))
    if host := record.host.get("hostname"):
        facts.append(("machine", str(host)))
    if commit := _commit(record):
        facts.append(("commit", commit))
    for checkpoint in record.checkpoints[-1:]:
        facts.append(("last checkpoint", f"iteration {checkpoint.iteration}, sha256 {checkpoint.sha256[:12]}"))
    return facts


def _repository(record: RunRecord) -> Mapping[str, Any]:
    repositories = record.experiment.get("repositories") or [{}]
    first: Mapping[str, Any] = repositories[0]
    return first


def _commit(record: RunRecord) -> str:
    repository = _repository(record)
    return str(repository.get("commit") or "")[:10] + (" + changes" if repository.get("dirty") else "")


def metrics_table(record: RunRecord) -> Table | None:
    """Return last, smallest and largest value of each metric with their iterations; None without metrics."""
    rows = []
    for name, summary in sorted(record.metric_summaries.items()):
        keys = ("last", "last_step", "min", "min_step", "max", "max_step")
        rows.append([name, *(_cell(summary.get(key)) for key in keys)])
    header = ("metric", "last", "at", "smallest", "at", "largest", "at")
    return Table("Metrics", header, rows[:MOST_ROWS]) if rows else None


def result_table(record: RunRecord) -> Table | None:
    """Return what the run returned; None if that is nothing."""
    result = record.result if isinstance(record.result, dict) else {"result": record.result}
    several = {name: value for name, value in result.items() if isinstance(value, list) and value}
    for name, entries in several.items():
        if all(isinstance(entry, dict) for entry in entries):  # such as one for each threshold
            result = {**result, name: {str(number): entry for number, entry in enumerate(entries, 1)}}
    rows = [[name, _cell(value)] for name, value in flatten(result).items() if value is not None]
    return Table("Result", ("", "value"), rows[:MOST_ROWS]) if rows else None


def parent_table(record: RunRecord) -> Table | None:
    """Return the differences of the configuration from that of a parent of the same kind; None without one."""
    for kind, run_id in _parents(record):
        if kind == record.kind:
            try:
                parent = record.store.get(run_id)
            except IncasemError:
                return None
            flat = [flatten(parent.config), flatten(record.config)]
            return _differences(f"Differences from {singular(kind)} {run_id}", [f"{run_id}", f"{record.id}"], flat)
    return None


def _parents(record: RunRecord) -> list[tuple[str, int]]:
    parent = record.parent if isinstance(record.parent, dict) else {}
    return [named for origin in origins(parent) for named in named_runs(origin)]


def _differences(heading: str, names: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> Table:
    shown = differing([{key: _cell(value) for key, value in column.items()} for column in columns], "")
    return Table(heading, ("", *names), [[key, *values] for key, values in shown.items()][:MOST_ROWS])


def scores_table(records: Sequence[RunRecord], names: Sequence[str]) -> Table:
    """Return each metric's best value in each run, or its last where its name does not tell which is better."""
    summaries = [record.metric_summaries for record in records]
    rows = []
    for metric in sorted({name for summary in summaries for name in summary}):
        which = better(metric)
        values = [summary.get(metric, {}).get(which or "last") for summary in summaries]
        known = {value for value in values if value is not None and value == value}
        best = (max if which == "max" else min)(known) if which and len(known) > 1 else None
        cells = [_cell(value) + (" *" if value is not None and value == best else "") for value in values]
        rows.append([f"{metric} ({which or 'last'})", *cells])
    return Table("Scores (* the best run)", ("metric", *names), rows[:MOST_ROWS])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else str(value)


def commands_of_run(record: RunRecord) -> list[Command]:
    """Return the commands that repeat a training, prediction or segmentation of a run; none for others."""
    if record.kind not in SCRIPTS:
        return []
    source = next((run_id for kind, run_id in _parents(record) if kind != record.kind), None)
    source = record.info.get("prediction_run_id") if source is None else source
    commit = str(_repository(record).get("commit") or "")
    begin = [shell_command("git", "checkout", commit)] if commit else []
    if record.kind == "trainings":
        commands = [*begin, shell_command("python", SCRIPTS[record.kind], "--repeat_run", record.id)]
    elif source is None:
        commands = []
    else:
        file = f"{singular(record.kind)}_{record.id}.yaml"
        shown = shell_command("incasem-like", "runs", "show", f"{record.kind}/{record.id}", "--config")
        repeat = shell_command("python", SCRIPTS[record.kind], "--run_id", source, "with", file)
        commands = [*begin, f"{shown} > {file}", repeat]
    return [Command(text) for text in commands]


def methods_of_run(record: RunRecord) -> str:
    """Return sentences for a methods section: what was run on which data, and with which versions."""
    config, sentences = record.config, []
    versions = dict(entry.partition("==")[::2] for entry in record.experiment.get("dependencies") or ())
    own = versions.get("incasem-like", "")
    if record.kind == "trainings":
        training, model, size = (config.get(key) or {} for key in ("training", "model", "data"))
        optimizer = training.get("optimizer") or {}
        sentences.append(
            f"A {model.get('type', 'network')} with {record.info.get('num_params', 'unknown many')} parameters was "
            f"trained for {training.get('iterations')} iterations with a batch size of "
            f"{training.get('batch_size', 1)} and the optimizer {optimizer.get('type', 'Adam')} "
            f"(learning rate {optimizer.get('lr')}), on blocks of "
            f"{_times(training.get('output_size_voxels'))} voxels of {_times(size.get('voxel_size'))} nm."
        )
    elif record.kind in SCRIPTS:
        made = "predicted" if record.kind == "predictions" else "segmented"
        of = " and ".join(f"{singular(kind)} run {run_id}" for kind, run_id in _parents(record))
        sentences.append(f"Volumes were {made}" + (f" from {of}." if of else "."))
    named = [f"{name} {versions[name]}" for name in LIBRARIES if name in versions]
    if own or named:
        commit = f" (commit {_commit(record)})" if _commit(record) else ""
        sentences.append(f"We used incasem-like {own}{commit}" + (f" with {', '.join(named)}." if named else "."))
    return " ".join(sentences)


def _times(values: Any) -> str:
    return " x ".join(f"{value:g}" for value in values) if isinstance(values, list | tuple) else "unknown"
