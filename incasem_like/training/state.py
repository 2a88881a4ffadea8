"""The state of a training that exact resumption needs besides network and optimizer, and its file."""

from __future__ import annotations

import io
import math
import os
import pickle
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from incasem_like.errors import CheckpointError

FORMAT = 1


@dataclass
class BestMemory:
    """The best value of the checkpoint metric so far.

    Attributes:
        metric: Name of the metric.
        mode: ``max`` or ``min``.
        value: Its best value; NaN until one is defined.
        iteration: Iteration of the best value; None until one is defined.
        waited: Validations since the value last improved; an equal one does not count.
    """

    metric: str
    mode: str = "max"
    value: float = math.nan
    iteration: int | None = None
    waited: int = 0

    def offer(self, value: float, iteration: int) -> bool:
        """Store ``value`` and return True if it is at least as good as all before; NaN never is.

        Among equal values the latest is the best, as in the run store.
        """
        self.waited += 1
        if math.isnan(value):
            return False
        if math.isnan(self.value) or (value > self.value if self.mode == "max" else value < self.value):
            self.waited = 0
        better = math.isnan(self.value) or (value >= self.value if self.mode == "max" else value <= self.value)
        if better:
            self.value, self.iteration = value, iteration
        return better


@dataclass
class TrainingState:
    """The state of a training after ``iteration`` updates, apart from the two-key checkpoint of network and optimizer.

    Attributes:
        iteration: Updates done. Sample ``i`` depends on (seed, i) alone, so this is the position in the sample stream.
        seed: The run's seed; samples of another seed would be another training.
        batch_size: Samples per update.
        best: Best checkpoint metric so far.
        metrics: Metrics measured at this iteration, by name.
        pending: Whether validation and logging of this iteration were interrupted and are still to be done.
        scaler: State of the fp16 gradient scaler; empty in other precisions.
        random: States of torch's generators by device type.
        schedule: Name, warm-up and length of the learning-rate schedule, to detect when a continued run changes them.
        plateau: State of ``optimizers.Plateau``; empty with other schedules.
        weights: Weights whose moving average the checkpoint holds; empty without an average.
    """

    iteration: int
    seed: int
    batch_size: int
    best: BestMemory
    metrics: dict[str, float] = field(default_factory=dict)
    pending: bool = False
    scaler: dict[str, Any] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    plateau: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the state so that ``path`` holds either the complete new state or the previous content.

        Raises:
            OSError: The disk is full or the folder cannot be written.
        """
        content = io.BytesIO()  # so that a full disk raises an OSError here, not an error of torch
        torch.save({"format": FORMAT, **asdict(self)}, content)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with temporary.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> TrainingState:
        """Read a state; nothing but tensors and plain values is unpickled.

        Raises:
            CheckpointError: The file is missing, damaged, or of a format this version does not know.
        """
        if not path.is_file():
            raise CheckpointError(
                f"The training cannot be resumed from {path.parent}: {path.name} is missing there; "
                "choose another checkpoint, or start a new training from this one."
            )
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path} is damaged and cannot be read: choose an earlier checkpoint.") from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise CheckpointError(f"{path} is not a training state that this version can read: choose another one.")
        return cls(**{**content, "best": BestMemory(**content["best"])})


def random_states() -> dict[str, Any]:
    """Return the states of torch's generators: the CPU's, and those of the GPUs in use."""
    states: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore torch's generators; GPUs that are not present are skipped."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for index, state in enumerate(states.get("cuda", [])[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, index)
