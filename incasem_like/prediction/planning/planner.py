"""The planner: finds and checks everything that a prediction needs, before a run is started; collects its problems."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from incasem_like.blockwise.workers_file import Workers, load_workers, worker_problems
from incasem_like.config import (
    DataConfig,
    PredictionConfig,
    TrainingConfig,
    load_data_config,
    required_file,
    resolve_training_config,
)
from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import ConfigError, IncasemError
from incasem_like.networks import check_output, for_this_machine
from incasem_like.prediction.computing.loading import NetworkSource, load_network
from incasem_like.prediction.computing.tiling import NONE
from incasem_like.prediction.planning.plan import PlannedNetwork, PredictionPlan
from incasem_like.prediction.planning.probe import needs_probe
from incasem_like.samples import Region, open_regions
from incasem_like.tracking import RunRecord, RunStore
from incasem_like.tracking.stores.records import ChosenCheckpoint, choose_checkpoint
from incasem_like.tracking.values import without_credentials

log = logging.getLogger(__name__)


@dataclass
class Findings:
    """What is found out before a prediction starts; each problem is raised at once, or collected for a dry run."""

    collects: bool = False
    workers: Workers | None = None  # None: this process predicts
    knows_workers: bool = True  # False if the workers file is wrong
    runs: RunStore | None = None  # None if predictions are not tracked, or the store cannot be opened
    next_id: int = 1  # of a new run
    lines: list[str] = field(default_factory=list)  # the report for the user, problems included
    problems: list[str] = field(default_factory=list)  # that would stop the prediction, a sentence each

    @classmethod
    def collected(cls, store: Callable[[], RunStore | None], workers_file: Path | None) -> Findings:
        """Begin a dry run: open the run store and read the workers file."""
        found = cls(collects=True, knows_workers=workers_file is None)
        with found.collecting():
            found.runs = store()
            found.next_id += max(found.runs.ids() if found.runs is not None else (), default=0)
        if workers_file is not None:
            with found.collecting():
                found.workers = load_workers(workers_file)
                found.knows_workers = True
                for problem in worker_problems(found.workers):
                    found.add(problem)
        return found

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the error that ends the block inside, and continue after it."""
        try:
            yield
        except IncasemError as error:
            self.add(error)

    def add(self, error: IncasemError) -> None:
        """Note a problem, or raise it."""
        if not self.collects:
            raise error
        if str(error) not in self.problems:
            self.problems.append(str(error))
            self.lines.append(f"Problem: {error}")

    def stop(self) -> NoReturn:
        """End a dry run that cannot check anything else, by the first of its problems, which is noted already."""
        raise IncasemError(self.problems[0])


def plan_prediction(
    config: PredictionConfig,
    records: Sequence[RunRecord],
    workers: Workers | None = None,
    *,
    checkpoint: ChosenCheckpoint | None = None,
    found: Findings | None = None,
) -> PredictionPlan:
    """Find and check everything that a prediction needs, except for the values that ``PredictionPlan.resolved`` adds.

    Args:
        config: The configuration of the prediction.
        records: The training runs; with several, the mean of their networks is predicted.
        workers: The workers that predict; None for this process.
        checkpoint: The weights of a single network; None for those of ``prediction.checkpoint``.
        found: Collects all problems, and names the workers instead of ``workers``; None raises the first one. Where
            the workers are not known, the device is not checked, and no plan is returned.

    Raises:
        ConfigError: ``prediction.data`` is missing or wrong, the device does not exist, the tiles do not suit the
            network, or the networks' outputs differ in meaning.
        DataError: A volume is missing, or does not fit (see ``open_regions``).
        CheckpointError: A checkpoint is missing, changed since it was tracked, or of another architecture.
    """
    found = found or Findings(workers=workers)
    _check_counts(config, len(records))
    trainings = [resolve_training_config(record.config, directories=config.directories) for record in records]
    for record, training in zip(records, trainings, strict=True):
        if "voxel_size" not in (record.config.get("data") or {}):
            log.warning(
                "Training run %s does not record its voxel size: incasem's default is assumed, %s nm.",
                record.id,
                list(training.data.voxel_size),
            )
    data: DataConfig | None = None
    is_probed: bool | None = None
    regions: list[Region] = []
    networks: list[PlannedNetwork] = []
    url, runs = config.tracking.url, config.directories.runs
    store = url if url == without_credentials(url) else None
    with found.collecting():
        data = load_regions_config(config, trainings[0])
    if found.knows_workers:
        with found.collecting():
            is_probed = needs_probe(config, found.workers)
    if data is not None:
        training = trainings[0]  # several agree in what follows
        regions = open_regions(
            data,
            num_classes=training.data.num_classes,
            # What reads predictions depends on their lengths in voxels, which are compared.
            voxel_size=data.voxel_size if training.model.inputs else training.data.voxel_size,
            need_labels=config.prediction.log_metrics,
            downsample_factor=training.data.downsample_factor,
            inputs=training.model.inputs or (),
            collecting=found.collecting,
        )
    for index, (record, training) in enumerate(zip(records, trainings, strict=True)):
        with found.collecting():
            _check_same_meaning(records[0].id, trainings[0], record.id, training)
            which, weights = config.prediction.checkpoint, config.prediction.weights
            wanted = which[index] if isinstance(which, tuple) else which
            chosen = checkpoint or choose_checkpoint(record, wanted)
            if training.model.type == "Custom":  # others return what they declare
                check_output(training.model)
            module = load_network(training.model, for_this_machine(config.torch), chosen.path)
            weight = weights[index] if weights else 1.0
            source = NetworkSource(training.model, config.torch, chosen, record.id, store, runs, weight)
            networks.append(PlannedNetwork(source, training, module))
    if data is None or is_probed is None or not regions or len(networks) < len(records):
        found.stop()
    plan = PredictionPlan(config, data, tuple(regions), tuple(networks), found.workers, is_probed)
    _check_tiles(plan)
    return plan


