"""Where and in which arithmetic the network computes: checks with one-sentence errors, and the Fabric that does it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from incasem_like.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric

    from incasem_like.config.shared_sections import TorchConfig


def check_device(config: TorchConfig) -> None:
    """Make sure that the device is there, takes the precision, and can compile if it is asked to.

    Raises:
        ConfigError: One of these does not hold.
    """
    import torch

    kind, _, index = config.device_name.partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ConfigError(
                f"torch.device={config.device} asks for a GPU, but this machine has none that CUDA can use: "
                "set torch.device=cpu."
            )
        if int(index or 0) >= count:
            there = "0 alone" if count == 1 else f"0 to {count - 1}"
            raise ConfigError(
                f"torch.device={config.device} asks for GPU {index}, but there is {there}: choose one or cpu."
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("torch.device=mps needs a Mac with an Apple GPU, which this is not: set torch.device=cpu.")
    _check_precision(config, kind)
    _check_compiler(config, kind)


def _check_precision(config: TorchConfig, kind: str) -> None:
    import torch

    if config.precision == "fp16" and kind != "cuda":
        raise ConfigError(
            f"torch.precision=fp16 needs a CUDA GPU, but torch.device is {config.device}: "
            "set torch.precision to bf16 or fp32."
        )
    if config.precision == "bf16" and kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(torch_device(config))
        raise ConfigError(
            f"torch.precision=bf16 is not in the arithmetic of {name}: set torch.precision to fp16 or fp32."
        )


def _check_compiler(config: TorchConfig, kind: str) -> None:
    if not config.compile or kind != "cpu":
        return
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if not any(shutil.which(compiler) for compiler in compilers if compiler):
        raise ConfigError(
            "torch.compile=true on the CPU needs a C++ compiler, but none of g++, clang++ and c++ is on the PATH: "
            "install one or set torch.compile=false."
        )


def torch_device(config: TorchConfig) -> torch.device:
    """Give the device that ``torch.device`` names; ``cuda`` without an index is GPU 0."""
    import torch

    return torch.device("cuda:0" if config.device_name == "cuda" else config.device_name)


def autocast_dtype(config: TorchConfig) -> torch.dtype | None:
    """Give the type that automatic mixed precision computes in; None in fp32."""
    import torch

    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]


def make_fabric(config: TorchConfig) -> tuple[Fabric, Any]:
    """Make the Fabric of a training and its precision plugin, whose ``state_dict`` is that of the gradient scaler."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.plugins.precision import MixedPrecision, Precision

    device = torch_device(config)
    if config.precision == "fp32":
        precision = Precision()
    else:
        precision = MixedPrecision("bf16-mixed" if config.precision == "bf16" else "16-mixed", device=device.type)
    devices = [device.index] if device.type == "cuda" else 1
    # The environment is named, else Fabric would hold one device against the tasks of a Slurm job and refuse.
    plugins = [precision, LightningEnvironment()]
    return Fabric(accelerator=device.type, devices=devices, plugins=plugins), precision
