"""A training by several processes, which ``torchrun`` or ``srun`` starts: one leads and records, the others follow.

Each computes its share of every batch, and gradients are averaged. Only the leader reads the run store, validates and
writes; it sends the others the checked configuration and the state to begin with, and announces each update.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.distributed

if TYPE_CHECKING:
    from incasem_like.config import TorchConfig, TrainingConfig
    from incasem_like.samples import SyntheticSamples, TrainingSamples

NO_MORE = -1.0  # announced instead of a learning rate when the training ends
PATIENCE = datetime.timedelta(days=7)  # the others wait while the leader validates; launchers end them if it dies


@dataclass(frozen=True)
class Job:
    """What the other processes need to know of a training.

    Attributes:
        config: Its configuration, with a seed.
        samples: Makes the samples.
    """

    config: TrainingConfig
    samples: TrainingSamples | SyntheticSamples


@dataclass(frozen=True)
class Start:
    """The state that they begin with.

    Attributes:
        state: Of network and optimizer, as ``Optimization.state`` returns it.
        iteration: The last finished one.
    """

    state: bytes
    iteration: int


def world_size() -> int:
    """Return how many processes compute each batch."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def local_device(config: TorchConfig) -> TorchConfig:
    """Return the configuration with the GPU of this process, if each has its own."""
    if world_size() == 1 or not config.device_name.startswith("cuda"):
        return config
    return config.model_copy(update={"device": int(os.environ.get("LOCAL_RANK", 0))})


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Be the process that leads the others; they end with this context, whichever way it is left."""
    global _begun
    _begun = False
    _connect()
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # they are gone
            announce(NO_MORE) if _begun else share(None)
        torch.distributed.destroy_process_group()


_begun = False  # whether the other processes wait for updates to be announced


def share(message: Job | Start | None) -> Any:
    """Send the other processes what they need next, or receive it from the leader and return it; None ends them."""
    global _begun
    if world_size() == 1:
        return message
    messages = [message]
    torch.distributed.broadcast_object_list(messages, src=0, device=torch.device("cpu"))
    _begun = isinstance(message, Start)
    return messages[0]


def announce(rate: float) -> float:
    """Return the learning rate of the next update, which the leader sends to the other processes."""
    if world_size() == 1:
        return rate
    message = torch.tensor([rate], dtype=torch.float64)
    torch.distributed.broadcast(message, src=0)
    return float(message)


@contextlib.contextmanager
def following() -> Iterator[Job | None]:
    """Be a process that follows; yield the training to follow, or None if there is none."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # for the leader, which has a step to finish
        signal.signal(number, signal.SIG_IGN)
    _connect()
    try:
        yield share(None)
    except torch.distributed.DistError:
        raise SystemExit(1) from None  # the leader is gone, and said why
    finally:
        torch.distributed.destroy_process_group()


def _connect() -> None:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    torch.distributed.init_process_group(backend, timeout=PATIENCE)
