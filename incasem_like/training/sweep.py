"""Sweeps: many trainings that differ in some keys, each a tracked run, searched by grid, at random or with Optuna.

A sweep is a tracked run of its own, whose ``info.trials`` lists every trial before it starts. The same command again
resumes: finished trials are skipped, interrupted trainings continue in their own runs.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.config.sweep_config import SweepConfig
from incasem_like.config.training_config import TrainingConfig
from incasem_like.errors import ConfigError, IncasemError, InputError
from incasem_like.processes import BAD_INPUT, INTERRUPTED, run_script_process
from incasem_like.search import Search, Trial, best_trial, trials_csv
from incasem_like.tracking import Continuation, tracked_run
from incasem_like.volumes.chunk_files import digest

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers
    from incasem_like.tracking import Run, RunRecord, RunStore, RunSummary

COMMAND = "sweep"
TRIALS = "trials"
WEEK = 7 * 24 * 3600.0


def trial_config(config: SweepConfig, trial: Trial) -> TrainingConfig:
    """Return the configuration of a trial.

    Raises:
        ConfigError: Its values are wrong, or contradict each other.
    """
    values = config.model_dump(mode="json", exclude={"sweep"})
    if any(key.partition(".")[0] in ("targets", "data") for key in trial.parameters):  # what follows from these
        values["model"] |= {"num_fmaps_out": None, "outputs": None}
        if config.sweep.metric is None:
            values["training"]["checkpoints"] |= {"best_metric": None, "best_mode": None}
    for key, value in trial.parameters.items():
        *sections, name = key.split(".")
        section = values
        for part in sections:
            if section.get(part) is None:
                section[part] = {}
            section = section[part]
            if not isinstance(section, dict):
                raise ConfigError(
                    f"sweep.space.{key} cannot be varied, since {part} is not a section: vary it as a whole."
                )
        section[name] = value
    return TrainingConfig.from_values(values, lambda _path: f"in trial {trial.number} of the sweep")


@dataclass(frozen=True)
class Sweep:
    """A sweep that runs, or is resumed.

    Attributes:
        config: The configuration, with its seed.
        search: Chooses the trials.
        tracked: Its run.
        folder: Folder of the trials' configurations and output.
        command: The words that start a training: interpreter, script, flags of the store.
        store: Store of the trainings.
        report: Called with each finished trial.
        trials: The trials so far, by number.
    """

    config: SweepConfig
    search: Search
    tracked: Run
    folder: Path
    command: Sequence[str]
    store: RunStore
    report: Callable[[Trial], None] = lambda trial: None
    trials: list[Trial] = field(default_factory=list)

    def run(self, num_workers: int = 1, workers: Workers | None = None) -> list[Trial]:
        """Run all trials that are not finished.

        With Optuna, as many trials run at a time as there are workers, and the next ones are chosen by their results;
        otherwise all trials are known at once, and a free worker takes the next.

        Args:
            num_workers: Trainings at a time on this machine.
            workers: Workers on this or other machines instead.

        Returns:
            All trials, by number.

        Raises:
            ConfigError: The configuration of a trial is wrong; no trial after it is started.
            KeyboardInterrupt: A training was interrupted; it resumes with the same command.
        """
        search = self.search
        parallel = sum(group.count or 1 for group in workers.groups) if workers is not None else num_workers
        while True:
            pending = [trial for trial in self.trials if not trial.status]
            if not pending:
                count = parallel if self.config.sweep.method == "optuna" else 1 if parallel == 1 else search.total
                pending = search.ask(self.trials, count)
                self.trials.extend(pending)
            if not pending:
                return self.trials
            for trial in pending:
                self._prepare(trial)
            self._save()
            if parallel == 1:
                for trial in pending:
                    self._finish(trial, run_trial(self._request(trial)))
                continue
            task = LedgerTask(
                "sweep", tuple(f"trial {trial.number}" for trial in pending), (), _run_item,
                {"requests": [self._request(trial) for trial in pending]}, unit="trials", time_limit=WEEK,
                place=self.folder / f"trials_{pending[0].number:04d}_{pending[-1].number:04d}",
            )  # fmt: skip
            task.run(num_workers=min(num_workers, len(pending)), workers=workers, overwrite=True)
            for trial, status in zip(pending, task.results(), strict=True):
                self._finish(trial, int(status))
            task.forget()

    def _prepare(self, trial: Trial) -> None:
        """Check a trial's configuration and write it."""
        config = trial_config(self.config, trial)
        self.folder.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        (self.folder / f"trial_{trial.number:04d}.yaml").write_text(text)

    def _request(self, trial: Trial) -> dict[str, Any]:
        """Describe how to run a trial, JSON-serializable."""
        file, begun = self.folder / f"trial_{trial.number:04d}.yaml", self._find_run(trial.number)
        if begun is None:
            name = f"sweep_{self.tracked.id}_trial_{trial.number}"
            words = ["--name", name, "--trial_of", str(self.tracked.id), str(trial.number), "with", str(file)]
        else:
            words = ["--continue_run", str(begun.id), "with", f"directories.runs={self.config.directories.runs}"]
        return {"command": [*self.command, *words], "log": str(file.with_suffix(".log"))}

    def _find_run(self, number: int) -> RunSummary | None:
        for summary in reversed(self.store.summaries()):
            parent = summary.parent if isinstance(summary.parent, Mapping) else {}
            if parent.get("sweep_run_id") == self.tracked.id and parent.get("trial") == number:
                return summary
        return None

    def _finish(self, trial: Trial, exit_status: int) -> None:
        log = self.folder / f"trial_{trial.number:04d}.log"
        if exit_status in INTERRUPTED:
            raise KeyboardInterrupt
        summary = self._find_run(trial.number)
        if summary is None and exit_status != BAD_INPUT:
            raise IncasemError(f"Trial {trial.number} ended with status {exit_status} before its run began: see {log}.")
        if summary is not None and summary.status in ("RUNNING", "INTERRUPTED"):
            raise InputError(
                f"Trial {trial.number} is training run {summary.id}, which is {summary.status} and was not resumed "
                f"(see {log}): wait for its end or stop it, then run the same command again."
            )
        trial.status = "FAILED"
        if summary is not None:
            value = summary.summary.get(self.search.metric, {}).get(self.search.mode)
            trial.run_id, trial.status = summary.id, summary.status
            trial.value = None if value is None or np.isnan(value) else float(value)
        if trial.value is not None:
            self.tracked.log_scalar(self.search.metric, trial.value, trial.number)
        self._save()
        self.report(trial)

    def _save(self) -> None:
        self.tracked.set_info(TRIALS, [asdict(trial) for trial in self.trials])
        self.tracked.flush()


