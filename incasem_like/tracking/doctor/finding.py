"""One thing that is not as it should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """An inconsistency.

    Attributes:
        place: The store or folder where it is.
        problem: What is wrong, in one sentence.
        repair: What ``mend`` does about it; without ``mend``, what a person can do.
        mend: Repairs it; None where that takes a person's judgement. What was found to be otherwise meanwhile is left
            alone. Raises an ``IncasemError`` where it cannot.
    """

    place: str
    problem: str
    repair: str
    mend: Callable[[], object] | None = None
