"""A round as a tracked run: its steps run, resumed, reused from earlier rounds, or repeated where something changed.

A step is identified by its parameters, the content of the data it reads, and the identities of the steps before it.
A step that some round finished under the same identity is not run again; its result is used.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from incasem_like.bootstrapping.checking import check_round
from incasem_like.bootstrapping.plan import RoundPlan
from incasem_like.bootstrapping.steps import NAMES, STEPS, Work, check_step, used_steps
from incasem_like.errors import IncasemError, InputError, RunNotFoundError
from incasem_like.processes import BAD_INPUT, INTERRUPTED, run_script_process
from incasem_like.tracking import Continuation, Run, RunRecord, RunStore, tracked_run
from incasem_like.tracking.kinds import kind_named
from incasem_like.volumes import dataset_exists, open_volume
from incasem_like.volumes.chunk_files import digest

COMMAND = "bootstrap"
STEPS_INFO, KEY_INFO, PAINT_INFO, REPEAT_INFO = "steps", "round_key", "paint_folders", "repeat_from"
DONE = "done"
KEY_LENGTH = 10
SECONDS_TO_WAIT = 300.0  # for a script of a killed round to end
LOG_LINES = 5


@dataclass
class PlannedStep:
    """A step with its identity, and what is known of it.

    Attributes:
        name: Name of the step.
        key: Its identity.
        parameters: All it depends on beside data and earlier steps.
        inputs: Content hashes of the data it reads by address, and keys of the steps before it.
        result: Its result, once it is done.
        round_id: The round that ran it; None before.
        seconds: How long it took.
        reason: Why it is to be run.
    """

    name: str
    key: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    result: dict[str, Any] | None = None
    round_id: int | None = None
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class FinishedRound:
    """The results of a round.

    Attributes:
        run_id: Its run.
        steps: Its steps, in order.
        was_complete: Whether nothing was left to do.
    """

    run_id: int
    steps: list[PlannedStep]
    was_complete: bool = False


@dataclass
class History:
    """Steps of earlier rounds, newest last."""

    records: list[RunRecord]
    _steps: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self._steps = [dict(entry) for record in self.records for entry in record.info.get(STEPS_INFO) or ()]

    def finished(self, key: str) -> dict[str, Any] | None:
        """Return the latest finished step of that identity whose run and data are still there."""
        found = [entry for entry in self._steps if entry["key"] == key and entry.get("result") is not None]
        return next((entry for entry in reversed(found) if self._exists(entry)), None)

    def _exists(self, entry: Mapping[str, Any]) -> bool:
        result = entry["result"]
        step = entry["name"]
        kind = next((one.kind for one in STEPS if one.name == step), None)
        if kind is not None and result.get("run_id") is not None:
            try:
                self.records[0].store.sibling(kind).get(int(result["run_id"]))
            except RunNotFoundError:
                return False
        addresses = [result.get(name) for name in ("segmentation", "mask")] + list(result.get("segmentations", ()))
        if (content := result.get("trusted")) is not None:  # other limits may have replaced it since
            address = f"{result['group']}/trusted"
            if not dataset_exists(address) or open_volume(address, allow_incomplete=True).content_hash != content:
                return False
        files = [result.get(name) for name in ("data", "validation", "folder")]
        whole = all(
            dataset_exists(address) and open_volume(address, allow_incomplete=True).complete
            for address in addresses
            if address and ".zarr/" in str(address)
        )
        return whole and all(Path(file).exists() for file in files if file)

    def repetitions(self, base: str) -> int:
        """Return how often a step was repeated although nothing had changed, and finished."""
        found = [entry.get("repetition", 0) for entry in self._steps if entry.get("base") == base and entry["result"]]
        return max(found, default=0)

    def begun_repetition(self, name: str) -> int | None:
        """Return the repetition of a step that the latest round began and did not end; None if it did not."""
        if not self.records or self.records[-1].status == "COMPLETED":
            return None
        info = self.records[-1].info
        found = [entry["repetition"] for entry in info.get(STEPS_INFO) or () if entry["name"] == name]
        return found[0] if found and info.get(REPEAT_INFO) == name else None

    def of_name(self, name: str) -> dict[str, Any] | None:
        """Return the latest finished step of that name in any round."""
        return next((entry for entry in reversed(self._steps) if entry["name"] == name and entry["result"]), None)


def plan_steps(plan: RoundPlan, history: History, repeat_from: str | None = None) -> list[PlannedStep]:
    """Return the steps of a round with their identities, results of earlier rounds, and reasons to run.

    Args:
        plan: The round.
        history: Earlier rounds of the same name.
        repeat_from: A step to repeat although nothing changed, and all that depend on it.

    Raises:
        InputError: The configuration, the painted labels or a dataset is wrong; or the step is not part of the round.
    """
    check_step(repeat_from, "--from")
    steps: dict[str, PlannedStep] = {}
    for step in used_steps(plan):
        parameters = json.loads(json.dumps(step.parameters(plan)))
        data = {str(volume.address): volume.content_hash for volume in step.data(plan)}
        before = {name: steps[name].key for name in step.after if name in steps}
        base = digest({"step": step.name, "parameters": parameters, "data": sorted(data.values()), "before": before})
        repetition = history.repetitions(base)
        if step.name == repeat_from:
            begun = history.begun_repetition(step.name)
            repetition = repetition + 1 if begun is None else begun
        key = f"{step.name}_{digest([base, repetition])[:KEY_LENGTH]}"
        planned = PlannedStep(step.name, key, parameters, {**data, **before})
        planned.parameters = {**parameters, "repetition": repetition} if repetition else parameters
        found = history.finished(key)
        if found is not None:
            planned.result, planned.round_id = found["result"], found["round_id"]
            planned.seconds = found["seconds"]
        else:
            planned.reason = _reason(planned, history.of_name(step.name), steps, step.after)
        steps[step.name] = planned
    if repeat_from is not None and repeat_from not in steps:
        raise InputError(f"--from {repeat_from} is not a step of this round: its steps are {', '.join(steps)}.")
    return list(steps.values())


def _reason(
    step: PlannedStep, earlier: Mapping[str, Any] | None, steps: Mapping[str, PlannedStep], after: Sequence[str]
) -> str:
    """Return why a step is to be run."""
    if earlier is None:
        return "not run yet"
    if earlier["key"] == step.key:
        return "its run or its data are gone"
    before, now = dict(_flat(earlier["parameters"])), dict(_flat(step.parameters))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        shown = [f"{key} is {now.get(key)} (was {before.get(key)})" for key in changed[:3]]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return f"{', '.join(shown)}{more}"
    repeated = [name for name in after if name in steps and steps[name].result is None]
    if repeated:
        return f"depends on {', '.join(repeated)}"
    names = [key for key, value in step.inputs.items() if earlier["inputs"].get(key) != value]
    return f"{', '.join(names) or 'its input'} changed"


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, sort_keys=True)))
    return found


def earlier_rounds(store: RunStore, name: str) -> History:
    """Return all rounds of a volume, by their name."""
    ids = [summary.id for summary in store.summaries() if summary.command == COMMAND]
    records = [store.get(run_id) for run_id in ids]
    return History([record for record in records if record.config.get("round", {}).get("name") == name])


def parent_results(record: RunRecord) -> dict[str, Any]:
    """Return the results of a round's steps by name, and the folders of all places to paint up to it."""
    entries = record.info.get(STEPS_INFO) or ()
    results = {entry["name"]: entry["result"] for entry in entries if entry.get("result") is not None}
    folders = list(record.info.get(PAINT_INFO) or ())
    if "where_to_paint" in results:
        folders.append(results["where_to_paint"]["folder"])
    return {**results, PAINT_INFO: folders}


