"""The state that a training begins with: random weights, another's checkpoint, or its own last one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.config import resolve_training_config
from incasem_like.config.network_sections import AutoContextModel, UnetModel
from incasem_like.config.voxel_size import same_voxel_size
from incasem_like.errors import CheckpointError, ConfigError
from incasem_like.networks import build_network, load_checkpoint
from incasem_like.tracking import Continuation, file_sha256
from incasem_like.tracking.model.summaries import origins
from incasem_like.tracking.stores.records import choose_checkpoint
from incasem_like.training.checkpoints import CheckpointFolder, RunFolders
from incasem_like.training.continuing import Resumption, check_same_data, find_resumption
from incasem_like.training.optimizers import make_optimizer

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.tracking import RunRecord, RunStore
    from incasem_like.training.optimization import Optimization
    from incasem_like.training.preflight import CheckedTraining


@dataclass(frozen=True)
class StartingPoint:
    """The weights a training starts with.

    Attributes:
        run_id: The training run they come from; None for a file without a run.
        path: The checkpoint.
        sha256: SHA-256 of the file.
        iteration: Number of updates it has seen; None for a file that the run did not register.
        keep_optimizer: Whether the optimizer's moments are loaded too.
        role: What the weights are in the network; empty for all of it.
    """

    run_id: int | None
    path: Path
    sha256: str
    iteration: int | None
    keep_optimizer: bool
    role: str = ""

    @property
    def lineage(self) -> dict[str, Any]:
        """Return the run's parent for its record."""
        return {
            "training_run_id": self.run_id,
            "checkpoint": str(self.path),
            "sha256": self.sha256,
            "iteration": self.iteration,
            **({"role": self.role} if self.role else {}),
        }

    @property
    def described(self) -> str:
        """Return a description of the starting point."""
        where = str(self.path) if self.run_id is None else f"training run {self.run_id}"
        return where if self.iteration is None else f"{where}, iteration {self.iteration}"

    def load(self, optimization: Optimization) -> None:
        """Load the weights, and the optimizer's moments if they are kept, into a training."""
        optimization.start_from(self.path, keep_optimizer=self.keep_optimizer)


def find_start(config: TrainingConfig, trainings: Callable[[], RunStore]) -> StartingPoint | None:
    """Find the checkpoint that ``training.start_from`` names, and check that the training can start from it.

    Args:
        config: The configuration.
        trainings: Opens the store that holds the training it comes from.

    Returns:
        The starting point; None if none is named.

    Raises:
        RunNotFoundError: The training does not exist.
        CheckpointError: The checkpoint does not exist, was changed, or does not fit the network.
    """
    wanted = config.training.start_from
    if not wanted.named:
        return None
    keep = wanted.optimizer == "keep"
    if wanted.run_id is None:
        path = Path(str(wanted.checkpoint)).expanduser().absolute()
        if not path.is_file():
            raise CheckpointError(f"The checkpoint {path} does not exist: correct training.start_from.checkpoint.")
        start = StartingPoint(None, path, file_sha256(path), None, keep)
    else:
        chosen = choose_checkpoint(trainings().get(wanted.run_id), wanted.checkpoint)
        start = StartingPoint(wanted.run_id, chosen.path, chosen.sha256, chosen.iteration, keep)
    _check(start, config)
    return start


def _check(start: StartingPoint, config: TrainingConfig) -> None:
    network = build_network(config.model)
    checkpoint = load_checkpoint(start.path, network)
    if not start.keep_optimizer:
        return
    if checkpoint.optimizer_state is None:
        raise CheckpointError(
            f"{start.path} holds no optimizer state that could be kept: set training.start_from.optimizer=reset."
        )
    optimizer = make_optimizer(config.training.optimizer, network)
    saved, own = checkpoint.optimizer_state["param_groups"][0], optimizer.param_groups[0]
    if not saved.keys() >= {key for key in ("betas", "momentum", "alpha", "nesterov") if key in own}:
        raise CheckpointError(
            f"{start.path} holds the state of another optimizer than training.optimizer.type="
            f"{config.training.optimizer.type}: set training.start_from.optimizer=reset."
        )
    load_checkpoint(start.path, network, optimizer)


ROLE = "first network"


def with_first_network(config: TrainingConfig, trainings: Callable[[], RunStore]) -> TrainingConfig:
    """Return the configuration with the network of ``model.first_run_id`` as ``model.first``.

    Args:
        config: The configuration of a new training.
        trainings: Opens the store that holds the run.

    Raises:
        RunNotFoundError: The run does not exist.
        ConfigError: Its network is not a U-Net, or was trained with other voxels.
    """
    model = config.model
    if not isinstance(model, AutoContextModel) or model.first_run_id is None or config.training.start_from.named:
        return config  # a checkpoint to start from contains both networks, and its configuration describes them
    first = resolve_training_config(trainings().get(model.first_run_id).config)
    if not isinstance(first.model, UnetModel):
        raise ConfigError(
            f"model.first_run_id={model.first_run_id} is a run of a {first.model.type}, but the first network has to "
            "be a Unet: name another run."
        )
    for key, theirs, ours in (
        ("voxel_size", first.data.voxel_size, config.data.voxel_size),
        ("downsample_factor", (first.data.downsample_factor,), (config.data.downsample_factor,)),
    ):
        if not same_voxel_size(theirs, ours):
            raise ConfigError(
                f"model.first_run_id={model.first_run_id} was trained with data.{key}={list(theirs)}, but this "
                f"training has {list(ours)}: use the same voxels, or name another run."
            )
    return config.model_copy(update={"model": model.model_copy(update={"first": first.model})})


