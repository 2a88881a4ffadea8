"""The checkpoint file: weights and optimizer state in the two-key format of incasem, written atomically."""

from __future__ import annotations

import io
import os
import pickle
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from incasem_like.disk import write_whole
from incasem_like.errors import CheckpointError

NETWORK_KEY = "model_state_dict"
OPTIMIZER_KEY = "optimizer_state_dict"
# Prefixes that DataParallel, DistributedDataParallel, Lightning Fabric and torch.compile add to parameter names.
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "_forward_module.")


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint file, on the CPU.

    Attributes:
        network_state: Tensor per parameter name, without the prefixes of wrappers.
        optimizer_state: Result of ``torch.optim.Optimizer.state_dict``; None in a file of bare weights.
    """

    network_state: dict[str, torch.Tensor]
    optimizer_state: dict[str, Any] | None


def save_checkpoint(path: Path, network: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Write a checkpoint atomically: a reader finds the old file or the new one at ``path``.

    Args:
        path: The file. Its folder is created if necessary.
        network: The network, plain, compiled, or wrapped for several devices; the plain parameter names are written.
        optimizer: The optimizer; None writes an empty optimizer state.
    """
    state = {plain_name(name): _portable(value) for name, value in network.state_dict().items()}
    optimizer_state = _portable(optimizer.state_dict()) if optimizer is not None else {}
    buffer = io.BytesIO()
    torch.save({NETWORK_KEY: state, OPTIMIZER_KEY: optimizer_state}, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Through our own file object, so that a full disk raises OSError instead of one of torch's errors.
    write_whole(path, lambda file: file.write(buffer.getbuffer()))
    _sync_folder(path.parent)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file: the two-key format, or the weights alone.

    Raises:
        CheckpointError: The file is missing, truncated, not a checkpoint, or holds more than tensors and plain values.
    """
    return as_checkpoint(read_content(path), path)


def read_content(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Read what ``torch.save`` wrote, of tensors and plain values alone, and of the classes ``allowed``.

    Raises:
        CheckpointError: The file is missing, truncated, not a checkpoint, or holds anything else.
    """
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path} does not exist: check the path, or name one by its iteration.")
    with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(list(allowed)):
        warnings.simplefilter("ignore")  # warnings about how the file was pickled
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{path} is not a checkpoint of tensors alone, or it is damaged: use another one."
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # a damaged file may cause any error in torch
            raise CheckpointError(f"{path} is truncated or not a checkpoint file: use another one.") from error


def as_checkpoint(content: Any, path: Path) -> Checkpoint:
    """Find weights and optimizer state in the content of a file; ``CheckpointError`` if it holds no weights."""
    if isinstance(content, Mapping) and NETWORK_KEY in content:
        state, optimizer_state = content[NETWORK_KEY], content.get(OPTIMIZER_KEY)
    else:
        state, optimizer_state = content, None
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise CheckpointError(f"{path} holds no network weights under '{NETWORK_KEY}': use a file that training wrote.")
    return Checkpoint({plain_name(name): value for name, value in state.items()}, optimizer_state or None)


def load_checkpoint(path: Path, network: nn.Module | None = None, optimizer: Optimizer | None = None) -> Checkpoint:
    """Read a checkpoint and load it into a network and an optimizer.

    Args:
        path: The file.
        network: Receives the weights; may be compiled, wrapped or plain.
        optimizer: Receives the optimizer state, including learning rate and weight decay.

    Returns:
        The contents of the file.

    Raises:
        CheckpointError: As ``read_checkpoint``; or the file's weights belong to another architecture (the first tensor
            that differs is named); or its optimizer state is missing or does not fit.
    """
    checkpoint = read_checkpoint(path)
    if network is not None:
        fit_state(network, checkpoint.network_state, path)
    if optimizer is not None:
        if checkpoint.optimizer_state is None:
            raise CheckpointError(f"{path} holds no optimizer state: start from it with a new optimizer instead.")
        try:
            optimizer.load_state_dict(checkpoint.optimizer_state)
        except (ValueError, KeyError) as error:
            raise CheckpointError(
                f"The optimizer state in {path} does not fit this optimizer ({str(error).rstrip('.')}): start from its "
                "weights with a new optimizer instead."
            ) from error
    return checkpoint


def fit_state(network: nn.Module, state: Mapping[str, torch.Tensor], source: object) -> None:
    """Load weights into a network, which may be compiled, wrapped or plain.

    Args:
        network: The network.
        state: Tensor per plain parameter name.
        source: What they were read from, for the message.

    Raises:
        CheckpointError: They belong to another architecture; the first tensor that differs is named.
    """
    own_names = {plain_name(name): name for name in network.state_dict()}
    difference = _first_difference(state, {plain: network.state_dict()[name] for plain, name in own_names.items()})
    if difference:
        raise CheckpointError(
            f"{source} belongs to another architecture: {difference}; use the model settings it was trained with."
        )
    network.load_state_dict({own_names[name]: value for name, value in state.items()})


def plain_name(name: str) -> str:
    """Return a parameter's name without the prefixes of wrappers."""
    while name.startswith(WRAPPER_PREFIXES):
        name = name.partition(".")[2]
    return name


def _first_difference(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    for name, tensor in wanted.items():
        if name not in found:
            return f"it lacks {name}"
        if found[name].shape != tensor.shape:
            return f"{name} is {_shape(found[name])} in the file and {_shape(tensor)} in the network"
    extra = next((name for name in found if name not in wanted), None)
    return f"it has {extra}, which the network lacks" if extra else ""


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a single number"


def _portable(value: Any) -> Any:
    """Copy tensors to the CPU in the default memory layout, whatever their device and layout in training."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().contiguous()
    if isinstance(value, Mapping):
        return {key: _portable(entry) for key, entry in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return type(value)(_portable(entry) for entry in value)  # type: ignore[call-arg]
    return value


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