@dataclass(frozen=True)
class FinishedSweep:
    """The results of a sweep.

    Attributes:
        run_id: Id of its run.
        trials: All trials, by number.
        search: The search, with metric and mode.
        was_complete: Whether it was complete before this call.
    """

    run_id: int
    trials: Sequence[Trial]
    search: Search
    was_complete: bool = False

    @property
    def best(self) -> Trial | None:
        """The trial with the best value; None if none was measured."""
        return best_trial(self.trials, self.search.mode)


def run_sweep(
    config: SweepConfig,
    *,
    sweeps: RunStore,
    trainings: RunStore,
    command: Sequence[str],
    anew: bool = False,
    num_workers: int = 1,
    workers: Workers | None = None,
    started: Callable[[int, Search, Sequence[Trial]], None] = lambda run_id, search, trials: None,
    report: Callable[[Trial], None] = lambda trial: None,
    draw: Callable[[FinishedSweep], bytes] | None = None,
    **options: Any,
) -> FinishedSweep:
    """Run a sweep as a tracked run; a run of the same sweep that was interrupted, or had fewer trials, is resumed.

    Args:
        config: The configuration.
        sweeps: Store of sweeps.
        trainings: Store of the trials' trainings; the same database or folder.
        command: The words that start a training: interpreter, ``train.py``, flags of the store.
        anew: Start another run in any case.
        num_workers, workers: As for ``Sweep.run``.
        started: Called with the run's id, the search and the finished trials, before the first one starts.
        report: Called with each finished trial.
        draw: Makes a figure, PNG, of the results.
        **options: run_name, comment, run_id, sources, observers, as ``tracking.tracked_run`` takes them.

    Raises:
        InputError: Nothing varies, a trial's configuration is wrong, or the same sweep is still running.
        KeyboardInterrupt: It was interrupted; the same command resumes.
    """
    chosen = config.training.checkpoints
    metric, known = config.sweep.metric or chosen.best_metric, config.validation_metrics
    if metric not in known:
        raise ConfigError(f"sweep.metric '{metric}' is not a validation metric: known are {', '.join(known)}.")
    if config.validation.data is None:
        raise ConfigError("Trials are compared by a validation metric, but validation.data is null: name a data file.")
    search = Search(config.sweep, metric, known[metric])
    for trial in search.ask([], search.total if config.sweep.method == "grid" else 1):
        trial_config(config, trial)
    earlier = None if anew else _find_earlier(sweeps, config)
    trials = [] if earlier is None else _trials_to_resume(earlier, search.total)
    done = [trial for trial in trials if trial.status]
    if earlier is not None and len(done) >= search.total:
        return FinishedSweep(earlier.id, trials, search, was_complete=True)
    if config.seed is None:
        seed = secrets.randbelow(2**32) if earlier is None else earlier.config["seed"]
        config = config.model_copy(update={"seed": seed})

    with tracked_run(
        name=COMMAND,
        config=config.model_dump(mode="json"),
        store=sweeps,
        runs_directory=config.directories.runs,
        continues=None if earlier is None else Continuation(earlier.id, max((t.number for t in done), default=-1)),
        **{**options, "run_id": options.get("run_id") if earlier is None else None},
    ) as run:
        started(run.id, search, done)
        folder = Path(config.directories.runs) / "sweeps" / f"{run.id:04d}"
        Sweep(config, search, run, folder, command, trainings, report, trials).run(num_workers, workers)
        finished = FinishedSweep(run.id, trials, search)
        run.add_artifact(trials_csv(trials, search.metric).encode(), "trials.csv")
        if draw is not None and finished.best is not None:
            run.add_artifact(draw(finished), "trials.png")
        best = finished.best
        run.result = {
            "trials": len(finished.trials),
            "failed": sum(trial.status != "COMPLETED" for trial in finished.trials),
            "metric": search.metric,
            "best_trial": None if best is None else best.number,
            "best_training_run": None if best is None else best.run_id,
            "best_value": None if best is None else best.value,
        }
    return finished


