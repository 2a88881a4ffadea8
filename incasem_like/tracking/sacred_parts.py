"""The parts of Sacred that runs are built on, imported without the warning about pkg_resources that it causes."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
    from sacred import observers
    from sacred.host_info import get_host_info
    from sacred.observers import FileStorageObserver, MongoObserver
__all__ = ["FileStorageObserver", "MongoObserver", "get_host_info", "observers"]
