"""The machine properties that the last bits of a training depend on; recorded, and compared between runs.

A sum of floats depends on its order, and the order on the processor, the number of threads and the versions of the
libraries. Differences begin in the seventh digit and grow with every update (``docs/continuing.md``, "Bit for bit").
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incasem_like.config import TorchConfig
    from incasem_like.tracking import Run, RunRecord

log = logging.getLogger(__name__)

KEY = "arithmetic"  # in a run's info: a list, since a run may be continued on another machine
WARNING = "The same numbers are not to be expected bit for bit"
_LIBRARIES = ("torch", "numpy", "scipy", "gunpowder")
_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR")  # torch's own, ATEN_CPU_CAPABILITY, shows in its capability


def describe_arithmetic(config: TorchConfig) -> dict[str, Any]:
    """Return what a training's numbers depend on here: device, processor, vector width, threads, libraries.

    Args:
        config: Device and arithmetic; its number of threads is used if it sets one.
    """
    import torch

    from incasem_like.networks import torch_device

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


def record_arithmetic(run: Run, config: TorchConfig, repeats: RunRecord | None) -> None:
    """Record the arithmetic of this process, and warn if it differs from that of the run repeated or continued."""
    now = describe_arithmetic(config)
    before = (run.info if repeats is None else repeats.info).get(KEY) or []
    differing = arithmetic_differences([before, [now]])
    if differing:
        text = "; ".join(f"{name} {was}, now {is_now}" for name, (was, is_now) in differing.items())
        log.warning("%s: %s.", WARNING, text)
    run.change_info(KEY, lambda known: [*(one for one in known or [] if one != now), now])


def arithmetic_differences(runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Return the differences in the arithmetic of runs, by name, with a text for each run.

    Args:
        runs: The records of each run; a run without one is unknown and is not compared.
    """
    if not all(runs):
        return {}
    names = dict.fromkeys(name for run in runs for one in run for name in one)
    rows = {name: [list(dict.fromkeys(str(one.get(name, "unset")) for one in run)) for run in runs] for name in names}
    return {
        name: [" and ".join(values) for values in row]
        for name, row in rows.items()
        if len({value for values in row for value in values}) > 1
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