def run_round(
    plan: RoundPlan,
    *,
    store: RunStore,
    command: Sequence[str],
    repeat_from: str | None = None,
    stop_after: str | None = None,
    started: Callable[[int, list[PlannedStep]], None] = lambda run_id, steps: None,
    report: Callable[[PlannedStep], None] = lambda step: None,
    **options: Any,
) -> FinishedRound:
    """Run the steps of a round that no earlier round has done, as a tracked run that refers to theirs.

    Args:
        plan: The round.
        store: Store of rounds.
        command: Words before the name of a script: the interpreter.
        repeat_from: As for ``plan_steps``.
        stop_after: The last step to run.
        started: Called with the run's id and all steps, before the first is run.
        report: Called with each step that was run.
        **options: run_name, comment, run_id, sources, observers, as ``tracking.tracked_run`` takes them.

    Raises:
        InputError: As ``plan_steps``; the same round is still running, or a script found bad input.
        KeyboardInterrupt: It was interrupted; the same command resumes.
    """
    check_step(stop_after, "--stop_after")
    history = earlier_rounds(store, plan.config.round.name)
    steps = plan_steps(plan, history, repeat_from)
    key = digest([plan.parent_id, *(planned.key for planned in steps)])
    if stop_after is not None:
        names = [step.name for step in steps]
        if stop_after not in names:
            raise InputError(
                f"--stop_after {stop_after} is not a step of this round: its steps are {', '.join(names)}."
            )
        steps = steps[: names.index(stop_after) + 1]
    same = [record for record in history.records if record.info.get(KEY_INFO) == key]
    if same and same[-1].status == "COMPLETED" and all(step.result is not None for step in steps):
        return FinishedRound(same[-1].id, steps, was_complete=True)
    for record in history.records:
        store.refuse_live(record.id)
    check_round(plan, store)
    if steps[0].result is None:
        plan.painting.sections(plan.painting.check())
    resumed = same[-1] if same else None
    with tracked_run(
        name=COMMAND,
        config=plan.config.model_dump(mode="json"),
        store=store,
        runs_directory=plan.config.directories.runs,
        continues=None if resumed is None else Continuation(resumed.id, -1),
        **{**options, "run_id": options.get("run_id") if resumed is None else None},
    ) as run:
        started(run.id, steps)
        run.set_info(REPEAT_INFO, repeat_from)
        RoundRunner(plan, run, store, command, steps, history, key).run(report)
        run.result = result_of(steps)
    return FinishedRound(run.id, steps)


