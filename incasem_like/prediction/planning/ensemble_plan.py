"""What a prediction by several networks will do, checked before a run is started: that they agree, and who leads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from incasem_like.config import PredictionConfig, TrainingConfig, resolve_training_config
from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import ConfigError
from incasem_like.networks import for_this_machine
from incasem_like.prediction.channels import channel_groups
from incasem_like.prediction.computing.loading import load_network, tile_memory
from incasem_like.prediction.computing.predictor import Predictor
from incasem_like.prediction.computing.weights import NetworkPlace, joint_predictor
from incasem_like.prediction.planning.checkpoint_choice import checkpoint_for, choose_checkpoint
from incasem_like.prediction.planning.plan import PredictionPlan, plan_prediction
from incasem_like.prediction.planning.tile_size import TileChoice, TileSpeed
from incasem_like.samples import Region
from incasem_like.tracking import RunRecord

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

# The tile by which the networks' hunger for memory is compared, in voxels written along each axis.
COMPARED_EDGE = 64


@dataclass(frozen=True)
class EnsemblePlan(PredictionPlan):
    """All that is needed to predict the mean of several networks.

    What a plan of one network says of its network, this says of the one that needs most memory: its tiles suit the
    others too.

    Attributes:
        members: A plan for each network, in the order in which the runs were named.
        weights: What each of them counts.
    """

    members: tuple[PredictionPlan, ...] = ()
    weights: tuple[float, ...] = ()

    @classmethod
    def of(cls, members: Sequence[PredictionPlan], weights: Sequence[float]) -> EnsemblePlan:
        """Put the plans of single networks together."""
        lead = max(members, key=_bytes_of_a_tile)  # the first of equals, so that it is the same when gone on with
        of_lead = {field.name: getattr(lead, field.name) for field in fields(PredictionPlan)}
        return cls(**of_lead, members=tuple(members), weights=tuple(weights))

    @property
    def training_run_ids(self) -> tuple[int, ...]:
        """The training runs whose networks predict."""
        return tuple(member.training_run_id for member in self.members)

    @property
    def lineage(self) -> dict[str, Any]:
        """Where each network comes from, and what it counts."""
        members = zip(self.members, self.weights, strict=True)
        return {"members": [{**member.lineage, "weight": weight} for member, weight in members]}

    @property
    def networks_description(self) -> dict[str, Any]:
        """What of the networks the values depend on."""
        members = zip(self.members, self.weights, strict=True)
        return {
            "networks": [
                {**member.networks_description, "precision": member.config.torch.precision, "weight": weight}
                for member, weight in members
            ]
        }

    @property
    def knows_precision(self) -> bool:
        """Whether it is settled in which precision each network computes."""
        return all(member.knows_precision for member in self.members)

    @property
    def iteration(self) -> int:
        """The iteration that scores are logged at; 0 where there is none, or more than one."""
        iterations = {member.iteration for member in self.members}
        return iterations.pop() if len(iterations) == 1 else 0

    @property
    def network_places(self) -> tuple[NetworkPlace, ...]:
        """Where workers find the networks, that whose tiles are taken first."""
        counted = {id(member): weight for member, weight in zip(self.members, self.weights, strict=True)}
        return tuple(
            replace(place, weight=counted[id(member)]) for member in self._ordered for place in member.network_places
        )

    @property
    def num_params(self) -> int:
        """Parameters of all networks together."""
        return sum(member.num_params for member in self.members)

    @property
    def networks_at_once(self) -> int:
        """How many networks share the memory: on a CPU they work side by side, a GPU does one tile at a time."""
        return 1 if self.on_gpu else len(self.members)

    def group(self, prediction_id: int) -> str:
        """Name the group, inside each container, of what a prediction run writes."""
        runs = "_".join(f"{run_id:04d}" for run_id in self.training_run_ids)
        return f"volumes/predictions/ensemble_{runs}/predict_{prediction_id:04d}"

    def choose_tiles(self, region: Region, workers: Workers | None = None) -> TileChoice:
        """As ``PredictionPlan.choose_tiles``; the memory is that of all networks."""
        configured = self.config.prediction.input_size_voxels
        if configured is not None:
            return self.describe_tiles(region, configured)
        choice = super().choose_tiles(region, workers)
        return replace(choice, bytes=choice.bytes * self.networks_at_once)

    def describe_tiles(self, region: Region, input_size: Sequence[int]) -> TileChoice:
        """As ``PredictionPlan.describe_tiles``; the memory is that of all networks."""
        choice = super().describe_tiles(region, input_size)
        return replace(choice, bytes=choice.bytes * self.networks_at_once)

    def speed(self, most_voxels: float) -> TileSpeed:
        """Say how long a tile takes all networks together."""
        speeds = [member.speed(most_voxels) for member in self.members]
        return TileSpeed(
            per_input=sum(speed.per_input for speed in speeds),
            per_output=sum(speed.per_output for speed in speeds),
            per_tile=sum(speed.per_tile for speed in speeds),
            measured=all(speed.measured for speed in speeds),
        )

    def predictor(self, input_size: Sequence[int]) -> Predictor:
        """Make what predicts with tiles of that size, those of the network that needs most memory."""
        loaded = [(member.network, place) for member, place in zip(self._ordered, self.network_places, strict=True)]
        return joint_predictor(loaded, self.config.prediction, input_size)

    @property
    def _ordered(self) -> list[PredictionPlan]:
        """The members, the one whose tiles are taken first."""
        return sorted(self.members, key=lambda member: member.network is not self.network)


def plan_ensemble(
    config: PredictionConfig, records: Sequence[RunRecord], workers: Workers | None = None
) -> PredictionPlan:
    """Find and check all that the mean of several networks needs, unsettled; of one it is that one's plan.

    Args:
        config: The configuration of the prediction.
        records: The training runs.
        workers: Who predicts; None for this process.

    Raises:
        ConfigError: As ``plan_prediction``; or the networks do not mean the same, or the numbers of weights or
            checkpoints are not that of the runs.
        DataError, CheckpointError: As ``plan_prediction``.
    """
    check_counts(config, len(records))
    first = plan_prediction(config, records[0], workers=workers)
    others = [add_member(config, first, *one) for one in enumerate(records[1:], 1)]
    return ensemble_of(config, [first, *others])


def ensemble_of(config: PredictionConfig, members: Sequence[PredictionPlan]) -> PredictionPlan:
    """Put members together with the weights that are configured; one alone stays as it is."""
    if len(members) == 1:
        return members[0]
    return EnsemblePlan.of(members, config.prediction.weights or (1.0,) * len(members))


def check_counts(config: PredictionConfig, runs: int) -> None:
    """Make sure that there are as many weights and checkpoints as training runs, where several are given.

    Raises:
        ConfigError: There are not.
    """
    section = config.prediction
    checkpoints = section.checkpoint if isinstance(section.checkpoint, tuple) else None
    for key, values in (("prediction.checkpoint", checkpoints), ("prediction.weights", section.weights)):
        if values is not None and len(values) != runs:
            raise ConfigError(
                f"{key} lists {len(values)} value{'s' if len(values) > 1 else ''} for {runs} training "
                f"run{'s' if runs > 1 else ''}: give one for each run, in the order of the runs."
            )


def add_member(config: PredictionConfig, first: PredictionPlan, index: int, record: RunRecord) -> PredictionPlan:
    """Plan one more network for the regions of the first.

    Args:
        config: The configuration of the prediction.
        first: The plan of the first network, not settled yet.
        index: Which of the runs this is.
        record: The training run.

    Raises:
        ConfigError: Its network does not mean the same as the first one's.
        CheckpointError: As ``plan_prediction``.
    """
    training = resolve_training_config(record.config, directories=config.directories)
    check_same_meaning(first.training_run_id, first.training, record.id, training)
    checkpoint = choose_checkpoint(record, checkpoint_for(config, index))
    network = load_network(training.model, for_this_machine(config.torch), checkpoint.path)
    return replace(first, training=training, training_run_id=record.id, checkpoint=checkpoint, network=network)


def check_same_meaning(first_id: int, first: TrainingConfig, other_id: int, other: TrainingConfig) -> None:
    """Make sure that the outputs of two networks mean the same, voxel by voxel and class by class.

    Architecture, input size and context may differ.

    Raises:
        ConfigError: Something differs; it is named.
    """
    for key, words, before, now in (
        ("data.voxel_size", "voxels of {} nm", first.data.voxel_size, other.data.voxel_size),
        ("data.downsample_factor", "every {}. voxel", first.data.downsample_factor, other.data.downsample_factor),
        ("data.num_classes", "{} classes with background", first.data.num_classes, other.data.num_classes),
        ("model.in_channels", "{} channels of raw", first.model.in_channels, other.model.in_channels),
        ("model.outputs", "{} as outputs", _outputs(first), _outputs(other)),
    ):
        if isinstance(before, tuple) and isinstance(now, tuple) and same_voxel_size(before, now):
            continue
        if before != now:
            shown = [words.format(list(value) if isinstance(value, tuple) else value) for value in (before, now)]
            raise ConfigError(
                f"Training run {first_id} was trained with {shown[0]}, run {other_id} with {shown[1]} ({key}): the "
                "mean of their probabilities would mean nothing; choose runs that agree in it."
            )


def _outputs(training: TrainingConfig) -> str:
    groups = channel_groups(training.model)
    return ", ".join(f"{group.name} ({group.channels}, {group.activation})" for group in groups) or "classes"


def _bytes_of_a_tile(member: PredictionPlan) -> int:
    config = member.config
    memory = tile_memory(member.network, member.training.model, config.torch, config.prediction.test_time_augmentation)
    size = member.geometry.input_for_output([COMPARED_EDGE] * 3)
    return int(memory.bytes(*map(float, size)))
