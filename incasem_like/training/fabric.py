"""The Fabric that runs a training: device, precision and gradient scaler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from incasem_like.networks import torch_device

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from incasem_like.config import TorchConfig


def make_fabric(config: TorchConfig) -> tuple[Fabric, Any]:
    """Return the Fabric of a training and its precision plugin; its ``state_dict`` is that of the gradient scaler."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.plugins.precision import MixedPrecision, Precision

    device = torch_device(config)
    if config.precision == "fp32":
        precision = Precision()
    else:
        precision = MixedPrecision("bf16-mixed" if config.precision == "bf16" else "16-mixed", device=device.type)
    devices = [device.index] if device.type == "cuda" else 1
    # Without a named environment, Fabric would compare its one device with the tasks of a Slurm job and refuse.
    plugins = [precision, LightningEnvironment()]
    return Fabric(accelerator=device.type, devices=devices, plugins=plugins), precision
