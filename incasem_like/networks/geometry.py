"""Input and output sizes of a network, computed without running it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from incasem_like.errors import ConfigError

Size = tuple[int, ...]


@dataclass(frozen=True)
class NetworkGeometry:
    """Input and output sizes of a fully convolutional network, in voxels along each spatial axis.

    Along every axis the valid inputs are ``smallest_input + n * stride`` for n = 0, 1, 2, ..., and an input of size s
    gives an output of size ``s - lost``, centred in the input.

    Attributes:
        smallest_input: The smallest valid input.
        stride: The step between valid inputs. It is the shift under which the network is translation equivariant:
            moving the input by a multiple of it moves the output and changes no value.
        lost: Input size minus output size, both sides together.
        border: Number of output voxels per side that depend on the network's own zero padding. A prediction in
            tiles discards them. 0 for networks of valid convolutions.
        sections: For a 2-D network: how many adjacent sections it takes as channels; its result is for the middle one.
        field_of_view: The most input voxels that one output voxel depends on; None where that is not known.

    Example:
        >>> unet = NetworkGeometry(smallest_input=(100,), stride=(8,), lost=(94,), border=(0,))
        >>> unet.output_size((204,)), unet.nearest_valid((200,))
        ((110,), ((196,), (204,)))
    """

    smallest_input: Size
    stride: Size
    lost: Size
    border: Size
    sections: int = 1
    field_of_view: Size | None = None

    @property
    def dims(self) -> int:
        """Number of spatial axes: 2 or 3."""
        return len(self.stride)

    @property
    def context(self) -> Size:
        """Input voxels before the output's first voxel; as many follow its last, one more if ``lost`` is odd."""
        return tuple(lost // 2 for lost in self.lost)

    def is_valid(self, input_size: Sequence[int]) -> bool:
        """Return whether the network accepts an input of this size."""
        return len(input_size) == self.dims and all(
            size >= smallest and (size - smallest) % stride == 0
            for size, smallest, stride in zip(input_size, self.smallest_input, self.stride, strict=True)
        )

    def output_size(self, input_size: Sequence[int]) -> Size:
        """Return the output size for an input size.

        Raises:
            ConfigError: The network does not accept that input; the nearest valid sizes are named.
        """
        if len(input_size) != self.dims:
            raise ConfigError(
                f"The network has {self.dims} spatial axes, but the input size {_list(input_size)} has "
                f"{len(input_size)}: give {self.dims} numbers."
            )
        if not self.is_valid(input_size):
            below, above = self.nearest_valid(input_size)
            choice = _list(above) if below is None or below == above else f"{_list(below)} or {_list(above)}"
            raise ConfigError(
                f"The network cannot take an input of {_list(input_size)} voxels: the nearest it can is {choice}."
            )
        return tuple(size - lost for size, lost in zip(input_size, self.lost, strict=True))

    def nearest_valid(self, input_size: Sequence[int]) -> tuple[Size | None, Size]:
        """Return the largest valid input that is at most this size, or None, and the smallest that is at least it."""
        steps = [
            (size - smallest, stride)
            for size, smallest, stride in zip(input_size, self.smallest_input, self.stride, strict=True)
        ]
        above = self._input([max(0, -(-excess // stride)) for excess, stride in steps])
        if any(excess < 0 for excess, _ in steps):
            return None, above
        return self._input([excess // stride for excess, stride in steps]), above

    def input_for_output(self, output_size: Sequence[int]) -> Size:
        """Return the smallest valid input whose output is at least ``output_size`` along every axis."""
        return self.nearest_valid([size + lost for size, lost in zip(output_size, self.lost, strict=True)])[1]

    def followed_by(self, second: NetworkGeometry) -> NetworkGeometry:
        """Return the geometry of two networks in a row; the second takes the largest valid centred crop.

        Raises:
            ConfigError: They differ in their number of axes.
        """
        if self.dims != second.dims:
            raise ConfigError(f"A {second.dims}-D network cannot follow a {self.dims}-D one: give both as many axes.")
        smallest, strides, lost = [], [], []
        for axis, step in enumerate(self.stride):
            stride = math.lcm(step, second.stride[axis])
            uncropped = second.smallest_input[axis] + self.lost[axis]
            begin = self.smallest_input[axis]
            begin += max(0, -(-(uncropped - begin) // step)) * step
            # Among the inputs within a common stride, the one with the smallest crop between the networks.
            crop, size = min(
                ((size - uncropped) % second.stride[axis], size) for size in range(begin, begin + stride, step)
            )
            smallest.append(size)
            strides.append(stride)
            lost.append(self.lost[axis] + crop + second.lost[axis])
        field = None
        if self.field_of_view is not None and second.field_of_view is not None:
            field = tuple(a + b - 1 for a, b in zip(self.field_of_view, second.field_of_view, strict=True))
        border = tuple(a + b for a, b in zip(self.border, second.border, strict=True))
        return NetworkGeometry(tuple(smallest), tuple(strides), tuple(lost), border, self.sections, field)

    def _input(self, steps: Sequence[int]) -> Size:
        return tuple(
            smallest + n * stride for smallest, n, stride in zip(self.smallest_input, steps, self.stride, strict=True)
        )


def _list(size: Sequence[int]) -> str:
    return "[" + ", ".join(str(int(number)) for number in size) + "]"
