"""The memory available where a network computes, and the memory that a tile takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from incasem_like.blockwise.launchers import WorkerGroup
from incasem_like.blockwise.workers_file import Workers
from incasem_like.networks import forward_maps, torch_device
from incasem_like.networks.description import ForwardMaps
from incasem_like.networks.inference import VOXELS_AT_ONCE, streams
from incasem_like.prediction.computing.loading import NetworkSource, prediction_geometry
from incasem_like.prediction.computing.tiles import MOST_TILES_AHEAD, PLANES_READ
from incasem_like.prediction.computing.tiling import NONE
from incasem_like.prediction.outputs import LONGEST_CHUNK_EDGE
from incasem_like.processes import available_host_memory

Floats = npt.NDArray[np.float64]
Numbers = float | Floats

SHARE_OF_MEMORY = 0.5
# Upper limit for tiles, so that a worker with its other memory fits into 4 GiB of the host's memory.
MOST_HOST_BYTES = 3 * 2**30
# With a GPU: the part of it for tiles that are prefetched or waiting to be written; CUDA itself takes the rest.
MOST_HOST_BYTES_BESIDE_GPU = 5 * 2**29
# Tiles in the host's memory at once: prefetched, pinned; results being fetched, waiting and being written.
TILES_READ, TILES_WRITTEN = 4, 3
# Memory of a process besides its tiles: the interpreter, torch, and the caches of the volumes.
BYTES_OF_A_PROCESS = 3 * 2**30 // 4
BYTES_PER_FLOAT = 4
# The libraries compute in blocks of 8 maps, so fewer maps take as much memory.
SMALLEST_BLOCK_OF_MAPS = 8
# Largest number of values of a tensor on a GPU: beyond it, some CUDA kernels fail or take far more memory.
MOST_VALUES_OF_A_TENSOR = 2**31 - 1
# For a network that runs in slabs: slabs of the finest level in memory at the same time.
SLABS_AT_ONCE = 8


@dataclass(frozen=True)
class TileMemory:
    """The memory that a tile takes."""

    feature_maps: int  # of the network's finest level
    channels: int  # of the input
    classes: int  # channels of the output
    tiles_ahead: int  # prefetched tiles, or parts of tiles
    forward: ForwardMaps | None  # memory at once when a tile is computed as a whole; None: in slabs along z
    whole: bool  # tiles are nevertheless read and returned as a whole
    stride: int  # along z
    lost: int  # planes of context along z, both sides together
    batch_size: int = 1  # tiles that are computed together, where they are not run in slabs
    on_gpu: bool = False  # the network's memory is not the host's

    def bytes(self, z: Numbers, y: Numbers, x: Numbers) -> Floats:
        """Estimate the bytes for tiles of the given edges, which may be arrays."""
        if self.forward is not None:
            network = self.batch_size * z * y * x * self.forward.together * BYTES_PER_FLOAT
            return np.asarray(network if self.on_gpu else network + self._around_the_network(z, y, x))
        maps = max(self.feature_maps, SMALLEST_BLOCK_OF_MAPS)
        slab = np.maximum(np.minimum(VOXELS_AT_ONCE, z * y * x), self.stride * y * x)
        waiting = y * x * np.minimum(self.lost, z)
        # Raw values: the network's input and prefetched tiles. Probabilities: being collected, joined, written.
        read, written = (z, z) if self.whole else (np.minimum(z, PLANES_READ), np.minimum(z, LONGEST_CHUNK_EDGE))
        tile = y * x * (self.channels * (2 + self.tiles_ahead) * read + 3 * self.classes * written)
        return np.asarray(((SLABS_AT_ONCE * slab + waiting) * maps + tile) * BYTES_PER_FLOAT)

    def fits_tensors(self, z: Numbers, y: Numbers, x: Numbers) -> npt.NDArray[np.bool_]:
        """Return whether the largest tensor has no more values than one may have where the network computes."""
        widest = self.forward.widest if self.forward is not None and self.on_gpu else 0.0
        return np.asarray(self.batch_size * z * y * x * widest <= MOST_VALUES_OF_A_TENSOR)

    def host_bytes(self, z: Numbers, y: Numbers, x: Numbers) -> Floats:
        """Estimate the bytes of the host's memory that tiles take beside a GPU; 0 where ``bytes`` counts them."""
        return self._around_the_network(z, y, x) if self.on_gpu else np.zeros(())

    def _around_the_network(self, z: Numbers, y: Numbers, x: Numbers) -> Floats:
        """Estimate the bytes of whole tiles that are prefetched or waiting to be written."""
        per_voxel = TILES_READ * self.channels + TILES_WRITTEN * self.classes
        return np.asarray(self.batch_size * z * y * x * per_voxel * BYTES_PER_FLOAT)


def tile_memory(
    network: nn.Module, source: NetworkSource, augmentation: str, batch_size: int | None = None
) -> TileMemory:
    """Return the memory of tiles of a network, for a test-time augmentation and number of tiles at a time."""
    model, geometry, device = source.model, prediction_geometry(source.model), torch_device(source.torch)
    return TileMemory(
        # The feature maps kept at full resolution determine the memory.
        feature_maps=max(getattr(model, "num_fmaps", 1), model.num_fmaps_out, model.in_channels),
        channels=model.in_channels,
        classes=model.num_fmaps_out,
        tiles_ahead=MOST_TILES_AHEAD[device.type],
        forward=None if streams(network, device) else forward_maps(model),
        whole=augmentation != NONE,
        stride=geometry.stride[0],
        lost=geometry.lost[0],
        batch_size=batch_size or 1,
        on_gpu=device.type == "cuda",
    )


def usable_memory(device: torch.device, workers: Workers | None = None) -> float:
    """Return how many bytes a tile may take where the network computes.

    Args:
        device: Device of the network.
        workers: Workers that predict in parallel; those on this machine share its memory, others have the memory of
            their queue's jobs. None for one process here.
    """
    if device.type == "cuda":
        return float(SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0])
    groups = (WorkerGroup(),) if workers is None else workers.groups
    here = sum(group.number for group in groups if group.launcher == "local")
    limits = [float(MOST_HOST_BYTES)]
    for group in groups:
        if group.launcher == "local":
            limits.append(SHARE_OF_MEMORY * available_host_memory() / here)
        elif group.memory is not None:
            limits.append(float(group.memory - BYTES_OF_A_PROCESS))
    return min(limits)


def usable_memory_of_gpu(device: torch.device) -> float:
    """Return how many bytes a tile may take on a GPU that is otherwise free."""
    return float(SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[1])


def worker_count(workers: Workers | None) -> int:
    """Return how many processes predict in parallel; 1 for an existing cluster, whose number changes."""
    return 1 if workers is None else sum(group.number for group in workers.groups) or 1
