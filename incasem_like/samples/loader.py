"""Loading samples in order, in this process or prefetched by several workers."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from incasem_like.errors import IncasemError
from incasem_like.processes import fork_server
from incasem_like.samples.dataset import Sample, TrainingSamples
from incasem_like.samples.settings import SampleSettings
from incasem_like.samples.synthetic import SyntheticSamples

logger = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"
SHARED_MEMORY_SHARE = 0.8
PRELOADED = ["incasem_like.samples.making"]


@dataclass(frozen=True)
class Failure:
    """An error passed from a worker as a value; torch would wrap its message in a traceback."""

    error: IncasemError


class SampleLoader(DataLoader[Any]):
    """A torch `DataLoader` with batches in order, and this package's error classes."""

    def __iter__(self) -> Iterator[Sample]:  # type: ignore[override]
        """Yield the batches.

        Raises:
            DataError: The data cannot be opened, or no position in it is acceptable.
            IncasemError: A worker died, usually because memory ran out.
        """
        with warnings.catch_warnings():
            # More workers than cores is the user's choice; torch's warning does not name the setting.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            batches = super().__iter__()
        try:
            for batch in batches:
                if isinstance(batch, Failure):
                    raise batch.error
                yield batch
        except (RuntimeError, EOFError, OSError) as error:
            if not _worker_died(batches):
                raise
            raise IncasemError(
                f"One of the {self.num_workers} processes that make samples died, probably for lack of memory: lower "
                "training.precache.num_workers or the block sizes; the checkpoints written so far are kept."
            ) from error


def make_loader(
    samples: TrainingSamples | SyntheticSamples,
    *,
    batch_size: int = 1,
    num_workers: int = 0,
    prefetch: int = 2,
    start: int = 0,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
    parts: int = 1,
    pin_memory: bool = False,
) -> SampleLoader:
    """Load the batches of iterations ``start`` to ``stop - 1`` in order.

    Iteration t gets the samples from ``t * batch_size`` on, regardless of the number of workers and processes and of
    where a run was resumed. Each process gets its share of every part of a batch.

    Args:
        samples: The dataset.
        batch_size: Samples per batch over all processes; a multiple of ``parts * world_size``.
        num_workers: Processes that prefetch samples; 0 = make them in this process on demand. Workers are
            started by ``forkserver``, since TensorStore doesn't survive a fork.
        prefetch: Total number of prefetched batches.
        start: First iteration.
        stop: One past the last iteration.
        rank: Number of this process in a training on several devices.
        world_size: Number of such processes.
        parts: Parts of a batch that are computed one after another.
        pin_memory: Copy batches to pinned memory, for a GPU.

    Returns:
        A loader of batches: the dicts of `TrainingSamples`, every array stacked along a new first axis.
    """
    batch_bytes = _batch_bytes(samples.settings) * batch_size // world_size
    num_workers, ahead = _fit_shared_memory(num_workers, prefetch, batch_bytes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        return SampleLoader(
            _Guarded(samples),
            batch_sampler=_Iterations(start, stop, batch_size, rank, world_size, parts),
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # otherwise torch draws a seed from this process's global generator
            **(_parallel_options(num_workers, ahead) if num_workers else {}),
        )


def _worker_died(batches: Any) -> bool:
    """Return whether the failure was the death of a worker, which appears as one of many errors."""
    sentinels = [worker.sentinel for worker in getattr(batches, "_workers", [])]
    return bool(sentinels) and bool(wait(sentinels, timeout=1))


class _Guarded(Dataset[Any]):
    """Dataset that returns samples, or a `Failure` instead of raising."""

    def __init__(self, samples: TrainingSamples | SyntheticSamples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample | Failure:
        try:
            return self.samples[index]
        except IncasemError as error:
            return Failure(error)


@dataclass(frozen=True)
class _Iterations:
    """The sample numbers of each iteration's batch."""

    start: int
    stop: int
    batch_size: int
    rank: int
    world_size: int
    parts: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch_size // self.parts
        share = part // self.world_size
        begin = self.rank * share
        for iteration in range(self.start, self.stop):
            first = iteration * self.batch_size
            yield [first + number * part + begin + one for number in range(self.parts) for one in range(share)]


def _collate(samples: list[Sample | Failure]) -> Any:
    failed = [sample for sample in samples if isinstance(sample, Failure)]
    return failed[0] if failed else default_collate(samples)


def _parallel_options(num_workers: int, ahead: int) -> dict[str, Any]:
    """Return options to start workers from a fork server with torch and gunpowder preloaded, which is fast."""
    return {
        "multiprocessing_context": fork_server(PRELOADED),
        "worker_init_fn": _start_worker,
        "prefetch_factor": max(1, ahead // num_workers),
        "persistent_workers": True,
    }


def _start_worker(worker: int) -> None:
    # torch's own watchdog checks the parent, here the fork server, which outlives a killed training.
    threading.Thread(target=_end_with_training, daemon=True).start()


def _end_with_training() -> None:
    training = multiprocessing.parent_process()
    if training is not None:
        training.join()
        os._exit(1)


def _batch_bytes(settings: SampleSettings) -> int:
    """Return the bytes of one sample sent between processes: raw, labels, mask, instance ids and targets."""
    labels = 2 + (8 if settings.instance_classes else 0)
    of_voxel = labels + sum(target.bytes_per_voxel for target in settings.targets)
    return 4 * settings.input_channels * math.prod(settings.input_size) + of_voxel * math.prod(settings.output_size)


def _fit_shared_memory(num_workers: int, prefetch: int, batch_bytes: int) -> tuple[int, int]:
    """Limit workers and prefetched batches to the shared memory; when it is full, workers die by a bus error."""
    if num_workers == 0 or not os.path.isdir(SHARED_MEMORY):
        return num_workers, prefetch
    status = os.statvfs(SHARED_MEMORY)
    room = int(status.f_bavail * status.f_frsize * SHARED_MEMORY_SHARE) // batch_bytes
    # In addition to the prefetched batches, each worker fills one and one is in use.
    workers = max(0, min(num_workers, (room - 1) // 2))
    if workers < num_workers:
        logger.warning(
            "%s has room for %d batches of %.0f MB: using %d of %d workers; enlarge it (docker: --shm-size).",
            SHARED_MEMORY, room, batch_bytes / 1e6, workers, num_workers,
        )  # fmt: skip
    return workers, max(workers, min(prefetch, room - workers - 1))
