"""What a network does where it computes: whether bf16 or fp16 is exact enough, and the memory and speed of its device.

A scheduler often has no GPU, though its workers have. One of them is then started before the others to measure; its
answers are cached.
"""

from __future__ import annotations

import base64
import json
import pickle
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from torch import nn

from incasem_like.blockwise import WorkItem
from incasem_like.blockwise.job import private_folder
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.blockwise.workers_file import Workers
from incasem_like.config import PredictionConfig
from incasem_like.config.prediction_config import PredictionSection
from incasem_like.config.shared_sections import TorchConfig
from incasem_like.disk import exclusive
from incasem_like.errors import ConfigError, IncasemError, InputError
from incasem_like.networks import check_arithmetic, check_device, has_device, torch_device
from incasem_like.prediction.blocks import volumes_read
from incasem_like.prediction.computing.loading import NetworkSource, make_predictor, prediction_geometry
from incasem_like.prediction.computing.tiling import NONE
from incasem_like.prediction.planning.memory import usable_memory, usable_memory_of_gpu
from incasem_like.prediction.planning.tile_size import (
    MEASURED_VOXELS,
    Measured,
    MeasurementCache,
    device_name,
    measured_tiles,
)
from incasem_like.samples import Region
from incasem_like.volumes import Coordinate, Roi
from incasem_like.volumes.chunk_files import digest

FULL = "fp32"
# Of 1000 values of the tile, this many must be within the tolerance.
OF_A_THOUSAND = 999
# Voxels along each axis of the tile: enough to contain objects, few enough to take about a second.
EDGE = 48
PLACES = (0.5, 0.2, 0.8)


@dataclass(frozen=True)
class PrecisionCheck:
    """The result of the comparison on a tile of a region."""

    asked: str  # the configured precision
    used: str  # it, or fp32 if it is not exact enough
    difference: float  # that 999 of 1000 values, in [0, 1], do not exceed; infinite with NaN or Inf
    tolerance: float
    region: str

    def __str__(self) -> str:
        found = (
            f"torch.precision={self.asked} changes {OF_A_THOUSAND} of 1000 values of a tile of {self.region} by "
            f"at most {self.difference:.2g}"
        )
        if self.used == self.asked:
            return f"{found}; prediction.precision_tolerance allows {self.tolerance:g}."
        return f"{found}, but prediction.precision_tolerance allows {self.tolerance:g}: predicting in {self.used}."


def is_to_be_checked(config: TorchConfig, section: PredictionSection) -> bool:
    """Return whether the configured precision is a lower one, and a tolerance is set."""
    return config.precision != FULL and section.precision_tolerance is not None


def check_precision(
    network: nn.Module, source: NetworkSource, section: PredictionSection, regions: Sequence[Region]
) -> PrecisionCheck | None:
    """Compare the configured precision with fp32 on a tile of each region.

    Returns:
        The comparison with the greatest difference; None in fp32, or if no tolerance is set.
    """
    tolerance, precision = section.precision_tolerance, source.torch.precision
    if tolerance is None or not is_to_be_checked(source.torch, section) or not regions:
        return None
    plain = section.model_copy(update={"test_time_augmentation": NONE, "num_threads": 0})
    smallest = prediction_geometry(source.model).input_for_output([1, 1, 1])
    exact, used = (make_predictor(network, with_precision(source, name), plain, smallest) for name in (FULL, precision))
    found = []
    for region in regions:
        tile = exact.tile(lively_part(region), region.raw_roi.begin)
        read = partial(region.read_raw, outside="reflect")
        values = [next(predictor.predict_parts(read, [tile]))[2] for predictor in (exact, used)]
        found.append((nearly_greatest_difference(*values), region.name))
    worst, name = max(found)
    return PrecisionCheck(precision, precision if worst <= tolerance else FULL, worst, tolerance, name)


def with_precision(source: NetworkSource, precision: str) -> NetworkSource:
    """Return the network computed in that precision."""
    return replace(source, torch=source.torch.model_copy(update={"precision": precision}))


