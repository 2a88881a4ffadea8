"""What a series of predictions will do, checked before a run is started: regions, checkpoints, measures, places."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.config import SeriesConfig, resolve_training_config
from incasem_like.errors import ConfigError, InputError
from incasem_like.networks import for_this_machine
from incasem_like.prediction.channels import channel_groups
from incasem_like.prediction.computing.loading import load_network
from incasem_like.prediction.outputs import OutputPlace
from incasem_like.prediction.planning.checkpoint_choice import ChosenCheckpoint
from incasem_like.prediction.planning.plan import (
    PredictionPlan,
    load_regions_config,
    plan_prediction,
)
from incasem_like.prediction.planning.settling import settled_by, surveyed
from incasem_like.prediction.regions import describe_region, described
from incasem_like.prediction.series.choice import choose_series
from incasem_like.terminal import nearest
from incasem_like.tracking import RunRecord

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.prediction.planning.survey import Survey

MEASURES = ("dice_class", "jaccard_class", "precision", "recall")
DEFAULT_METRIC = "dice_class_1"


@dataclass(frozen=True)
class SeriesPlan:
    """All that is needed to predict with many checkpoints.

    Attributes:
        config: The configuration, ``log_metrics`` as it is carried out.
        plan: The plan of the first checkpoint; ``plan_of`` settles it.
        checkpoints: All of them, by iteration.
        metric: What the best one goes by; None where nothing is measured.
        surveys: What a worker said of checkpoints, by their hash, where one is asked.
    """

    config: SeriesConfig
    plan: PredictionPlan
    checkpoints: tuple[ChosenCheckpoint, ...]
    metric: str | None
    surveys: Mapping[str, Survey | None] = field(default_factory=dict)

    @property
    def measures(self) -> bool:
        """Whether there are labels to measure with."""
        return self.metric is not None

    @property
    def region_names(self) -> list[str]:
        """Names of the regions, in the order of the data configuration."""
        return [region.name for region in self.plan.regions]

    def surveyed(
        self, checkpoints: Sequence[ChosenCheckpoint], workers: Workers | None, *, ask: bool = True
    ) -> SeriesPlan:
        """Have a worker asked about checkpoints, all of them by one; arguments and errors as for ``settled``."""
        plans = [replace(self.plan, config=self.config, checkpoint=checkpoint) for checkpoint in checkpoints]
        found = surveyed(plans, workers, ask=ask)
        return replace(
            self, surveys={checkpoint.sha256: one for checkpoint, one in zip(checkpoints, found, strict=True)}
        )

    def plan_of(self, checkpoint: ChosenCheckpoint) -> PredictionPlan:
        """Load the network of one checkpoint, and settle its precision.

        Raises:
            CheckpointError: It is damaged.
        """
        network = self.plan.network
        if checkpoint != self.plan.checkpoint:
            network = load_network(self.plan.training.model, for_this_machine(self.config.torch), checkpoint.path)
        plan = replace(
            self.plan, config=self.config, checkpoint=checkpoint, network=network, precision=None, survey=None
        )
        return settled_by(plan, self.surveys.get(checkpoint.sha256))

    def places(self, run_id: int, iteration: int) -> list[OutputPlace]:
        """Say where the prediction of one iteration goes."""
        return self.plan.places(run_id, _part(iteration))

    def group(self, run_id: int, iteration: int) -> str:
        """Name the group, inside each container, of the prediction of one iteration."""
        return f"{self.plan.group(run_id)}/{_part(iteration)}"

    def folders(self, run_id: int, iteration: int) -> list[Path]:
        """List the folders that hold nothing but the prediction of one iteration."""
        group = self.group(run_id, iteration)
        return [container / group for container in {place.container for place in self.places(run_id, iteration)}]

    def check_free(self, run_id: int) -> None:
        """Make sure that no other run's predictions are where those of this one go.

        Raises:
            InputError: A run of that number wrote there.
        """
        for folder in {place.container / self.plan.group(run_id) for place in self.places(run_id, 0)}:
            if folder.exists():
                raise InputError(
                    f"{folder} already holds a prediction, made under another run store: move it away, "
                    "or set prediction.directories.prefix to another folder."
                )

    def left(self, done: Iterable[tuple[int, str]]) -> list[ChosenCheckpoint]:
        """Give the checkpoints that are not among these pairs of iteration and hash."""
        pairs = set(done)
        return [one for one in self.checkpoints if (one.iteration, one.sha256) not in pairs]

    @cached_property
    def identity(self) -> str:
        """Hash of all that makes it this series and no other, but for how many checkpoints there are by now."""
        config, plan = self.config, replace(self.plan, config=self.config)
        regions = [
            {**describe_region(plan, region), "checkpoint": None, **described(region)} for region in self.plan.regions
        ]
        facts: dict[str, Any] = {
            "training": self.plan.training_run_id,
            "regions": regions,
            "places": [str(place.container) for place in self.plan.places(0)],
            "series": config.series.model_dump(mode="json"),
            "metric": self.metric,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _part(iteration: int) -> str:
    return f"iteration_{iteration:06d}"


def plan_series(config: SeriesConfig, record: RunRecord, workers: Workers | None = None) -> SeriesPlan:
    """Find and check all that a series needs.

    Args:
        config: The configuration.
        record: The training run.
        workers: Who predicts; None for this process.

    Raises:
        ConfigError: As ``plan_prediction``; or nothing would be left of the series, or the metric is none.
        DataError: As ``plan_prediction``.
        CheckpointError: As ``choose_series``; or one is of another architecture.
    """
    config, metric = with_measures(config, record)
    checkpoints = choose_series(record, config.series)
    plan = plan_prediction(config, record, checkpoints[0], workers)
    if config.series.checkpoint_dir is not None:  # nobody registered what is in them
        for checkpoint in checkpoints[1:]:
            load_network(plan.training.model, for_this_machine(config.torch), checkpoint.path)
    return SeriesPlan(config, plan, tuple(checkpoints), metric)


def with_measures(config: SeriesConfig, record: RunRecord) -> tuple[SeriesConfig, str | None]:
    """Say what is measured: wherever there are labels.

    Args:
        config: The configuration.
        record: The training run.

    Returns:
        The configuration as it is carried out, and what the best iteration goes by; None where nothing is measured.

    Raises:
        ConfigError: The data configuration is wrong, nothing would be left of the series, or the metric is none.
    """
    config = _with(config, run_id_training=record.id)
    training = resolve_training_config(record.config, directories=config.directories)
    data = load_regions_config(config, training)
    if any(entry.labels for entry in data.entries) and not channel_groups(training.model):
        config = _with(config, log_metrics=True)
    metric = _metric(config, record, training.data.num_classes, len(data.entries))
    if metric is None and config.series.keep != "all":
        raise ConfigError(
            f"series.keep is {config.series.keep}, but nothing can be measured, for no entry of {data.path} names "
            'labels of the classes: set series.keep=all, or add "labels" to the entries.'
        )
    return config, metric


def _with(config: SeriesConfig, **changes: object) -> SeriesConfig:
    return config.model_copy(update={"prediction": config.prediction.model_copy(update=changes)})


def _metric(config: SeriesConfig, record: RunRecord, classes: int, regions: int) -> str | None:
    """Say what the best iteration goes by; None where nothing is measured.

    Raises:
        ConfigError: There is no such score.
    """
    means = [f"{measure}_{number}" for measure in MEASURES for number in range(classes)]
    known = [*means, *(f"{name}_ds_{index}" for name in means for index in range(regions))]
    wanted = config.series.metric
    if wanted is not None and wanted not in known:
        raise ConfigError(
            f"series.metric is '{wanted}', which is no score of {classes} classes and {regions} "
            f"region{'s' if regions > 1 else ''}{nearest(wanted, known)}: choose one such as {DEFAULT_METRIC}."
        )
    if not config.prediction.log_metrics:
        return None
    policy = (record.config.get("training") or {}).get("checkpoints") or {}
    of_training = re.sub(r"^(precision|recall)_class_", r"\1_", str(policy.get("best_metric")))
    return wanted or (of_training if of_training in known else DEFAULT_METRIC)
