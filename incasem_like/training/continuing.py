"""Resuming a training in the same run: its data configurations, checks that it is the same, and the checkpoint."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from incasem_like.config import resolve_training_config
from incasem_like.disk import copy_whole
from incasem_like.errors import CheckpointError, ConfigError
from incasem_like.training.checkpoints import CheckpointFolder, is_sound

if TYPE_CHECKING:
    from incasem_like.config import DataConfig, TrainingConfig
    from incasem_like.samples import Region
    from incasem_like.tracking import CheckpointRecord, Run, RunRecord
    from incasem_like.training.preflight import CheckedTraining


ARTIFACTS = {"training": "training_data.json", "validation": "validation_data.json"}


def tracked_data(record: RunRecord, section: str) -> str | None:
    """Return the text of a data configuration as stored in the run.

    Args:
        record: The run.
        section: ``training`` or ``validation``.

    Returns:
        None if the run had none, or stored none.
    """
    name = ARTIFACTS[section]
    return record.artifact(name).decode("utf-8") if name in record.artifacts else None


def same_data(one: str, other: str) -> bool:
    """Return whether two data configurations are equal, apart from layout and the location of volumes."""
    try:
        first, second = json.loads(one), json.loads(other)
        if list(first) != list(second):
            return False
        return all(_same_entry(first[name], second[name]) for name in first)
    except (ValueError, TypeError, AttributeError):
        return False


def _same_entry(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    files = [PurePath(str(entry.get("file"))).parts for entry in (one, other)]
    shorter, longer = sorted(files, key=len)
    moved = longer[-len(shorter) :] == shorter
    return moved and {**one, "file": None} == {**other, "file": None}


def with_tracked_data(
    config: TrainingConfig, record: RunRecord, sections: Callable[[str], bool], *, exactly: bool
) -> tuple[TrainingConfig, dict[str, Path]]:
    """Replace data configurations whose files are missing by the run's own copies.

    Args:
        config: The configuration, derived from that of the run.
        record: The run.
        sections: For ``training`` and ``validation``, whether their data are those of the run.
        exactly: Whether a file that has changed is replaced by the copy too.

    Returns:
        The configuration, and by section the copies it names now, below ``data_configs`` of the runs directory.
    """
    copies: dict[str, Path] = {}
    for section in filter(sections, ARTIFACTS):
        path, text = getattr(config, section).data, tracked_data(record, section)
        if path is None or text is None:
            continue
        if path.is_file() and (not exactly or same_data(path.read_text("utf-8-sig", errors="replace"), text)):
            continue
        copies[section] = config.directories.runs / "data_configs" / f"{record.id:04d}" / ARTIFACTS[section]
        copies[section].parent.mkdir(parents=True, exist_ok=True)
        copies[section].write_text(_with_places(text, path.parent, config.directories.data), encoding="utf-8")
    changed = {section: getattr(config, section).model_copy(update={"data": copy}) for section, copy in copies.items()}
    return config.model_copy(update=changed), copies


def _with_places(text: str, folder: Path, data: Path) -> str:
    """Write volumes beside the data configuration as absolute paths, since the copy is in another folder."""
    entries = json.loads(text)
    for entry in entries.values():
        beside = folder / str(entry.get("file"))
        if beside.exists() and not (data / str(entry.get("file"))).exists():
            entry["file"] = str(beside)
    return json.dumps(entries, indent=4)


log = logging.getLogger(__name__)

# Settings that may change without making it another training: lengths, intervals, folders, machine. The data
# configurations may be elsewhere; their content is compared separately.
_MAY_CHANGE = (
    "directories.", "tracking.", "sacred.", "sources.", "torch.device.", "torch.num_threads.", "torch.channels_last.",
    "torch.compile.", "training.iterations.", "training.save_every.", "training.log_every.", "training.image_every.",
    "training.snapshot.", "training.profiling_stats.", "training.precache.", "training.checkpoints.keep_last.",
    "training.checkpoints.keep_every.", "training.data.", "training.early_stopping.", "training.num_params.",
    "validation.validate_every.", "validation.snapshot.",
    "validation.data.",
)  # fmt: skip


@dataclass(frozen=True)
class Resumption:
    """The checkpoint that a training resumes from.

    Attributes:
        run_id: The run.
        iteration: The last finished iteration; 0 if no checkpoint had been written, so that it starts over.
        model: Path of the checkpoint of network and optimizer.
        state: The training state that belongs to it.
        passed_over: Why later checkpoints cannot be used, a sentence each.
    """

    run_id: int
    iteration: int
    model: Path | None = None
    state: Path | None = None
    passed_over: tuple[str, ...] = ()


def check_same_training(
    tracked: TrainingConfig, wanted: TrainingConfig, source: Callable[[tuple[str, ...]], str], run_id: int
) -> None:
    """Check that no setting changed that would make a continued run another training.

    Args:
        tracked: The run's configuration.
        wanted: The one to continue it with.
        source: Returns where the value of a key in ``wanted`` was read.
        run_id: The run, for the message.

    Raises:
        ConfigError: A key that must not change differs; the message names the first one, and --start_from.
    """
    before, after = dict(_flat(tracked.model_dump(mode="json"))), dict(_flat(wanted.model_dump(mode="json")))
    for key in [*after, *before]:
        dotted = ".".join(key)
        if before.get(key) != after.get(key) and not f"{dotted}.".startswith(_MAY_CHANGE):
            raise ConfigError(
                f"Run {run_id} was trained with {dotted}={json.dumps(before.get(key))}, but "
                f"{json.dumps(after.get(key))} is asked for {source(key)}: leave that out to continue the run, or "
                f"start a new training from it with --start_from {run_id}."
            )


def differences(record: RunRecord, config: TrainingConfig) -> list[tuple[str, Any, Any]]:
    """List the keys in which a configuration differs from a run's, with both values; folders and stores aside."""
    before = dict(_flat(resolve_training_config(record.config).model_dump(mode="json")))
    after = dict(_flat(config.model_dump(mode="json")))
    return [
        (".".join(key), before.get(key), after.get(key))
        for key in dict.fromkeys([*after, *before])
        if key[0] not in ("directories", "tracking") and before.get(key) != after.get(key)
    ]


