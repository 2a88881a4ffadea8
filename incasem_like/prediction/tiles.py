"""TiledPredictor: the prediction of a region tile by tile, equal to that of the whole volume at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from incasem_like.errors import ConfigError
from incasem_like.networks import NetworkGeometry, enough_memory
from incasem_like.networks.inference import Inference, inference
from incasem_like.networks.slabs import planes
from incasem_like.prediction.ahead import ahead
from incasem_like.prediction.variants import NONE, Variant, geometry_for, variants_for
from incasem_like.volumes import Coordinate, Roi

Floats = npt.NDArray[np.float32]
Reader = Callable[[Roi], Floats]
Tile = tuple[Roi, Roi]


class TiledPredictor:
    """Predicts regions of any size with a network that takes tiles.

    A network that pools gives the same values only where its pooling cells lie the same way. So every tile is read at a
    multiple of the network's stride from the volume's own begin, and what one region's prediction holds at a voxel is
    what any other's does, and the whole volume's.

    Args:
        network: Maps (1, channels, z, y, x) in [-1, 1] to logits; it is put into evaluation mode while it is used.
        geometry: The network's.
        input_size: The largest tile it is given, in voxels z, y, x; tiles at a region's end are smaller.
        device: Where the network is.
        autocast: Type that automatic mixed precision computes in; None for the network's own.
        channels_last: Give the network tiles with channels last in memory.
        read_ahead: How many tiles are read ahead in other threads.
        augmentation: ``none``, ``mirrors`` or ``mirrors_and_transposes``: positions that are averaged.

    Raises:
        ConfigError: A network on sections, or one that cannot take ``input_size`` or be transposed.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        geometry: NetworkGeometry,
        input_size: Sequence[int],
        device: torch.device,
        autocast: torch.dtype | None = None,
        channels_last: bool = False,
        read_ahead: int = 1,
        augmentation: str = NONE,
    ) -> None:
        if geometry.dims != 3:
            raise ConfigError(
                "The network takes sections, and volumes are predicted with 3-D ones: "
                "give each level of model.downsample_factors 3 numbers."
            )
        geometry.output_size(input_size)
        self.network, self.input_size = network, tuple(input_size)
        self.geometry, self._variants = geometry_for(augmentation, geometry), variants_for(augmentation, geometry)
        self.device, self.autocast, self.channels_last = device, autocast, channels_last
        self.read_ahead = read_ahead

    def steps(self, roi: Roi, origin: Sequence[int]) -> Coordinate:
        """Give the size of the tiles that ``roi`` is predicted in, in voxels; those at its end may be smaller.

        Raises:
            ConfigError: ``input_size`` is too small to cover that region with tiles a stride apart.
        """
        return Coordinate(
            axis_step(self.geometry, axis, self.input_size[axis], grid_phase(self.geometry, axis, roi, origin))
            for axis in range(3)
        )

    def tiles(self, roi: Roi, origin: Sequence[int], within: Roi | None = None) -> list[Tile]:
        """Divide a region into tiles.

        Args:
            roi: What to predict, in absolute voxels.
            origin: Where the raw volume begins, in absolute voxels.
            within: Give only those tiles that begin in this part of it.

        Returns:
            For each tile what it reads and what it writes, last axis fastest. The second kind covers ``roi`` without
            overlap; the first goes beyond it, and beyond the volume at its edges.

        Raises:
            ConfigError: As ``steps``.
        """
        axes = []
        for axis, step in enumerate(self.steps(roi, origin)):
            begin, end = roi.begin[axis], roi.end[axis]
            phase = grid_phase(self.geometry, axis, roi, origin)
            starts: Iterable[int] = range(begin, end, step)
            if within is not None:
                starts = [at for at in starts if within.begin[axis] <= at < within.end[axis]]
            axes.append([self._axis_tile(axis, at, min(at + step, end), phase) for at in starts])
        return [
            (
                Roi([read[0] for read, _ in spans], [read[1] for read, _ in spans]),
                Roi([write[0] for _, write in spans], [write[1] for _, write in spans]),
            )
            for spans in product(*axes)
        ]

    def predict(self, read: Reader, roi: Roi, origin: Sequence[int]) -> Iterator[tuple[Roi, Floats]]:
        """Predict a region.

        Args:
            read: Gives the raw values in [0, 1] of a region that may go beyond the volume, as (z, y, x) or
                (channels, z, y, x) float32. It is called from other threads, ``read_ahead`` regions ahead.
            roi: As for ``tiles``.
            origin: As for ``tiles``.

        Yields:
            The part of ``roi`` that a tile covers, and the probabilities there, (classes, z, y, x) float32.

        Raises:
            ConfigError: As ``steps``.
            IncasemError: The memory of the GPU does not suffice for a tile.
        """
        return self.predict_tiles(read, self.tiles(roi, origin))

    def predict_tiles(self, read: Reader, tiles: Iterable[Tile]) -> Iterator[tuple[Roi, Floats]]:
        """Predict some of the tiles that ``tiles`` gave; see ``predict``."""
        blocks = ahead(lambda tile: (read(tile[0]), *tile), tiles, self.read_ahead)
        run = inference(self.network, self.device)
        remedy = f"set prediction.input_size_voxels (validation.input_size_voxels) below {list(self.input_size)}"
        for raw, read_roi, write_roi in blocks:
            with enough_memory(remedy):
                probabilities = self._probabilities(run, raw, write_roi.begin - read_roi.begin, write_roi.shape)
            yield write_roi, probabilities

    def _axis_tile(self, axis: int, begin: int, end: int, phase: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Give (begin, size) of what is read and of what is written for the span from ``begin`` to ``end``."""
        size = axis_input(self.geometry, axis, end - begin, phase)
        return (begin - phase - self.geometry.border[axis] - self.geometry.context[axis], size), (begin, end - begin)

    def _probabilities(self, run: Inference, raw: Floats, margin: Coordinate, shape: Coordinate) -> Floats:
        """Run the network on a tile; keep ``shape`` voxels from ``margin`` on, counted from where the tile begins."""
        volume = torch.from_numpy(np.ascontiguousarray(raw, dtype=np.float32)).to(self.device)
        volume = volume.reshape(1, -1, *volume.shape[-3:]) * 2 - 1
        was_training = self.network.training
        self.network.eval()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None),
            ):
                first, *others = (
                    variant.revert(self._in_position(run, variant, volume, margin, shape)) for variant in self._variants
                )
        finally:
            self.network.train(was_training)
        if not others:
            return first
        for other in others:
            first += other
        first /= len(self._variants)
        return first

    def _in_position(
        self, run: Inference, variant: Variant, volume: torch.Tensor, margin: Coordinate, shape: Coordinate
    ) -> Floats:
        """Run the network on a tile in one position, and give the probabilities in that position."""
        begin, size = variant.place(margin, shape, volume.shape[-3:])
        begin = tuple(at - context for at, context in zip(begin, self.geometry.context, strict=True))
        rows, columns = (slice(at, at + edge) for at, edge in zip(begin[1:], size[1:], strict=True))
        turned = variant.apply(volume)
        if self.channels_last:
            turned = turned.contiguous(memory_format=torch.channels_last_3d)
        kept = [
            torch.softmax(logits[0, ..., rows, columns].float(), dim=0).cpu().numpy()
            for logits in planes(run(turned), begin[0], size[0])
        ]
        return kept[0] if len(kept) == 1 else np.concatenate(kept, axis=1)


def axis_step(geometry: NetworkGeometry, axis: int, input_size: int, phase: int) -> int:
    """Give how far apart tiles of ``input_size`` can lie along an axis: a multiple of the stride.

    Args:
        geometry: The network's.
        axis: 0 for z.
        input_size: Size of the tile that is read.
        phase: Voxels from the last multiple of the stride to the first voxel that is written.

    Raises:
        ConfigError: Not even a stride.
    """
    stride, border = geometry.stride[axis], geometry.border[axis]
    step = (input_size - geometry.lost[axis] - 2 * border - phase) // stride * stride
    if step < stride:
        enough = geometry.input_for_output(
            [2 * stride - 1 + 2 * border for stride, border in zip(geometry.stride, geometry.border, strict=True)]
        )
        raise ConfigError(
            f"Tiles of {input_size} voxels along {'zyx'[axis]} are too small to be laid {stride} voxels "
            f"apart, as the network needs: set prediction.input_size_voxels to at least {list(enough)}, or to null."
        )
    return step


def axis_input(geometry: NetworkGeometry, axis: int, written: int, phase: int) -> int:
    """Give the size of the tile that is read along an axis so that ``written`` voxels can be written."""
    needed = written + phase + 2 * geometry.border[axis] + geometry.lost[axis]
    over = max(0, needed - geometry.smallest_input[axis])
    stride = geometry.stride[axis]
    return geometry.smallest_input[axis] + -(-over // stride) * stride


def grid_phase(geometry: NetworkGeometry, axis: int, roi: Roi, origin: Sequence[int]) -> int:
    """Give how many voxels a region begins behind the last multiple of the stride, counted from ``origin``."""
    phase: int = (roi.begin[axis] - origin[axis]) % geometry.stride[axis]
    return phase
