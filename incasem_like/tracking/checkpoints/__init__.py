"""Checkpoints of runs: how they are on record, the choice among them, and where their files can be had."""

from incasem_like.tracking.checkpoints.choice import choose_checkpoint, listed, rank
from incasem_like.tracking.checkpoints.files import EARLIER_FOLDERS, Places, TrackedFile
from incasem_like.tracking.checkpoints.hashing import file_sha256
from incasem_like.tracking.checkpoints.policy import StorePolicy
from incasem_like.tracking.checkpoints.record import CheckpointRecord, is_checkpoint_entry
from incasem_like.tracking.checkpoints.uploads import missing_uploads, runs_lacking_uploads, upload_missing

__all__ = [
    "EARLIER_FOLDERS",
    "CheckpointRecord",
    "Places",
    "StorePolicy",
    "TrackedFile",
    "choose_checkpoint",
    "file_sha256",
    "is_checkpoint_entry",
    "listed",
    "missing_uploads",
    "rank",
    "runs_lacking_uploads",
    "upload_missing",
]
