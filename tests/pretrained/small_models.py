"""Checkpoints of small networks, as incasem's files hold those of large ones."""

from __future__ import annotations

import io
from typing import Any

import torch

from incasem_like.config import ModelConfig
from incasem_like.networks import build_network

SMALL_MODEL = {"num_fmaps": 2, "downsample_factors": [[2, 2, 2]]}


def make_network(**model: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_network(ModelConfig.model_validate({**SMALL_MODEL, **model}))


def checkpoint_bytes(network: torch.nn.Module, updates: int | None = 90000, *, bare: bool = False) -> bytes:
    """Give the content of a checkpoint file, whose Adam has counted ``updates``."""
    state = dict(network.state_dict())
    optimizer: dict[str, Any] = {"state": {}, "param_groups": [{"lr": 3e-5, "params": list(range(len(state)))}]}
    if updates is not None:
        optimizer["state"] = {
            number: {
                "step": torch.tensor(float(updates)),
                "exp_avg": torch.zeros_like(value),
                "exp_avg_sq": torch.zeros_like(value),
            }
            for number, value in enumerate(state.values())
        }
    buffer = io.BytesIO()
    torch.save(state if bare else {"model_state_dict": state, "optimizer_state_dict": optimizer}, buffer)
    return buffer.getvalue()
