"""The processes that write one run, one after the other: the one that started it and those that continued it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from incasem_like.errors import InputError, RunTakenError
from incasem_like.tracking.values import as_mapping, as_sequence, plain

OBSERVER_KEYS = ("sessions", "summary", "metrics")  # of info; what the observer adds to what the run notes


@dataclass(frozen=True)
class Continuation:
    """A run to resume.

    Attributes:
        run_id: The run.
        after_step: The iteration it resumes from; what it logged after that is withdrawn. A function is called
            once, when the run has been claimed: until then another process may still move it.
    """

    run_id: int
    after_step: int | Callable[[], int]

    @cached_property
    def iteration(self) -> int:
        """The iteration it resumes from."""
        return self.after_step if isinstance(self.after_step, int) else self.after_step()


@dataclass(frozen=True)
class Start:
    """What Sacred tells an observer at the start of a run: the event's arguments, under its names."""

    ex_info: dict[str, Any]
    command: str
    host_info: dict[str, Any]
    start_time: datetime
    config: dict[str, Any]
    meta_info: dict[str, Any]


def new_token() -> str:
    """Make the name of a session, which its writes carry."""
    return uuid.uuid4().hex


def describe_session(token: str, start: Start, iteration: int = 0) -> dict[str, Any]:
    """Describe a process that writes a run: token, start, machine, process, commits and iteration."""
    return {
        "token": token,
        "start": start.start_time.isoformat(),
        "hostname": start.host_info.get("hostname"),
        "pid": start.host_info.get("pid"),
        "commits": [repository.get("commit") for repository in start.ex_info.get("repositories") or ()],
        "from_iteration": iteration,
    }


def tokens(info: Mapping[str, Any] | None) -> list[str]:
    """List the tokens of all sessions of a run."""
    sessions = as_sequence(as_mapping(info).get("sessions"))
    return [str(session.get("token")) for session in sessions if isinstance(session, Mapping)]


def counts_at(info: Mapping[str, Any] | None, iteration: int) -> dict[str, int] | None:
    """Look up how many points each metric had when a checkpoint was registered; None where nobody noted it."""
    for entry in (info or {}).get("checkpoints") or ():
        if entry.get("iteration") == iteration and isinstance(entry.get("counts"), Mapping):
            return {name: int(count) for name, count in entry["counts"].items()}
    return None


def continued_meta(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> dict[str, Any]:
    """Merge options and comment of a run and of the call that resumes it; what the call leaves out stays."""
    old, new = dict(before or {}), plain(now)
    options = {key: value for key, value in (new.get("options") or {}).items() if value is not None}
    given = {key: value for key, value in new.items() if value is not None}
    return {**old, **given, "options": {**(old.get("options") or {}), **options}}


def id_taken(run_id: int | None, description: str, resume: str | None = None) -> InputError:
    """Return the error of a wanted id that a run has; ``resume`` is the flag of the script that resumes such a run."""
    remedy = f", or resume that run with {resume} {run_id} instead" if resume else ""
    return InputError(
        f"Run {run_id} exists already in {description}: leave --id out for the next free id, choose another{remedy}."
    )


def taken_over(run_id: int, description: str) -> RunTakenError:
    """Make the error of a process that finds that its run is another's."""
    return RunTakenError(
        f"Run {run_id} in {description} was continued by another process, which had reason to think this one dead: "
        "this one ends here and leaves the record to it."
    )