def load_regions_config(config: PredictionConfig, training: TrainingConfig) -> DataConfig:
    """Read the regions to predict.

    Raises:
        ConfigError: ``prediction.data`` is missing or wrong; its voxels are not those of the training; metrics are
            requested for channels other than classes, mirroring for channels that may mean a direction, or uint8 for
            values beyond 0 to 1.
    """
    section = config.prediction
    path = required_file(section.data, "prediction.data")
    groups = training.model.outputs or ()
    names = ", ".join(group.name for group in groups)
    if section.log_metrics and groups:
        raise ConfigError(
            f"prediction.log_metrics compares classes with labels, but the network gives {names}: set it to false."
        )
    if section.output_dtype == "uint8" and any(group.activation == "none" for group in groups):
        raise ConfigError(
            f"prediction.output_dtype=uint8 stores values from 0 to 1, but the network gives {names} without an "
            "activation: set it to float32 or float16."
        )
    if section.test_time_augmentation != NONE and any(group.activation != "softmax" for group in groups):
        raise ConfigError(
            f"prediction.test_time_augmentation={section.test_time_augmentation} averages mirrored positions, but the "
            f"network gives {names}, which may mean a direction, as affinities do: set it to none."
        )
    num_classes = training.data.num_classes if section.log_metrics else None
    data = load_data_config(path, config.directories.data, num_classes=num_classes)
    sizes = training.data.voxel_size, data.voxel_size
    if not training.model.inputs and not same_voxel_size(*sizes):  # else lengths are compared in voxels
        wanted, given = (" ".join(f"{edge:.10g}" for edge in size) for size in sizes)
        raise ConfigError(
            f"{data.entries[0].name} in {path} has voxels of {given} nm, but the network was trained with {wanted} nm: "
            f"resample the volume first (10_derive_volume.py resample --voxel_size {wanted} ...), choose another "
            "network, or correct the entry's voxel_size."
        )
    return data


def _check_tiles(plan: PredictionPlan) -> None:
    """Check that configured tile sizes suit the network and every region, or raise ConfigError."""
    input_size, output_size = plan.config.prediction.input_size_voxels, plan.config.prediction.output_size_voxels
    if input_size is None:
        return
    given = plan.geometry.output_size(input_size)
    if output_size is not None and tuple(output_size) != given:
        raise ConfigError(
            f"prediction.output_size_voxels is {list(output_size)}, but the network makes {list(given)} of "
            f"prediction.input_size_voxels {list(input_size)}: correct it or set it to null."
        )
    for region in plan.regions:
        plan.predictor(input_size).steps(region.roi, region.raw_roi.begin)


def _check_counts(config: PredictionConfig, runs: int) -> None:
    """Check that there are as many weights and checkpoints as training runs, or raise ConfigError."""
    section = config.prediction
    checkpoints = section.checkpoint if isinstance(section.checkpoint, tuple) else None
    for key, values in (("prediction.checkpoint", checkpoints), ("prediction.weights", section.weights)):
        if values is not None and len(values) != runs:
            raise ConfigError(
                f"{key} lists {len(values)} value{'s' if len(values) > 1 else ''} for {runs} training "
                f"run{'s' if runs > 1 else ''}: give one for each run, in the order of the runs."
            )


def _check_same_meaning(first_id: int, first: TrainingConfig, other_id: int, other: TrainingConfig) -> None:
    """Check that the outputs of two networks mean the same, or raise ConfigError; their architectures may differ."""
    voxel_size = first.data.voxel_size
    ours, theirs = (
        {f"{group.name}.{key}": value for group in one.model.outputs or () for key, value in group.attributes.items()}
        for one in (first, other)
    )
    other_size = voxel_size if same_voxel_size(voxel_size, other.data.voxel_size) else other.data.voxel_size
    for key, words, before, now in (
        ("data.voxel_size", "voxels of {} nm", list(voxel_size), list(other_size)),
        ("data.downsample_factor", "every {}. voxel", first.data.downsample_factor, other.data.downsample_factor),
        ("data.num_classes", "{} classes with background", first.data.num_classes, other.data.num_classes),
        ("model.in_channels", "{} channels of raw", first.model.in_channels, other.model.in_channels),
        ("model.outputs", "{} as outputs", _outputs(first), _outputs(other)),
        *(("targets", f"{key} {{}}", ours.get(key), theirs.get(key)) for key in {**ours, **theirs}),
    ):
        if before != now:
            raise ConfigError(
                f"Training run {first_id} was trained with {words.format(before)}, run {other_id} with "
                f"{words.format(now)} ({key}): the mean of their probabilities would mean nothing; choose runs that "
                "agree in it."
            )


def _outputs(training: TrainingConfig) -> str:
    groups = training.model.outputs or ()
    return ", ".join(f"{group.name} ({group.channels}, {group.activation})" for group in groups) or "classes"
