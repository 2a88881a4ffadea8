"""Device and arithmetic of a configuration: checked with one-sentence errors, and described."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from incasem_like.errors import ConfigError, IncasemError

if TYPE_CHECKING:
    from incasem_like.config import TorchConfig

_LIBRARIES = ("torch", "numpy", "scipy", "gunpowder")
_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR")  # torch's own, ATEN_CPU_CAPABILITY, shows in its capability


def check_device(config: TorchConfig, way_out: str = "start this where there is one") -> None:
    """Check that the device is available, supports the precision, and can compile if requested.

    Args:
        config: Device and arithmetic.
        way_out: What the user can do instead where there is no GPU.

    Raises:
        ConfigError: One of these conditions does not hold.
    """
    kind, _, index = config.device_name.partition(":")
    if kind == "cuda":
        _check_gpu(config, int(index or 0), way_out)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("torch.device=mps needs a Mac with an Apple GPU, which this is not: set torch.device=cpu.")
    check_arithmetic(config)
    if config.compile and kind == "cpu":
        _check_compiler()


def check_arithmetic(config: TorchConfig) -> None:
    """Check that the kind of device supports the precision, independent of this machine.

    Raises:
        ConfigError: It does not.
    """
    if config.precision == "fp16" and not config.device_name.startswith("cuda"):
        raise ConfigError(
            f"torch.precision=fp16 needs a CUDA GPU, but torch.device is {config.device}: "
            "set torch.precision to bf16 or fp32."
        )


def has_device(config: TorchConfig) -> bool:
    """Return whether the device is on this machine."""
    kind, _, index = config.device_name.partition(":")
    if kind == "cuda":
        return torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count()
    return kind != "mps" or torch.backends.mps.is_available()


def for_this_machine(config: TorchConfig) -> TorchConfig:
    """Return the configuration itself if its device is here, else one with which a network can be inspected."""
    if has_device(config):
        return config
    return config.model_copy(update={"device": "cpu", "precision": "fp32", "compile": False})


def torch_device(config: TorchConfig) -> torch.device:
    """Return the device that ``torch.device`` names; ``cuda`` without an index is GPU 0."""
    return torch.device("cuda:0" if config.device_name == "cuda" else config.device_name)


def autocast_dtype(config: TorchConfig) -> torch.dtype | None:
    """Return the data type of automatic mixed precision; None in fp32."""
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]


@contextlib.contextmanager
def enough_memory(remedy: str) -> Iterator[None]:
    """Raise a one-sentence error if computation inside the context runs out of device memory.

    Args:
        remedy: What the user can do, such as ``lower training.batch_size``.

    Raises:
        IncasemError: The device's memory is not sufficient.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise IncasemError(f"The memory of the GPU does not suffice: {remedy}.") from error
    except RuntimeError as error:  # which torch raises for all errors on a CPU
        if "DefaultCPUAllocator" not in str(error):
            raise
        raise IncasemError(f"The memory of this machine does not suffice: {remedy}.") from error


def _check_gpu(config: TorchConfig, index: int, way_out: str) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise ConfigError(
            f"torch.device={config.device} asks for a GPU, but this machine has none that CUDA can use: "
            f"set torch.device=cpu, or {way_out}."
        )
    if index >= count:
        there = "is GPU 0 alone" if count == 1 else f"are GPUs 0 to {count - 1}"
        raise ConfigError(f"torch.device={config.device} asks for GPU {index}, but there {there}: choose one or cpu.")
    if config.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(index)
        raise ConfigError(
            f"torch.precision=bf16 is not in the arithmetic of {name}: set torch.precision to fp16 or fp32."
        )


def _check_compiler() -> None:
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if not any(shutil.which(compiler) for compiler in compilers if compiler):
        raise ConfigError(
            "torch.compile=true on the CPU needs a C++ compiler, but none of g++, clang++ and c++ is on the PATH: "
            "install one or set torch.compile=false."
        )


def describe_arithmetic(config: TorchConfig) -> dict[str, Any]:
    """Return what a training's numbers depend on here: device, processor, vector width, threads, libraries.

    Args:
        config: Device and arithmetic; its number of threads is used if it sets one.
    """
    device = torch_device(config)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": config.num_threads or torch.get_num_threads(),
        "channels_last": config.channels_last,
        "compile": config.compile,
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        **{name: os.environ[name] for name in _VARIABLES if os.environ.get(name)},
    }


def _processor() -> str:
    """Name the processor by its model numbers too: names such as 'AMD EPYC' cover several generations."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    numbers = ", ".join(f"{key} {known[key]}" for key in ("cpu family", "model") if key in known)
    return f"{known.get('model name', platform.machine())}{f' ({numbers})' if numbers else ''}"
