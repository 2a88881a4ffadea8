"""The work of ``bootstrap.py``: the steps of a round, run or listed, and what is printed of them."""

from __future__ import annotations

import sys
from pathlib import Path

from incasem_like.bootstrapping.checking import check_round
from incasem_like.bootstrapping.plan import RoundPlan
from incasem_like.bootstrapping.round_run import PlannedStep, earlier_rounds, parent_results, plan_steps, run_round
from incasem_like.bootstrapping.settings import RoundConfig
from incasem_like.commands.command_line import CommandLine
from incasem_like.commands.tables import Column, print_table
from incasem_like.commands.tracked import Resumable, run_options, stores_of
from incasem_like.errors import InputError
from incasem_like.terminal import duration, shell_command, shown_path
from incasem_like.volumes.provenance import command_line


def run(config: RoundConfig, line: CommandLine, script: Path) -> None:
    """Run the steps of the round that are not done yet, or print them for ``--dry_run``."""
    if line.unobserved:
        raise InputError("A round refers to tracked runs: leave --unobserved out.")
    stores = stores_of(line, config.directories, config.tracking)
    store = stores.open("bootstrapping")
    parent = {} if line.own.parent is None else parent_results(store.get(line.own.parent))
    if line.own.parent is not None and "errors" not in parent:
        raise InputError(f"Round {line.own.parent} is not finished: run its command again, then --continue it.")
    plan = RoundPlan(
        config, parent, line.own.parent, script.resolve().parents[1], stores.flags(), max(1, line.own.num_workers)
    )
    if line.own.dry_run:
        check_round(plan, store)
        steps = plan_steps(plan, earlier_rounds(store, config.round.name), line.own.repeat_from)
        seconds = [duration(step.seconds) if step.seconds else "-" for step in steps]
        print(f"{plan.raw.address}: {' x '.join(map(str, plan.roi.shape))} voxels to predict")
        print_table(
            [Column(title) for title in ("step", "key", "state", "last time")],
            [[step.name, step.key, _state(step), time] for step, time in zip(steps, seconds, strict=True)],
        )
        return

    def started(run_id: int, steps: list[PlannedStep]) -> None:
        work.command = command_line()
        print(f"Round {run_id} of {config.round.name}; logs go to {shown_path(plan.folder)}")
        for step in steps:
            print(f"  {step.name}: {'to run: ' if step.result is None else ''}{_state(step)}", flush=True)

    def report(step: PlannedStep) -> None:
        result = step.result or {}
        run = f", run {result['run_id']}" if result.get("run_id") else ""
        shown = [
            f"{name} {value:.4g}"
            for name, value in result.items()
            if isinstance(value, int | float) and name != "run_id" and not isinstance(value, bool)
        ]
        print(f"{step.name}{run}: {', '.join(shown) or 'done'} ({duration(step.seconds)})", flush=True)

    with Resumable() as work:
        finished = run_round(
            plan, store=store, command=[sys.executable], repeat_from=line.own.repeat_from,
            stop_after=line.own.stop_after, started=started, report=report, **run_options(line, script),
        )  # fmt: skip
    results = {step.name: step.result or {} for step in finished.steps}
    if finished.was_complete:
        print(f"Round {finished.run_id} has done all of this already; --from STEP repeats a step.")
    if "errors" in results:
        print(f"Wrote segmentation: {results['errors']['segmentation']}")
    if "where_to_paint" in results:
        words = ["python", shown_path(script), "--continue", finished.run_id, *stores.flags()]
        print(f"Paint next: {shown_path(Path(results['where_to_paint']['folder']))}")
        print(f"Next: {shell_command(*words)}")


def _state(step: PlannedStep) -> str:
    return step.reason if step.result is None else f"done by round {step.round_id}"
