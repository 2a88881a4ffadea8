"""The checkpoint of another training that a new one starts from: found, checked against the network, loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import CheckpointError

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.tracking import RunStore
    from incasem_like.training.optimization import Optimization


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
    from incasem_like.tracking import file_sha256
    from incasem_like.tracking.queries.checkpoint_choice import choose_checkpoint

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
    from incasem_like.networks import build_network, load_checkpoint
    from incasem_like.training.optimization import make_optimizer

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