def check_same_data(record: RunRecord, checked: CheckedTraining) -> None:
    """Check that the content of the data configurations is unchanged; warn of volumes that look different.

    Raises:
        ConfigError: A data configuration changed.
    """
    if tracked_data(record, "training") is not None:  # runs of incasem store them under other names
        for section, data in (("training", checked.training_data), ("validation", checked.validation_data)):
            if not _says_the_same(tracked_data(record, section), data):
                raise ConfigError(
                    f"{section}.data says something else than run {record.id} was trained with: leave it out to "
                    f"continue the run, or start a new training from it with --start_from {record.id}."
                )
    warn_of_changed_volumes(record, checked)


def find_resumption(record: RunRecord, folder: CheckpointFolder) -> Resumption:
    """Find the newest complete checkpoint that is available, on this machine or in the run store.

    Args:
        record: The run.
        folder: Its folder of checkpoints on this machine.

    Raises:
        CheckpointError: There are checkpoints, but none that can be resumed from.
        StoreError: The run store does not answer.
    """
    registered = {entry.iteration: entry for entry in record.checkpoints}
    problems: list[str] = []
    for iteration in sorted({*registered, *folder.iterations()}, reverse=True):
        try:
            model, state = _whole_pair(iteration, registered.get(iteration), folder)
        except CheckpointError as error:
            problems.append(_where_it_is(record, registered.get(iteration)) or str(error))
            continue
        return Resumption(record.id, iteration, model, state, tuple(problems))
    if problems:
        raise CheckpointError(
            f"Run {record.id} cannot be continued from any of its checkpoints ({problems[0].rstrip('.')}): restore "
            f"one, do it again with --repeat_run {record.id}, or start from its weights with --start_from {record.id}."
        )
    return Resumption(record.id, 0)


