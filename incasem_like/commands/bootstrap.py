"""``bootstrap.py``: a round from painted labels to a dense segmentation, as one run that refers to ordinary runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from incasem_like.commands.tables import Column, print_table
from incasem_like.commands.tracked import run_options, run_tracked, script_folder, stores_of
from incasem_like.errors import InputError, RunTakenError
from incasem_like.terminal import duration, shell_command, shown_path
from incasem_like.volumes.provenance import command_line

if TYPE_CHECKING:
    from incasem_like.bootstrapping.round_run import FinishedRound, PlannedStep
    from incasem_like.bootstrapping.settings import RoundConfig
    from incasem_like.bootstrapping.steps import RoundPlan
    from incasem_like.commands.command_line import CommandLine
    from incasem_like.tracking import RunStore

EXAMPLE = "with round.yaml round.raw=data/cell.zarr/volumes/raw round.labels=[data/cell.zarr/volumes/labels/painted]"


def main(script: Path) -> NoReturn:
    """Run the round that the command line of ``script`` describes."""
    parser = argparse.ArgumentParser(
        description="Go from painted labels to a dense segmentation: models, predictions, segmentations, each a "
        "tracked run. The same command resumes; what has not changed is not run again.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--continue", dest="parent", type=int, metavar="ID", help="the next round after round ID, with its "
        "configuration, and with what was painted in its folder")  # fmt: skip
    add("--stop_after", metavar="STEP", help="stop after this step; the same command without it goes on")
    add("--from", dest="repeat_from", metavar="STEP", help="repeat this step and what depends on it")
    add("--dry_run", action="store_true", help="print the steps and what would be run, and why; run nothing")
    add("--num_workers", type=int, default=os.cpu_count(), metavar="N", help="processes of steps that work in blocks")
    folder = script_folder(script)
    run_tracked(parser, EXAMPLE, lambda line: _read(line, folder), lambda config, line: _run(config, line, script))


def _read(line: CommandLine, folder: Path) -> RoundConfig:
    from incasem_like.bootstrapping.settings import RoundConfig, load_round_config
    from incasem_like.config.loading import COMMAND_LINE, Layers, lay_given

    config = load_round_config(line.files, line.updates, folder)
    if line.own.parent is None:
        return config
    parent = _store(config, line).get(line.own.parent)
    layers = Layers()
    layers.lay({key: value for key, value in parent.config.items() if key in RoundConfig.model_fields}, COMMAND_LINE)
    layers.lay({"directories": config.directories.model_dump(mode="json")}, COMMAND_LINE)
    lay_given(layers, RoundConfig, line.files, line.updates, folder)
    return layers.validated(RoundConfig)


def _store(config: RoundConfig, line: CommandLine) -> RunStore:
    return stores_of(line, config.directories, config.tracking).open("bootstrapping")


def _run(config: RoundConfig, line: CommandLine, script: Path) -> None:
    from incasem_like.bootstrapping.round_run import earlier_rounds, parent_results, plan_steps, run_round
    from incasem_like.bootstrapping.steps import RoundPlan

    if line.unobserved:
        raise InputError("A round refers to tracked runs: leave --unobserved out.")
    stores, store = stores_of(line, config.directories, config.tracking), _store(config, line)
    parent = {} if line.own.parent is None else parent_results(store.get(line.own.parent))
    if line.own.parent is not None and "errors" not in parent:
        raise InputError(f"Round {line.own.parent} is not finished: run its command again, then --continue it.")
    plan = RoundPlan(
        config, parent, line.own.parent, script.resolve().parents[1], stores.flags(), max(1, line.own.num_workers)
    )
    if line.own.dry_run:
        history = earlier_rounds(store, config.round.name)
        _print_steps(plan, plan_steps(plan, history, line.own.repeat_from))
        return
    begun = False

    def started(run_id: int, steps: list[PlannedStep]) -> None:
        nonlocal begun
        begun = True
        print(f"Round {run_id} of {config.round.name}; logs go to {shown_path(plan.folder)}")
        for step in steps:
            state = f"done by round {step.round_id}" if step.result is not None else f"to run: {step.reason}"
            print(f"  {step.name}: {state}", flush=True)

    try:
        finished = run_round(
            plan, store=store, command=[sys.executable], repeat_from=line.own.repeat_from,
            stop_after=line.own.stop_after, started=started, report=_report_step, **run_options(line, script),
        )  # fmt: skip
    except BaseException as error:
        if begun and not isinstance(error, (InputError, RunTakenError)):
            print(f"Resume with: {command_line()}", file=sys.stderr)
        raise
    _report(finished, stores.flags(), script)


def _report_step(step: PlannedStep) -> None:
    result = step.result or {}
    run = f", run {result['run_id']}" if result.get("run_id") else ""
    shown = [
        f"{name} {value:.4g}"
        for name, value in result.items()
        if isinstance(value, int | float) and name != "run_id" and not isinstance(value, bool)
    ]
    print(f"{step.name}{run}: {', '.join(shown) or 'done'} ({duration(step.seconds)})", flush=True)


def _print_steps(plan: RoundPlan, steps: list[PlannedStep]) -> None:
    """Print the table of a dry run."""
    rows = []
    for step in steps:
        state = f"done by round {step.round_id}" if step.result is not None else step.reason
        rows.append([step.name, step.key, state, duration(step.seconds) if step.seconds else "-"])
    print(f"{plan.raw.address}: {' x '.join(map(str, plan.roi.shape))} voxels to predict")
    print_table([Column(title) for title in ("step", "key", "state", "last time")], rows)


def _report(finished: FinishedRound, store_flags: list[str], script: Path) -> None:
    results = {step.name: step.result or {} for step in finished.steps}
    if finished.was_complete:
        print(f"Round {finished.run_id} has done all of this already; --from STEP repeats a step.")
    if "errors" in results:
        print(f"Wrote segmentation: {results['errors']['segmentation']}")
    if "where_to_paint" in results:
        words = ["python", shown_path(script), "--continue", finished.run_id, *store_flags]
        print(f"Paint next: {shown_path(Path(results['where_to_paint']['folder']))}")
        print(f"Next: {shell_command(*words)}")
