"""Recognition of a checkpoint's network architecture from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from incasem_like.networks import Checkpoint

State = Mapping[str, "Tensor"]
_DEFAULT_KERNELS = [[3, 3, 3], [3, 3, 3]]


@dataclass(frozen=True)
class Architecture:
    """A network's ``model`` section.

    Attributes:
        model: Its keys.
        assumed: Keys that cannot be inferred from tensors, so that the default is used.
    """

    model: dict[str, Any]
    assumed: tuple[str, ...]


def recognize(state: State, path: Path) -> Architecture:
    """Infer the architecture of a network from its weights.

    Args:
        state: Tensors by parameter name, without the prefixes of wrappers.
        path: The file, for messages.

    Raises:
        CheckpointError: This package cannot build such a network.
    """
    if set(state) == {"layer.weight", "layer.bias"}:
        weight = _weight(state, "layer", path)
        return Architecture(
            {"type": "OneConv3d", "in_channels": int(weight.shape[1]), "num_fmaps_out": int(weight.shape[0])}, ()
        )
    if "conv_pass_task.conv_pass.0.weight" in state:
        raise CheckpointError(
            f"{path} holds a MultitaskUnet, which cannot be used here: name the checkpoint of a Unet."
        )
    return _recognize_unet(state, path)


def updates_seen(checkpoint: Checkpoint) -> int | None:
    """Return the number of updates of a network when it was saved, from its Adam state; None without one."""
    states = (checkpoint.optimizer_state or {}).get("state")
    if not isinstance(states, Mapping):
        return None
    steps = [int(entry["step"]) for entry in states.values() if isinstance(entry, Mapping) and "step" in entry]
    return max(steps, default=None)


def _recognize_unet(state: State, path: Path) -> Architecture:
    levels = _count(state, r"unet\.l_conv\.(\d+)\.")
    if levels < 2 or not state.keys() >= {"final_conv_pass.conv_pass.0.weight", "unet.l_conv.0.conv_pass.0.weight"}:
        raise CheckpointError(
            f"{path} is not a Unet with incasem's parameter names (its first tensor is {next(iter(state))}): convert "
            "the names first."
        )
    first, second = (_weight(state, f"unet.l_conv.{level}.conv_pass.0", path) for level in (0, 1))
    final = _weight(state, "final_conv_pass.conv_pass.0", path)
    down = [_kernels(state, f"unet.l_conv.{level}", path) for level in range(levels)]
    up = [_kernels(state, f"unet.r_conv.0.{level}", path) for level in range(levels - 1)]
    learnt = "unet.r_up.0.0.up.weight" in state
    model = {
        "type": "Unet",
        "in_channels": int(first.shape[1]),
        "num_fmaps": int(first.shape[0]),
        "num_fmaps_out": int(final.shape[0]),
        "fmap_inc_factor": int(second.shape[0]) // int(first.shape[0]),
        "downsample_factors": [_factor(state, level, path) if learnt else [2, 2, 2] for level in range(levels - 1)],
        "kernel_size_down": None if all(kernels == _DEFAULT_KERNELS for kernels in down) else down,
        "kernel_size_up": None if all(kernels == _DEFAULT_KERNELS for kernels in up) else up,
        "constant_upsample": not learnt,
    }
    return Architecture(model, () if learnt else ("model.downsample_factors",))


def _kernels(state: State, block: str, path: Path) -> list[list[int]]:
    count = _count(state, re.escape(block) + r"\.conv_pass\.(\d+)\.weight")
    # activations take every other number
    return [list(_weight(state, f"{block}.conv_pass.{index}", path).shape[2:]) for index in range(0, count, 2)]


def _factor(state: State, level: int, path: Path) -> list[int]:
    return list(_weight(state, f"unet.r_up.0.{level}.up", path).shape[2:])


def _count(state: State, pattern: str) -> int:
    """Return one more than the largest number that a pattern finds in the names, 0 if it finds none."""
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=-1)


def _weight(state: State, layer: str, path: Path) -> Tensor:
    weight = state.get(f"{layer}.weight")
    if weight is None:
        raise CheckpointError(f"{path} is not a complete Unet: it lacks {layer}.weight; use another file.")
    if weight.dim() != 5:
        raise CheckpointError(
            f"{path} is not a network for volumes ({layer}.weight has {weight.dim()} axes): use another."
        )
    return weight