def put_in_order(resumption: Resumption, run: Run, folder: CheckpointFolder) -> Path | None:
    """Reset a run's record and folder to the state right after the checkpoint it resumes from.

    Args:
        resumption: The checkpoint that it resumes from.
        run: The run, already claimed by this process.
        folder: Its folder of checkpoints on this machine.

    Returns:
        The checkpoint in that folder; None for a run that starts over.
    """
    for problem in resumption.passed_over:
        log.warning("%s The training resumes from iteration %d.", problem, resumption.iteration)
    entries = run.info.get("checkpoints") or []
    for entry in entries:
        if entry["iteration"] > resumption.iteration and entry.get("path"):
            run.forget_checkpoint(run.runs_directory / entry["path"])
    folder.tidy(resumption.iteration, keep={entry["iteration"] for entry in entries})
    if resumption.model is None or resumption.state is None:
        return None
    _bring(resumption.model, folder.model(resumption.iteration))
    _bring(resumption.state, folder.state(resumption.iteration))
    return folder.model(resumption.iteration)


def _whole_pair(iteration: int, entry: CheckpointRecord | None, folder: CheckpointFolder) -> tuple[Path, Path]:
    """Find both files of a checkpoint and verify them by their hashes, or by the checksums they contain."""
    model, state = folder.model(iteration), folder.state(iteration)
    if entry is None:
        for path in (model, state):
            if not is_sound(path):
                raise CheckpointError(f"The checkpoint file {path} is damaged.")
        return model, state
    found = entry.fetch()
    if found.absolute() == model.absolute() and is_sound(state):
        return found, state  # may be newer than its record: a process may have died before recording it
    state = entry.fetch_state()
    if not is_sound(state):
        raise CheckpointError(f"The training state {state} is damaged.")
    return found, state


def _where_it_is(record: RunRecord, entry: CheckpointRecord | None) -> str | None:
    """Return where to find a checkpoint that is only not available here; None for a damaged or missing one."""
    host = str(record.host.get("hostname") or "")
    if entry is None or entry.can_be_had() or host in ("", socket.gethostname()):
        return None
    return (
        f"The checkpoint of run {record.id} of iteration {entry.iteration} is neither on this machine nor in "
        f"{record.store.description}: to go on from it, continue on {host}, or copy {entry.path.name} and "
        f"training_state_{entry.iteration} from there to {entry.path.parent}."
    )


def _bring(found: Path, place: Path) -> None:
    """Copy a file to ``place`` atomically, unless it is there already."""
    if found.absolute() != place.absolute():
        place.parent.mkdir(parents=True, exist_ok=True)
        copy_whole(found, place)


def _flat(values: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def _says_the_same(before: str | None, data: DataConfig | None) -> bool:
    now = None if data is None else data.text
    return before == now or (before is not None and now is not None and same_data(before, now))


def warn_of_changed_volumes(record: RunRecord, checked: CheckedTraining) -> None:
    """Warn of volumes that changed since a run read them, if the data configuration is that of the run."""
    before = {entry.get("name"): sorted((entry.get("content_hashes") or {}).values()) for entry in record.inputs}
    regions: list[Region] = []
    for section, data, entries in (
        ("training", checked.training_data, checked.training_regions),
        ("validation", checked.validation_data, checked.validation_regions),
    ):
        tracked = tracked_data(record, section)
        if tracked is None or _says_the_same(tracked, data):
            regions += entries
    changed = [
        region.name
        for region in regions
        if before.get(region.name) and before[region.name] != sorted(region.content_hashes.values())
    ]
    if changed:
        log.warning(
            "The volumes of %s were written or copied since run %d read them: unless they hold the same voxels, this "
            "is another training.",
            ", ".join(dict.fromkeys(changed)),
            record.id,
        )
