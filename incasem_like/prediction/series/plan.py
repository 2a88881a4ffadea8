"""The plan of a series of predictions, checked before a run is started: checkpoints, metrics, outputs."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from incasem_like.blockwise.workers_file import Workers
from incasem_like.config import SeriesConfig, SeriesSection, resolve_training_config
from incasem_like.errors import CheckpointError, ConfigError
from incasem_like.networks import for_this_machine
from incasem_like.prediction.computing.loading import load_network
from incasem_like.prediction.outputs import OutputLocation
from incasem_like.prediction.planning.plan import PlannedNetwork, PredictionPlan
from incasem_like.prediction.planning.planner import Findings, load_regions_config, plan_prediction
from incasem_like.prediction.planning.probe import DeviceProfile
from incasem_like.terminal import nearest
from incasem_like.tracking import RunRecord
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import StorePolicy, listed, rank
from incasem_like.tracking.stores.records import ChosenCheckpoint

MEASURES = ("dice_class", "jaccard_class", "precision", "recall")
DEFAULT_METRIC = "dice_class_1"
log = logging.getLogger("incasem_like.prediction")


@dataclass(frozen=True)
class Entry:
    """The results of one checkpoint, as they are recorded in the run."""

    iteration: int
    sha256: str
    checkpoint: str
    scores: Mapping[str, float] = field(default_factory=dict)  # the defined ones of each region, and their means
    voxels: int = 0
    seconds: float = 0.0
    problem: str = ""  # why the prediction failed


@dataclass(frozen=True)
class SeriesPlan:
    """Everything that a series of predictions needs."""

    config: SeriesConfig  # ``log_metrics`` as it is carried out
    plan: PredictionPlan  # of the first checkpoint, not resolved
    checkpoints: tuple[ChosenCheckpoint, ...]  # all of them, by iteration
    metric: str | None  # decides on the best; None if nothing is measured
    profiles: Mapping[str, DeviceProfile | None] = field(default_factory=dict)  # by the hash of the checkpoint

    @property
    def region_names(self) -> list[str]:
        """Names of the regions, in the order of the data configuration."""
        return [region.name for region in self.plan.regions]

    def profiled(self, checkpoints: Sequence[ChosenCheckpoint], *, probe: bool = True) -> SeriesPlan:
        """Ask one worker about all these checkpoints; errors as for ``PredictionPlan.resolved``."""
        networks = [self._network(checkpoint) for checkpoint in checkpoints]
        found = self.plan.profiled(networks, probe=probe)
        return replace(self, profiles={one.source.checkpoint.sha256: one.profile for one in found})

    def plan_of(self, checkpoint: ChosenCheckpoint) -> PredictionPlan:
        """Load the network of one checkpoint, and resolve its precision.

        Raises:
            CheckpointError: It is damaged.
        """
        network = self._network(checkpoint)
        if checkpoint != self.plan.lead.source.checkpoint:
            module = load_network(network.source.model, for_this_machine(self.config.torch), checkpoint.path)
            network = replace(network, module=module)
        return replace(self.plan, networks=(self.plan.in_exact_precision(network),))

    def _network(self, checkpoint: ChosenCheckpoint) -> PlannedNetwork:
        lead = self.plan.lead
        profile = self.profiles.get(checkpoint.sha256)
        return replace(lead, source=replace(lead.source, checkpoint=checkpoint), profile=profile)

    def locations(self, run_id: int, iteration: int) -> list[OutputLocation]:
        """Return the outputs of the prediction of one iteration."""
        return self.plan.locations(run_id, _part(iteration))

    def folders(self, run_id: int, iteration: int) -> list[Path]:
        """Return the folders that contain only the prediction of one iteration, in the order of the regions."""
        group = f"{self.plan.group(run_id)}/{_part(iteration)}"
        return [location.container / group for location in self.locations(run_id, iteration)]

    def remaining(self, done: Iterable[Entry]) -> list[ChosenCheckpoint]:
        """Return the checkpoints without an entry."""
        pairs = {(entry.iteration, entry.sha256) for entry in done}
        return [one for one in self.checkpoints if (one.iteration, one.sha256) not in pairs]

    @cached_property
    def identity(self) -> str:
        """Hash of everything that identifies the series, except for the number of checkpoints so far."""
        facts: dict[str, Any] = {
            "training": self.plan.training_run_ids[0],
            "regions": [
                {**self.plan.describe(region), "checkpoint": None, **region.record} for region in self.plan.regions
            ],
            "locations": [str(location.container) for location in self.plan.locations(0)],
            "series": self.config.series.model_dump(mode="json"),
            "metric": self.metric,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _part(iteration: int) -> str:
    return f"iteration_{iteration:06d}"


def plan_series(
    config: SeriesConfig,
    record: RunRecord,
    workers: Workers | None = None,
    *,
    found: Findings | None = None,
) -> SeriesPlan:
    """Find and check everything that a series with the checkpoints of a training run needs; see ``plan_prediction``.

    Raises:
        ConfigError: As ``plan_prediction``; or the series would leave no result, or the metric does not exist.
        DataError: As ``plan_prediction``.
        CheckpointError: As ``choose_series``; or one is of another architecture.
    """
    found = found or Findings(workers=workers)
    metric: str | None = None
    checkpoints: list[ChosenCheckpoint] = []
    with found.collecting():
        config, metric = _with_measures(config, record)
    with found.collecting():
        checkpoints = choose_series(record, config.series)
    checkpoint = checkpoints[0] if checkpoints else None
    plan = plan_prediction(config, [record], checkpoint=checkpoint, found=found)
    if not checkpoints:
        found.stop()
    if config.series.checkpoint_dir is not None:  # their checkpoints are not registered
        for checkpoint in checkpoints[1:]:
            with found.collecting():
                load_network(plan.training.model, for_this_machine(config.torch), checkpoint.path)
    return SeriesPlan(config, plan, tuple(checkpoints), metric)


def _with_measures(config: SeriesConfig, record: RunRecord) -> tuple[SeriesConfig, str | None]:
    """Return the configuration in effect, in which regions with labels are measured, and the metric that decides.

    Raises:
        ConfigError: The data configuration is wrong, the series would leave no result, or the metric does not exist.
    """

    def changed(**changes: object) -> SeriesConfig:
        return config.model_copy(update={"prediction": config.prediction.model_copy(update=changes)})

    config = changed(run_id_training=record.id)
    training = resolve_training_config(record.config, directories=config.directories)
    data = load_regions_config(config, training)
    if any(entry.labels for entry in data.entries) and not training.model.outputs:
        config = changed(log_metrics=True)
    classes, regions, wanted = training.data.num_classes, len(data.entries), config.series.metric
    means = [f"{measure}_{number}" for measure in MEASURES for number in range(classes)]
    known = [*means, *(f"{name}_ds_{index}" for name in means for index in range(regions))]
    if wanted is not None and wanted not in known:
        raise ConfigError(
            f"series.metric is '{wanted}', which is not a score of {classes} classes and {regions} "
            f"region{'s' if regions > 1 else ''}{nearest(wanted, known)}: choose one such as {DEFAULT_METRIC}."
        )
    if config.prediction.log_metrics:
        policy = (record.config.get("training") or {}).get("checkpoints") or {}
        of_training = re.sub(r"^(precision|recall)_class_", r"\1_", str(policy.get("best_metric")))
        return config, wanted or (of_training if of_training in known else DEFAULT_METRIC)
    if config.series.keep != "all":
        raise ConfigError(
            f"series.keep is {config.series.keep}, but nothing can be measured, since no entry of {data.path} names "
            'labels of the classes: set series.keep=all, or add "labels" to the entries.'
        )
    return config, None


def choose_series(record: RunRecord, section: SeriesSection) -> list[ChosenCheckpoint]:
    """Find the checkpoints of a series, by iteration, each verified against what the training run registered.

    A checkpoint that cannot be found is left out, with a warning, unless ``section.step`` asks for it.

    Raises:
        CheckpointError: None is left, one that ``section.step`` asks for is missing, or one changed since it was
            tracked.
    """
    if section.checkpoint_dir is not None:
        folder, basename = section.checkpoint_dir, section.checkpoint_basename
        if not folder.is_dir():
            raise CheckpointError(f"The folder {folder} does not exist: correct series.checkpoint_dir.")
        name = re.compile(rf"{re.escape(basename)}(\d+)")
        files = {int(match[1]): path for path in folder.iterdir() if (match := name.fullmatch(path.name))}
        if not files:
            raise CheckpointError(
                f"{folder} holds no file called {basename} and a number: correct series.checkpoint_dir or "
                "series.checkpoint_basename."
            )
        wanted = _in_range(files, section, f"{folder}")
        return [ChosenCheckpoint(files[iteration], file_sha256(files[iteration]), iteration) for iteration in wanted]
    known = {checkpoint.iteration: checkpoint for checkpoint in record.checkpoints}
    run = f"Training run {record.id} in {record.store.description} ({record.status})"
    if not known:
        raise CheckpointError(f"{run} has no checkpoint: choose another run.")
    found = [known[iteration] for iteration in _in_range(known, section, run)]
    if section.step is None:
        there = [checkpoint for checkpoint in found if not checkpoint.is_nowhere()]
        lost = [checkpoint.iteration for checkpoint in found if checkpoint not in there]
        if lost and there:
            log.warning(
                "%s lacks checkpoints, which are neither on this machine nor in the run store, left out: iteration %s.",
                run,
                listed(lost),
            )
        found = there or found  # fetching the first then reports where it was looked for
    if section.best is not None:
        policy = StorePolicy.from_config(record.config)
        ranked = rank(found, policy.metric, policy.mode)
        if not ranked:
            raise CheckpointError(
                f"No checkpoint of training run {record.id} in that range was measured by '{policy.metric}': leave "
                "series.best out to take all."
            )
        found = sorted(ranked[: section.best], key=lambda checkpoint: checkpoint.iteration)
    return [ChosenCheckpoint(one.fetch(), one.sha256, one.iteration) for one in found]


def _in_range(known: Collection[int], section: SeriesSection, whose: str) -> list[int]:
    """Return the wanted ones of the known iterations, ascending."""
    there = sorted(known)
    start = there[0] if section.start is None else section.start
    stop = there[-1] if section.stop is None else section.stop
    if section.step is None:
        wanted = [iteration for iteration in there if start <= iteration <= stop]
        if not wanted:
            raise CheckpointError(
                f"{whose} has no checkpoint from iteration {start} to {stop}: choose a range with some of "
                f"{listed(there)}."
            )
        return wanted
    wanted = list(range(start, stop + 1, section.step))
    missing = [iteration for iteration in wanted if iteration not in known]
    if missing or not wanted:
        raise CheckpointError(
            f"{whose} has no checkpoint of iteration {listed(missing or [start])}, which series.step={section.step} "
            f"asks for: it has {listed(there)}; leave series.step out to take those."
        )
    return wanted
