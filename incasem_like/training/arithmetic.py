"""The machine properties that the last bits of a training depend on; recorded, and compared between runs.

A sum of floats depends on its order, and the order on the processor, the number of threads and the versions of the
libraries. Differences begin in the seventh digit and grow with every update (``docs/continuing.md``, "Bit for bit").
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incasem_like.tracking import Run, RunRecord

log = logging.getLogger(__name__)

KEY = "arithmetic"  # in a run's info: a list, since a run may be continued on another machine
WARNING = "The same numbers are not to be expected bit for bit"


def record_arithmetic(run: Run, now: Mapping[str, Any], repeats: RunRecord | None) -> None:
    """Record the arithmetic of this process, and warn if it differs from that of the run repeated or continued.

    Args:
        run: The run.
        now: As ``networks.describe_arithmetic`` returns it.
        repeats: The run that this one repeats, if any.
    """
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