def _trials_to_resume(earlier: RunRecord, total: int) -> list[Trial]:
    """Return the trials of an earlier run; killed ones resume, and those beyond the wanted number are dropped."""
    trials = [Trial(**entry) for entry in earlier.info[TRIALS]]
    for trial in trials:
        if trial.status not in ("COMPLETED", "FAILED"):
            trial.status = ""
    while trials and not trials[-1].status and len(trials) > total:
        trials.pop()
    return trials


def _find_earlier(sweeps: RunStore, config: SweepConfig) -> RunRecord | None:
    """Find the latest run of the same sweep: the same configuration but for the number of trials and a drawn seed."""
    wanted = _identity(config.model_dump(mode="json"), config.seed is None)
    for summary in reversed(sweeps.summaries()):
        if summary.command != COMMAND:
            continue
        record = sweeps.get(summary.id)
        if record.info.get(TRIALS) is not None and _identity(record.config, config.seed is None) == wanted:
            sweeps.refuse_live(summary.id)
            return record
    return None


def _identity(config: Mapping[str, Any], drawn_seed: bool) -> str:
    sweep = {key: value for key, value in config["sweep"].items() if key != "trials"}
    left_out = ("tracking", "directories", *(("seed",) if drawn_seed else ()))
    return digest({key: value for key, value in config.items() if key not in left_out} | {"sweep": sweep})


def run_trial(request: Mapping[str, Any]) -> int:
    """Run a training in a process of its own and return its exit status; its output is appended to its log."""
    return run_script_process(request["command"], Path(request["log"]))


def _run_item(item: Any, parameters: Mapping[str, Any]) -> Any:
    return np.array(run_trial(parameters["requests"][item.number]))
