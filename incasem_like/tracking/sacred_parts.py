"""The parts of Sacred that runs are built on, imported without the warning about pkg_resources that it gives today."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    from sacred import observers
    from sacred.host_info import get_host_info
    from sacred.metrics_logger import linearize_metrics
    from sacred.observers import FileStorageObserver, MongoObserver, RunObserver
    from sacred.run import Run as SacredRunBase
    from sacred.utils import SacredInterrupt
__all__ = [
    "FileStorageObserver",
    "MongoObserver",
    "RunObserver",
    "SacredInterrupt",
    "SacredRunBase",
    "get_host_info",
    "linearize_metrics",
    "observers",
]
