"""Runs on the move: to a folder that can be carried anywhere, from there into a store, from one store to another."""

from incasem_like.tracking.transfer.copying import copy_run, copy_runs
from incasem_like.tracking.transfer.exporting import export_run
from incasem_like.tracking.transfer.importing import import_run, import_runs
from incasem_like.tracking.transfer.portable import PortableRun

__all__ = ["PortableRun", "copy_run", "copy_runs", "export_run", "import_run", "import_runs"]
