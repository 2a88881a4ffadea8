"""Which checkpoints of a run a database keeps beside the files on disk: ``tracking.store_checkpoints``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from incasem_like.tracking.checkpoints.choice import rank
from incasem_like.tracking.checkpoints.record import CheckpointRecord

DEFAULT = "best,last"


@dataclass(frozen=True)
class StorePolicy:
    """The choice among a run's checkpoints.

    Attributes:
        words: Out of ``best``, ``last``, ``all``, ``none``.
        metric: What ``best`` goes by.
        mode: ``max`` or ``min``.
    """

    words: frozenset[str]
    metric: str | None
    mode: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> StorePolicy:
        """Read a run's configuration; one without the key counts as ``best,last``."""
        words = (config.get("tracking") or {}).get("store_checkpoints") or DEFAULT
        chosen = (config.get("training") or {}).get("checkpoints") or {}
        return cls(
            frozenset(word.strip() for word in words.split(",")),
            chosen.get("best_metric"),
            chosen.get("best_mode") or "max",
        )

    def wanted(self, records: Sequence[CheckpointRecord]) -> list[CheckpointRecord]:
        """Choose among the checkpoints that a run has now; the newest comes first."""
        newest_first = sorted(records, key=lambda record: record.iteration, reverse=True)
        if "none" in self.words or not newest_first:
            return []
        if "all" in self.words:
            return newest_first
        chosen = newest_first[:1] if "last" in self.words else []
        best = rank(records, self.metric, self.mode)[:1] if "best" in self.words else []
        return chosen + [record for record in best if record not in chosen]
