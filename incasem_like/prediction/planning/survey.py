"""Probe of a worker's device: the memory, speed and precision of networks where they compute.

A scheduler often has no GPU, though its workers have. One of them is then started before the others to measure; its
answers are stored in the user's cache.
"""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import platform
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from incasem_like.blockwise.done_log import claimed
from incasem_like.blockwise.job import private_folder
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.blockwise.workers_file import Workers
from incasem_like.errors import ConfigError, IncasemError, InputError
from incasem_like.networks import check_arithmetic, check_device, has_device, torch_device
from incasem_like.prediction.computing.loading import NetworkSource
from incasem_like.prediction.planning.kept import Kept
from incasem_like.prediction.planning.memory import usable_memory, usable_memory_of_gpu
from incasem_like.prediction.planning.precision import PrecisionCheck, check_precision, is_to_be_checked, with_precision
from incasem_like.prediction.planning.speed import MEASURED_VOXELS, Measured, device_name, measured_tiles
from incasem_like.volumes.provenance import digest

if TYPE_CHECKING:
    from incasem_like.blockwise.task import WorkItem
    from incasem_like.config import PredictionConfig
    from incasem_like.config.prediction_config import PredictionSection
    from incasem_like.samples import Region

FORMAT = 1


@dataclass(frozen=True)
class Survey:
    """The findings of a worker about a network.

    Attributes:
        device: Name of its device.
        memory: Bytes that a tile may take there, on a GPU that is otherwise free, or of the host's memory.
        measured: For some tiles the voxels read, the voxels written and the seconds; empty if not requested.
        precision: The comparison of the configured precision with fp32; None if there was nothing to check.
    """

    device: str
    memory: float
    measured: Measured
    precision: PrecisionCheck | None

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Survey:
        """Restore a survey from the result of ``asdict`` after JSON."""
        precision = values["precision"]
        return cls(
            str(values["device"]),
            float(values["memory"]),
            [(int(read), int(written), float(seconds)) for read, written, seconds in values["measured"]],
            None if precision is None else PrecisionCheck(**precision),
        )


@dataclass(frozen=True)
class Inquiry:
    """The questions to a worker.

    Attributes:
        networks: The networks to measure.
        section: The configuration's section ``prediction``.
        regions: The regions to predict.
        tiles: Whether tiles have to be chosen, so that speed is measured.
    """

    networks: tuple[NetworkSource, ...]
    section: PredictionSection
    regions: tuple[Region, ...]
    tiles: bool

    @property
    def asks_anything(self) -> bool:
        """Whether there is anything to measure."""
        return self.tiles or any(is_to_be_checked(place.torch, self.section) for place in self.networks)

    def answered_here(self, index: int) -> Survey:
        """Measure one of the networks on this machine.

        Raises:
            ConfigError: The device does not exist.
            CheckpointError, StoreError: As ``CheckpointPlace.fetch``.
            IncasemError: There is too little memory.
        """
        place = self.networks[index]
        network, device = place.load(), torch_device(place.torch)
        precision = check_precision(network, place, self.section, self.regions)
        measured: Measured = []
        if self.tiles:
            used = place if precision is None else with_precision(place, precision.used)
            measured = measured_tiles(network, used, self.section, MEASURED_VOXELS)
        memory = usable_memory_of_gpu(device) if device.type == "cuda" else usable_memory(device)
        return Survey(device_name(device), memory, measured, precision)

    def kept(self, place: NetworkSource, workers: Workers) -> Kept:
        """Return the cache file of the answer about one of the networks."""
        checked = is_to_be_checked(place.torch, self.section)
        group = _one_of(workers).groups[0]
        facts = {
            "format": FORMAT,
            "torch": torch.__version__,
            "model": place.model.model_dump(mode="json"),
            "arithmetic": place.torch.model_dump(mode="json"),
            "worker": asdict(replace(group, time=None)),
            "host": platform.node() if group.launcher in ("local", "command") else None,
            "tiles": [self.section.batch_size, self.section.num_threads] if self.tiles else None,
            "checked": [place.checkpoint.sha256, self.section.precision_tolerance, *map(_looked_at, self.regions)]
            if checked
            else None,
        }
        return Kept("surveys", facts)


def _looked_at(region: Region) -> list[Any]:
    hashes, volumes = region.content_hashes, [region.raw, *([] if region.mask is None else [region.mask])]
    return [list(region.roi.begin), list(region.roi.shape), [hashes[str(volume.address)] for volume in volumes]]