@dataclass(frozen=True)
class RoundRunner:
    """A round that runs."""

    plan: RoundPlan
    tracked: Run
    store: RunStore
    command: Sequence[str]
    steps: list[PlannedStep]
    history: History
    key: str

    def run(self, report: Callable[[PlannedStep], None]) -> None:
        """Run the steps that are not done, and log what they came to."""
        self.tracked.set_info(KEY_INFO, self.key)
        self.tracked.set_info(PAINT_INFO, list(self.plan.parent.get(PAINT_INFO, ())))
        self.tracked.inputs([volume.as_input() for volume in (self.plan.raw, *self.plan.painting.sources)])
        corrections = self.plan.config.pseudo_truth.corrections
        if corrections is not None:
            self.tracked.add_artifact(Path(corrections), "corrections.json")
        self._save()
        by_name = {step.name: step for step in used_steps(self.plan)}
        for number, planned in enumerate(self.steps):
            if planned.result is None:
                begun = time.monotonic()
                results = {one.name: one.result for one in self.steps[:number] if one.result is not None}
                work = Work(self.plan, planned.key, results, lambda kind, words, resume, key=planned.key: self._script(
                    key, kind, words, resume
                ), self._checkpoints)  # fmt: skip
                planned.result = json.loads(json.dumps(by_name[planned.name].run(work)))
                planned.seconds, planned.round_id = round(time.monotonic() - begun, 2), self.tracked.id
                self._save()
                report(planned)
            for name, value in (planned.result or {}).items():
                if isinstance(value, int | float) and not isinstance(value, bool) and name != "run_id":
                    self.tracked.log_scalar(f"{planned.name}_{name}", value, NAMES.index(planned.name))

    def _save(self) -> None:
        entries = []
        for step in self.steps:
            parameters = {key: value for key, value in step.parameters.items() if key != "repetition"}
            before = {name: key for name, key in step.inputs.items() if name in NAMES}
            data = {name: key for name, key in step.inputs.items() if name not in NAMES}
            base = digest(
                {"step": step.name, "parameters": parameters, "data": sorted(data.values()), "before": before}
            )
            entries.append({**asdict(step), "base": base, "repetition": step.parameters.get("repetition", 0)})
        self.tracked.set_info(STEPS_INFO, entries)
        kinds = {step.name: step.kind for step in used_steps(self.plan)}
        members = [
            {kind_named(kind).parent_key: run_id}
            for step in self.steps
            if step.result is not None and step.result.get("run_id") and (kind := kinds[step.name]) is not None
            for run_id in (step.result["run_id"], *step.result.get("further_run_ids", ()))
        ]
        if self.plan.parent_id is not None:
            members.insert(0, {kind_named("bootstrapping").parent_key: self.plan.parent_id})
        self.tracked.set_info("parent", {"members": members} if members else None)
        self.tracked.flush()

    def _script(
        self, key: str, kind: str, words: Sequence[Any], resume: Callable[[int], Sequence[Any]] | None
    ) -> dict[str, Any]:
        """Run a script as a tracked run of that key's name, or resume the one that was begun."""
        name, folder = f"{self.plan.config.round.name}_{key}", self.plan.folder
        folder.mkdir(parents=True, exist_ok=True)
        log, holder = folder / f"{key}.log", folder / f"{key}.pid"
        _wait_for_end(holder)
        store = self.store.sibling(kind)
        found = self._finished(store, name)
        if found is not None:
            return found
        begun = min((one.id for one in store.summaries() if one.name == name), default=None)
        script, *rest = words
        status, tries = BAD_INPUT, [(script, rest, True)]
        if begun is not None and resume is not None:
            again, *others = resume(begun)
            tries.insert(0, (again, others, kind == "predictions"))
        for path, arguments, named in tries:
            flags = [*self.plan.store_flags, *(["--name", name] if named else [])]
            line = [str(word) for word in (*self.command, path, *flags, *arguments)]
            status = run_script_process(line, log, holder)
            if status != BAD_INPUT:  # else it has nothing to resume: it died before its first output
                break
        if status in INTERRUPTED:
            raise KeyboardInterrupt
        found = self._finished(store, name) if status == 0 else None
        if found is None and status == 0 and kind == "segmentations":  # killed when only the end was to be recorded
            return {"run_id": None, "result": None}
        if found is None:
            said = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            error = InputError if status == BAD_INPUT else IncasemError
            raise error(f"{key.rpartition('_')[0]} ended with status {status} ({log}):\n{said}")
        return found

    def _checkpoints(self, run_id: int) -> tuple[list[int], int | None]:
        """Return the iterations of a training's checkpoints, and that of the best one."""
        record = self.store.sibling("trainings").get(run_id)
        return [one.iteration for one in record.checkpoints], (record.result or {}).get("best_iteration")

    def _finished(self, store: RunStore, name: str) -> dict[str, Any] | None:
        """Return id and result of the finished run of that name."""
        ids = [one.id for one in store.summaries() if one.name == name and one.status == "COMPLETED"]
        if not ids:
            return None
        record = store.get(max(ids))
        return {"run_id": record.id, "result": record.result}


def _wait_for_end(holder: Path) -> None:
    """Wait until the script of a killed round has ended, which it does by itself.

    Raises:
        InputError: It is still running after minutes.
    """
    try:
        number, created = json.loads(holder.read_text())
        process = psutil.Process(number)
        if abs(process.create_time() - created) < 1:
            process.wait(SECONDS_TO_WAIT)
    except (OSError, ValueError, psutil.NoSuchProcess):
        return
    except psutil.TimeoutExpired:
        raise InputError(
            f"Process {number} of an earlier call still works on {holder.stem}: wait for its end, or stop it."
        ) from None


def result_of(steps: Sequence[PlannedStep]) -> dict[str, Any]:
    """Return the summary that is stored as the run's result."""
    results = {step.name: step.result or {} for step in steps}
    found: dict[str, Any] = {"steps": len(steps), "last_step": steps[-1].name}
    for step, keys in (("errors", ("segmentation", "error", "objects")), ("evaluation", ("voi", "nvi"))):
        found |= {key: results[step][key] for key in keys if key in results.get(step, {})}
    if "where_to_paint" in results:
        found["places"] = results["where_to_paint"].get("folder")
    return found