def nearly_greatest_difference(exact: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Return the difference that 999 of 1000 values do not exceed; infinite with NaN or Inf."""
    differences = np.abs(exact - other).ravel()
    if not np.isfinite(differences).all():
        return float("inf")
    return float(np.quantile(differences, OF_A_THOUSAND / 1000, method="higher"))


def lively_part(region: Region) -> Roi:
    """Choose a part of a region that is not just background: of nine parts, the one where masked raw varies most."""
    shape = Coordinate(min(EDGE, length) for length in region.roi.shape)
    room = region.roi.shape - shape

    def liveliness(part: Roi) -> float:
        inside = region.read_mask(part).astype(bool)
        return float(region.read_raw(part, outside="reflect")[..., inside].std()) if inside.any() else -1.0

    middle, *corners = PLACES
    parts = [
        Roi(region.roi.begin + Coordinate(int(r * at) for r, at in zip(room, where, strict=True)), shape)
        for where in [(middle,) * 3, *product(corners, repeat=3)]
    ]
    return max(parts, key=liveliness)  # the first of equals, so that a resumed prediction chooses the same


FORMAT = 2


@dataclass(frozen=True)
class DeviceProfile:
    """What a worker measured about a network."""

    device: str
    memory: float  # bytes that a tile may take there, on a GPU that is otherwise free, or of the host's memory
    measured: Measured  # empty if not requested
    precision: PrecisionCheck | None  # None if there was nothing to check


ANSWER: TypeAdapter[DeviceProfile | str] = TypeAdapter(DeviceProfile | str)


@dataclass(frozen=True)
class ProbeRequest:
    """What a worker is to measure: networks, with the configuration's section ``prediction`` and its regions."""

    networks: tuple[NetworkSource, ...]
    section: PredictionSection
    regions: tuple[Region, ...]

    @property
    def tiles(self) -> bool:
        """Whether tiles have to be chosen, so that speed is measured."""
        return self.section.input_size_voxels is None

    def measure(self, index: int) -> DeviceProfile:
        """Measure one of the networks on this machine.

        Raises:
            ConfigError: The device does not exist.
            CheckpointError, StoreError: As ``NetworkSource.fetch``.
            IncasemError: There is too little memory.
        """
        source = self.networks[index]
        network, device = source.load(), torch_device(source.torch)
        precision = check_precision(network, source, self.section, self.regions)
        measured: Measured = []
        if self.tiles:
            used = source if precision is None else with_precision(source, precision.used)
            measured = measured_tiles(network, used, self.section, MEASURED_VOXELS)
        memory = usable_memory_of_gpu(device) if device.type == "cuda" else usable_memory(device)
        return DeviceProfile(device_name(device), memory, measured, precision)

    def cache(self, source: NetworkSource, workers: Workers) -> MeasurementCache[DeviceProfile]:
        """Return the cache of the profile of one of the networks."""
        checked = is_to_be_checked(source.torch, self.section)
        one = _one_of(workers)
        groups = [group.model_dump(exclude={"time"}) for group in one.groups]
        host = one.cluster or (platform.node() if one.groups[0].launcher in ("local", "command") else None)
        facts = {
            "format": FORMAT,
            "torch": torch.__version__,
            "model": source.model.model_dump(mode="json"),
            "arithmetic": source.torch.model_dump(mode="json"),
            "worker": [groups, host],
            "tiles": [self.section.batch_size, self.section.num_threads] if self.tiles else None,
            "checked": [source.checkpoint.sha256, self.section.precision_tolerance, *map(_content, self.regions)]
            if checked
            else None,
        }
        return MeasurementCache("device_profiles", DeviceProfile, facts)


def _content(region: Region) -> list[Any]:
    hashes = [region.content_hashes[str(volume.address)] for volume in volumes_read(region)]
    return [list(region.roi.begin), list(region.roi.shape), hashes]


def needs_probe(config: PredictionConfig, workers: Workers | None) -> bool:
    """Check that the device exists where networks will compute, and return whether a worker is probed.

    Raises:
        ConfigError: The device does not exist here, or no worker can be probed.
    """
    choice, device = config.prediction.probe, config.torch
    if choice == "worker" and workers is None:
        raise ConfigError(
            "prediction.probe=worker has a worker measured, but there are none: give them by --workers, "
            "or set prediction.probe=auto."
        )
    elsewhere = workers is not None and all(group.launcher != "local" for group in workers.groups)
    gpu_elsewhere = elsewhere and device.device_name.startswith("cuda") and not has_device(device)
    probed = choice == "worker" or (choice == "auto" and gpu_elsewhere)
    if elsewhere and probed:
        check_arithmetic(device)
    elif workers is None:
        check_device(device, "start this where there is one, or have workers that have one predict (--workers)")
    else:
        check_device(device)
    return probed


def device_profiles(request: ProbeRequest, workers: Workers, *, probe: bool = True) -> list[DeviceProfile | None]:
    """Return the profile of each network where workers compute; one worker measures those that are not cached.

    Args:
        request: What to measure.
        workers: The workers that predict; one of the first group that is not on this machine measures.
        probe: Whether to start that worker; otherwise profiles that are not cached are None.

    Raises:
        InputError: The worker cannot predict.
        IncasemError: No worker can be started.
    """
    if not request.tiles and not any(is_to_be_checked(one.torch, request.section) for one in request.networks):
        return [None] * len(request.networks)
    caches = [request.cache(source, workers) for source in request.networks]
    known = {cache.path: cache.read() for cache in caches}
    if probe and not all(known.values()):
        # Named after the measurements, so that a repeated call is the same job.
        folder = private_folder("ledgers") / f"probe-{digest([path.name for path in known])[:10]}"
        folder.mkdir(exist_ok=True)
        with exclusive(folder):  # another process may be measuring the same
            known = {cache.path: cache.read() for cache in caches}
            unknown = {
                cache.path: (cache, source)
                for cache, source in zip(caches, request.networks, strict=True)
                if known[cache.path] is None
            }
            asked = replace(request, networks=tuple(source for _, source in unknown.values()))
            answers = _probe(asked, workers, folder / "ledger.zarr") if unknown else []
            for (cache, _), answer in zip(unknown.values(), answers, strict=True):
                if isinstance(answer, DeviceProfile):
                    known[cache.path] = answer
                    cache.write(answer)
        for answer in answers:
            if isinstance(answer, str):
                raise InputError(answer)
    return [known[cache.path] for cache in caches]


def _one_of(workers: Workers) -> Workers:
    """Return a single worker, of the first group that is not on this machine; of a cluster any."""
    elsewhere = [group for group in workers.groups if group.launcher != "local"]
    groups = (elsewhere or workers.groups)[:1]
    return replace(workers, groups=tuple(group.model_copy(update={"count": 1, "adaptive": None}) for group in groups))


def _probe(request: ProbeRequest, workers: Workers, ledger: Path) -> list[DeviceProfile | str]:
    """Have a worker measure one network after the other; a failure yields a sentence instead of a profile."""
    one = _one_of(workers)
    task = LedgerTask(
        "probe",
        tuple(f"training run {source.training_run_id}, {source.checkpoint.path.name}" for source in request.networks),
        inputs=(),
        function=measure_network,
        parameters={"request": base64.b64encode(pickle.dumps(request)).decode()},
        place=ledger,
        unit="networks",
    )
    task.run(workers=one, description="Measuring on a worker", overwrite=True)
    answers = [ANSWER.validate_json(written.tobytes()) for written in task.results()]
    task.forget()
    lacks_gpu = request.networks[0].torch.device_name.startswith("cuda") and any(not of.gpus for of in one.groups)
    hint = " The workers file asks for no GPU: add gpus: 1 there." if lacks_gpu else ""
    return [answer + hint if isinstance(answer, str) else answer for answer in answers]


def measure_network(item: WorkItem, parameters: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Measure one network in a worker and return JSON in bytes: its profile, or why it cannot be measured."""
    request: ProbeRequest = pickle.loads(base64.b64decode(parameters["request"]))
    answer: DeviceProfile | str
    try:
        answer = request.measure(item.number)
    except IncasemError as error:
        answer = f"The worker on {platform.node()}, asked how it would predict, cannot: {error}"
    return np.frombuffer(json.dumps(ANSWER.dump_python(answer)).encode(), dtype=np.uint8)
