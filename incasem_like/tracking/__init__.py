"""Experiments, runs, checkpoints, metrics and lineage, kept as files or in MongoDB."""

from incasem_like.tracking.mirror.checkpoints import missing_uploads
from incasem_like.tracking.model.cache import file_sha256
from incasem_like.tracking.model.checkpoints import CheckpointRecord
from incasem_like.tracking.model.summaries import RunSummary
from incasem_like.tracking.moving.model_files import delete_run
from incasem_like.tracking.opening import open_store
from incasem_like.tracking.recording.recorder import run_experiment, tracked_run
from incasem_like.tracking.recording.run import Run
from incasem_like.tracking.series import Metric
from incasem_like.tracking.sessions import Continuation
from incasem_like.tracking.stores.base import RunStore
from incasem_like.tracking.stores.records import RunRecord

__all__ = [
    "CheckpointRecord",
    "Continuation",
    "Metric",
    "Run",
    "RunRecord",
    "RunStore",
    "RunSummary",
    "delete_run",
    "file_sha256",
    "missing_uploads",
    "open_store",
    "run_experiment",
    "tracked_run",
]
