"""What only the place where a network computes can tell, asked of a worker there: memory, speed, and exactness.

A scheduler often has no GPU, though its workers have. One of them is then started before the others and asked; what it
says is kept in the user's cache.
"""

from __future__ import annotations

import base64
import json
import pickle
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from incasem_like.blockwise.ledger import LedgerTask, Pieces
from incasem_like.blockwise.workers_file import Workers
from incasem_like.errors import ConfigError, IncasemError, InputError
from incasem_like.networks import check_device, has_device, torch_device
from incasem_like.prediction.computing.weights import NetworkPlace
from incasem_like.prediction.planning.kept import Kept
from incasem_like.prediction.planning.memory import usable_memory
from incasem_like.prediction.planning.precision import PrecisionCheck, check_precision, is_to_be_checked
from incasem_like.prediction.planning.speed import MEASURED_VOXELS, Measured, device_name, measured_tiles

if TYPE_CHECKING:
    from incasem_like.blockwise.task import Block
    from incasem_like.config import PredictionConfig
    from incasem_like.config.prediction_config import PredictionSection
    from incasem_like.samples import Region

FORMAT = 1
_OF_SECTION = {"input_size_voxels", "batch_size", "num_workers", "precision_tolerance", "test_time_augmentation"}


@dataclass(frozen=True)
class Survey:
    """What a worker found out about a network.

    Attributes:
        device: Name of what it computes on.
        memory: Bytes that a tile may take there.
        measured: Of some tiles the voxels that were read and written, and the seconds; none where tiles are configured.
        precision: How the configured precision was held against fp32; None where there was nothing to check.
    """

    device: str
    memory: float
    measured: Measured
    precision: PrecisionCheck | None

    @classmethod
    def restored(cls, values: Mapping[str, Any]) -> Survey:
        """Make one from what ``asdict`` and JSON made of it."""
        precision = values["precision"]
        return cls(
            str(values["device"]),
            float(values["memory"]),
            [(int(read), int(written), float(seconds)) for read, written, seconds in values["measured"]],
            None if precision is None else PrecisionCheck(**precision),
        )


@dataclass(frozen=True)
class Inquiry:
    """What is asked: about these networks, for predicting these regions in that way."""

    networks: tuple[NetworkPlace, ...]
    section: PredictionSection
    regions: tuple[Region, ...]

    def answered_here(self) -> list[Survey]:
        """Find it out on this machine.

        Raises:
            ConfigError: The device is not there.
            CheckpointError, StoreError: As ``CheckpointPlace.fetch``.
            IncasemError: The memory does not suffice.
        """
        return [self._examine(place) for place in self.networks]

    def _examine(self, place: NetworkPlace) -> Survey:
        network, device = place.load(), torch_device(place.torch)
        memory = usable_memory(device)
        precision = check_precision(network, place.model, place.torch, self.section, self.regions)
        measured: Measured = []
        if self.section.input_size_voxels is None:
            config = place.torch if precision is None else precision.applied(place.torch)
            measured = measured_tiles(network, place.model, config, self.section, MEASURED_VOXELS)
        return Survey(device_name(device), memory, measured, precision)

    def kept(self, place: NetworkPlace, workers: Workers) -> Kept:
        """Say where the answer about one of the networks is kept."""
        checked = is_to_be_checked(place.torch, self.section)
        facts = {
            "format": FORMAT,
            "torch": torch.__version__,
            "model": place.model.model_dump(mode="json"),
            "arithmetic": place.torch.model_dump(mode="json"),
            "section": self.section.model_dump(mode="json", include=_OF_SECTION),
            "worker": asdict(_one_of(workers).groups[0]),
            "checked": [place.checkpoint.sha256, *map(_looked_at, self.regions)] if checked else None,
        }
        return Kept("surveys", facts)


def _looked_at(region: Region) -> list[Any]:
    return [list(region.roi.begin), list(region.roi.shape), sorted(region.content_hashes.values())]


def check_place(config: PredictionConfig, workers: Workers | None) -> bool:
    """Make sure that the device is where networks are to compute, and say whether a worker is asked about it.

    Raises:
        ConfigError: It is not here, or there is no worker to ask.
    """
    choice = config.prediction.survey
    if choice == "worker" and workers is None:
        raise ConfigError(
            "prediction.survey=worker has a worker measured, but there are none: give them by --workers, "
            "or set prediction.survey=auto."
        )
    elsewhere = workers is not None and any(group.launcher != "local" for group in workers.groups)
    asks = choice == "worker" or (choice == "auto" and elsewhere and not has_device(config.torch))
    if not asks:
        check_device(config.torch)
    return asks


def is_wanted(config: PredictionConfig) -> bool:
    """Say whether there is anything to be found out: tiles to be chosen, or a precision to be checked."""
    return config.prediction.input_size_voxels is None or is_to_be_checked(config.torch, config.prediction)


def survey(inquiry: Inquiry, workers: Workers, *, ask: bool = True) -> list[Survey | None]:
    """Give what is known of each network where workers compute; ask one of them for what is not known yet.

    Args:
        inquiry: What is to be known.
        workers: Who predicts; one of the first kind that is not on this machine is asked.
        ask: Ask; else what is not known is None.

    Raises:
        InputError: The worker cannot predict.
        IncasemError: No worker can be started.
    """
    kept = [inquiry.kept(place, workers) for place in inquiry.networks]
    known = {one.path: _read(one) for one in kept}
    unknown = {one.path: (one, place) for one, place in zip(kept, inquiry.networks, strict=True) if not known[one.path]}
    if unknown and ask:
        asked = replace(inquiry, networks=tuple(place for _, place in unknown.values()))
        for (one, _), answer in zip(unknown.values(), _ask_worker(asked, workers), strict=True):
            one.write(asdict(answer))
            known[one.path] = answer
    return [known[one.path] for one in kept]


def _read(kept: Kept) -> Survey | None:
    try:
        return Survey.restored(kept.read())
    except (KeyError, TypeError, ValueError):
        return None


def _one_of(workers: Workers) -> Workers:
    elsewhere = [group for group in workers.groups if group.launcher != "local"]
    return Workers((replace((elsewhere or workers.groups)[0], count=1),), workers.scheduler)


def _ask_worker(inquiry: Inquiry, workers: Workers) -> list[Survey]:
    packed = base64.b64encode(pickle.dumps(inquiry)).decode()
    task = LedgerTask(
        "survey",
        like=Pieces(("the survey by a worker",), "surveys"),
        inputs=(),
        function=answer_inquiry,
        parameters={"inquiry": packed},
        block_shape=(1, 1, 1),
    )
    try:
        task.run(workers=_one_of(workers), description="Measuring on a worker")
        (written,) = task.results()
    finally:
        task.forget()
    answer = json.loads(written.tobytes())
    if "problem" in answer:
        raise InputError(f"The worker on {answer['host']}, asked how it would predict, cannot: {answer['problem']}")
    return [Survey.restored(values) for values in answer["surveys"]]


def answer_inquiry(block: Block, parameters: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Answer in a worker, as JSON in bytes: the surveys, or the sentence that says why there are none."""
    inquiry: Inquiry = pickle.loads(base64.b64decode(parameters["inquiry"]))
    try:
        answer: Any = {"surveys": [asdict(one) for one in inquiry.answered_here()]}
    except IncasemError as error:
        answer = {"problem": str(error), "host": platform.node()}
    return np.frombuffer(json.dumps(answer).encode(), dtype=np.uint8)