def check_place(config: PredictionConfig, workers: Workers | None) -> bool:
    """Check that the device exists where networks will compute, and return whether a worker is asked about it.

    Raises:
        ConfigError: It does not exist here, or no worker can be asked.
    """
    choice, device = config.prediction.survey, config.torch
    if choice == "worker" and workers is None:
        raise ConfigError(
            "prediction.survey=worker has a worker measured, but there are none: give them by --workers, "
            "or set prediction.survey=auto."
        )
    elsewhere = workers is not None and all(group.launcher != "local" for group in workers.groups)
    gpu_elsewhere = elsewhere and device.device_name.startswith("cuda") and not has_device(device)
    asks = choice == "worker" or (choice == "auto" and gpu_elsewhere)
    if elsewhere and asks:
        check_arithmetic(device)
    elif workers is None:
        check_device(device, "start this where there is one, or have workers that have one predict (--workers)")
    else:
        check_device(device)
    return asks


def survey(inquiry: Inquiry, workers: Workers, *, ask: bool = True) -> list[Survey | None]:
    """Return the survey of each network where workers compute; ask one of them for those not cached yet.

    Args:
        inquiry: The questions.
        workers: The workers that predict; one of the first group that is not on this machine is asked.
        ask: Whether to ask; otherwise unknown surveys are None.

    Raises:
        InputError: The worker cannot predict.
        IncasemError: No worker can be started.
    """
    if not inquiry.asks_anything:
        return [None] * len(inquiry.networks)
    kept = [inquiry.kept(place, workers) for place in inquiry.networks]
    known = {one.path: _read(one) for one in kept}
    unknown = {one.path: (one, place) for one, place in zip(kept, inquiry.networks, strict=True) if not known[one.path]}
    problems: list[InputError] = []
    if unknown and ask:
        asked = replace(inquiry, networks=tuple(place for _, place in unknown.values()))
        with _claimed_ledger(digest([path.name for path in unknown])[:10]) as place:
            answers = _ask_worker(asked, workers, place)
        for (one, _), answer in zip(unknown.values(), answers, strict=True):
            if isinstance(answer, InputError):
                problems.append(answer)
                continue
            one.write(asdict(answer))
            known[one.path] = answer
    if problems:
        raise problems[0]
    return [known[one.path] for one in kept]


def _read(kept: Kept) -> Survey | None:
    try:
        return Survey.restored(kept.read())
    except (KeyError, TypeError, ValueError):
        return None


def _one_of(workers: Workers) -> Workers:
    elsewhere = [group for group in workers.groups if group.launcher != "local"]
    return Workers((replace((elsewhere or workers.groups)[0], count=1),), workers.scheduler)


@contextlib.contextmanager
def _claimed_ledger(name: str) -> Iterator[Path]:
    """Yield a ledger named after the questions, so that a repeated call is the same job; another one if it is in use.

    The claim lasts until the answers are read: a ledger is unlocked between its creation, its run and its removal.
    """
    place = private_folder("ledgers") / f"survey-{name}.zarr"
    with contextlib.ExitStack() as claim:
        try:
            claim.enter_context(claimed(place))
        except InputError:
            place = place.with_name(f"survey-{name}-{uuid.uuid4().hex[:8]}.zarr")
        yield place


def _ask_worker(inquiry: Inquiry, workers: Workers, place: Path) -> list[Survey | InputError]:
    """Have a worker answer for one network after the other; a failure yields an error instead of a survey."""
    one = _one_of(workers)
    names = tuple(f"training run {of.training_run_id}, {of.checkpoint.path.name}" for of in inquiry.networks)
    task = LedgerTask(
        "survey",
        names,
        inputs=(),
        function=answer_inquiry,
        parameters={"inquiry": base64.b64encode(pickle.dumps(inquiry)).decode()},
        place=place,
        unit="networks",
    )
    task.run(workers=one, description="Measuring on a worker", overwrite=True)
    answers = [json.loads(written.tobytes()) for written in task.results()]
    task.forget()
    lacks_gpu = inquiry.networks[0].torch.device_name.startswith("cuda") and not one.groups[0].gpus
    hint = " The workers file asks for no GPU: add gpus: 1 there." if lacks_gpu else ""
    return [
        InputError(f"The worker on {answer['host']}, asked how it would predict, cannot: {answer['problem']}{hint}")
        if "problem" in answer
        else Survey.restored(answer)
        for answer in answers
    ]


def answer_inquiry(item: WorkItem, parameters: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Answer for one network in a worker, as JSON in bytes: the survey, or the error message."""
    inquiry: Inquiry = pickle.loads(base64.b64decode(parameters["inquiry"]))
    try:
        answer: dict[str, Any] = asdict(inquiry.answered_here(item.number))
    except IncasemError as error:
        answer = {"problem": str(error), "host": platform.node()}
    return np.frombuffer(json.dumps(answer).encode(), dtype=np.uint8)
