"""The metrics of a run while it goes on: all of them into its log, and a bounded part into its store."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from incasem_like.errors import DiskFullError, IncasemError, StoreError
from incasem_like.tracking.metrics_log import MetricsLog
from incasem_like.tracking.series import MetricTable


class RunMetrics:
    """Takes what a run logs; nothing in memory grows with the run.

    Args:
        log: The full-resolution log, open.
        table: What the store holds.
    """

    def __init__(self, log: MetricsLog, table: MetricTable) -> None:
        self.log, self.table = log, table

    def take(self, metrics_by_name: Mapping[str, Mapping[str, Any]]) -> None:
        """Take new points, in the form in which Sacred gives them to observers, and write them to the log.

        Raises:
            OSError: The log does not take them now; the next call tries again, and the table has them anyway.
        """
        for name, columns in metrics_by_name.items():
            points = list(zip(columns["steps"], columns["values"], columns["timestamps"], strict=True))
            self.log.add_points(name, points)
            for step, value, moment in points:
                self.table.add(name, step, value, moment)
        self.log.save()


def not_saved(log: MetricsLog, run_id: int | None) -> IncasemError:
    """Make the error of a run whose metrics cannot be written: it must not go on as if nothing were missing."""
    assert log.refused is not None
    said = f"The metrics of run {run_id} cannot be written to {log.path} ({log.refused.strerror or log.refused})"
    if log.refused.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFullError(f"{said}: free some space, then continue the run.")
    return StoreError(f"{said}: check the disk, then continue the run.")
