"""Experiments, runs, checkpoints, metrics and lineage, kept as files or in MongoDB."""

from incasem_like.tracking.checkpoints import CheckpointRecord, file_sha256, missing_uploads, upload_missing
from incasem_like.tracking.command_line import CommandLine, format_config, parse_command_line
from incasem_like.tracking.recording.experiment import run_experiment
from incasem_like.tracking.recording.run import Run
from incasem_like.tracking.recording.sessions import Continuation
from incasem_like.tracking.records import Metric, RunRecord
from incasem_like.tracking.store import RunStore, open_store
from incasem_like.tracking.summaries import CheckpointSummary, RunSummary

__all__ = [
    "CheckpointRecord",
    "CheckpointSummary",
    "CommandLine",
    "Continuation",
    "Metric",
    "Run",
    "RunRecord",
    "RunStore",
    "RunSummary",
    "file_sha256",
    "format_config",
    "missing_uploads",
    "open_store",
    "parse_command_line",
    "run_experiment",
    "upload_missing",
]