def find_first_network(
    config: TrainingConfig, trainings: Callable[[], RunStore], earlier: RunRecord | None = None
) -> StartingPoint | None:
    """Find the weights of the first network, and check that they fit it; None where the network has no such part.

    Args:
        config: The configuration.
        trainings: Opens the store that holds the run.
        earlier: A run that began with the same configuration, resumed or repeated: its weights are used again.

    Raises:
        RunNotFoundError: The run does not exist.
        CheckpointError: The checkpoint does not exist, was changed, or does not fit ``model.first``.
        ConfigError: No checkpoint is named.
    """
    model = config.model
    if not isinstance(model, AutoContextModel):
        return None
    if model.first_run_id is not None:
        record = trainings().get(model.first_run_id)
        parents = earlier.parent if earlier is not None and isinstance(earlier.parent, Mapping) else {}
        used = next((str(one["sha256"]) for one in origins(parents) if one.get("role") == ROLE), None)
        known = [str(one.iteration) for one in record.checkpoints if one.sha256 == used]
        if used is not None and not known:
            raise CheckpointError(
                f"The checkpoint of training run {record.id} that the first network had (sha256 {used[:8]}) is not "
                "registered any more: start a new training."
            )
        chosen = choose_checkpoint(record, known[0] if known else model.first_checkpoint)
        found = StartingPoint(record.id, chosen.path, chosen.sha256, chosen.iteration, False, ROLE)
    elif model.first_checkpoint is not None:
        path = Path(model.first_checkpoint).expanduser().absolute()
        if not path.is_file():
            raise CheckpointError(f"The checkpoint {path} does not exist: correct model.first_checkpoint.")
        found = StartingPoint(None, path, file_sha256(path), None, False, ROLE)
    else:
        raise ConfigError(
            "model.first_run_id and model.first_checkpoint are null: name the training run of the first network."
        )
    load_checkpoint(found.path, build_network(model.first))
    return found


@dataclass(frozen=True)
class Beginning:
    """The state that a training begins with.

    Attributes:
        start: The checkpoint of another training, for the first iteration; None for random weights.
        resumption: The checkpoint that the run resumes from; None for a new run.
        first: The weights of the frozen first network of an AutoContext that does not start from a checkpoint.
    """

    start: StartingPoint | None = None
    resumption: Resumption | None = None
    first: StartingPoint | None = None

    @property
    def iteration(self) -> int:
        """The last finished iteration."""
        return 0 if self.resumption is None else self.resumption.iteration

    @property
    def lineage(self) -> dict[str, Any]:
        """Where weights come from; empty for random ones."""
        origin = self.start or self.first
        return {} if origin is None else origin.lineage


class BeginningFinder:
    """Finds a training's beginning: before anything is written, and again once a resumed run has been claimed.

    Args:
        checked: The configuration.
        trainings: Opens the store of the training that ``training.start_from`` names.
        continued: The run to resume; None for a new one.
        repeats: The run whose configuration is repeated, if any.

    Attributes:
        found: The beginning.

    Raises:
        InputError: The requested beginning cannot be found (see ``start.find_start``, ``continuing.find_resumption``).
    """

    def __init__(
        self,
        checked: CheckedTraining,
        trainings: Callable[[], RunStore],
        continued: RunRecord | None,
        repeats: RunRecord | None = None,
    ) -> None:
        self._checked, self._trainings, self._continued, self._repeats = checked, trainings, continued, repeats
        if continued is not None:
            check_same_data(continued, checked)
        self.found = self._find(continued)

    @property
    def leaves_nothing_to_do(self) -> bool:
        """Whether the run is recorded as completed, and has had all its iterations or stopped early as it would now."""
        if self._continued is None or self._continued.status != "COMPLETED":
            return False
        wanted, before = self._checked.config.training, self._continued.config.get("training") or {}
        stopped_early = self.found.iteration < int(before.get("iterations") or 0)
        patience = wanted.early_stopping
        stops_again = stopped_early and patience is not None and patience <= (before.get("early_stopping") or 0)
        return stops_again or self.found.iteration == wanted.iterations

    @property
    def continuation(self) -> Continuation | None:
        """The continuation as the run's record stores it; None for a new run."""
        return None if self._continued is None else Continuation(self._continued.id, self._find_again)

    def _find_again(self) -> int:
        assert self._continued is not None
        self.found = self._find(self._continued.store.get(self._continued.id))
        return self.found.iteration

    def _find(self, continued: RunRecord | None) -> Beginning:
        config = self._checked.config
        if continued is None:
            return self._new(self._repeats)
        folders = RunFolders.of_run(config.directories.runs, continued.id)
        resumption = find_resumption(continued, CheckpointFolder(folders.models))
        if resumption.iteration > config.training.iterations:
            raise ConfigError(
                f"Run {continued.id} has had {resumption.iteration} iterations, but training.iterations is "
                f"{config.training.iterations}: raise it to continue the run."
            )
        if resumption.iteration:
            return Beginning(resumption=resumption)
        return replace(self._new(continued), resumption=resumption)

    def _new(self, earlier: RunRecord | None) -> Beginning:
        config = self._checked.config
        start = find_start(config, self._trainings)
        return Beginning(start, first=find_first_network(config, self._trainings, earlier) if start is None else None)
