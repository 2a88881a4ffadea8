"""The moments of objects near their voxels, computed by torch, and the descriptors made of them.

A voxel needs only the moments of its own object, so each object is computed within its bounding box, and objects that
fill little of theirs are split. Moments are taken about each voxel: nothing cancels, and float32 suffices. The Gaussian
is separable: each moment is a product of one small matrix per axis with the box.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage

from incasem_like.targets.descriptor_window import DESCRIPTOR_NAMES, TOLERANCE, Exponents, Window
from incasem_like.targets.instances import Slices, consecutive_ids

Moments = dict[Exponents, torch.Tensor]

SMALLEST_VARIANCE = 1e-3
# Objects are split above so many voxels, which limits memory to 20 times 4 bytes of each, and not below so many along
# an axis; besides its moments, a part costs as much as so many multiplications.
LARGEST_PART = 1 << 23
SMALLEST_PART = 16
CHARGE_PER_PART = 8e6


def describe(
    instances: NDArray[Any] | torch.Tensor,
    window: Window,
    channels: Sequence[int],
    region: Slices,
    labels: Sequence[int] | None,
) -> Any:
    """Return the descriptors of a part of an array, as an array or as a tensor on its device.

    Args:
        instances: As for ``local_shape_descriptors``.
        window: The neighbourhood of a voxel.
        channels: Numbers of the channels.
        region: The part, as slices of (z, y, x).
        labels: Ids of the objects; None for all.
    """
    array = instances.cpu().numpy() if isinstance(instances, torch.Tensor) else instances
    device = instances.device if isinstance(instances, torch.Tensor) else torch.device("cpu")
    extent = tuple(side.stop - side.start for side in region)
    numbers, ids = consecutive_ids(array.reshape((1,) * (3 - array.ndim) + array.shape))
    numbers += 1  # 0 is not an object to ndimage.find_objects
    # Python's integers: numpy compares signed with unsigned 64-bit ids as floats.
    described_ids = set(ids.tolist() if labels is None else map(int, labels)) - {0}
    chosen = np.array([one in described_ids for one in ids.tolist()], dtype=bool)
    described = torch.zeros((len(channels), math.prod(extent)), dtype=torch.float32, device=device)
    with _exact_arithmetic(device):
        for number, box in _object_boxes(numbers, chosen, window.axes):
            voxels, values = _describe_object(numbers, number, box, region, window, channels, device)
            described[:, torch.from_numpy(voxels).to(device)] = values
    described = described.reshape(len(channels), *extent[3 - array.ndim :])
    return described if isinstance(instances, torch.Tensor) else described.numpy()


def _object_boxes(
    numbers: NDArray[np.int32], chosen: NDArray[np.bool_], axes: tuple[int, ...]
) -> Iterator[tuple[int, Slices]]:
    """Yield the chosen objects' numbers, from 1 on, and bounding boxes: of each section if one axis is not used."""
    unused = [axis for axis in range(3) if axis not in axes]
    planes: list[Slices] = [(slice(None),) * 3]
    for axis in unused:
        planes = [_replaced(planes[0], axis, slice(at, at + 1)) for at in range(numbers.shape[axis])]
    for plane in planes:
        for number, box in enumerate(ndimage.find_objects(numbers[plane], len(chosen)), start=1):
            if box is not None and chosen[number - 1]:
                sides = (side if whole == slice(None) else whole for whole, side in zip(plane, box, strict=True))
                yield number, tuple(sides)


def _describe_object(
    numbers: NDArray[np.int32],
    number: int,
    box: Slices,
    region: Slices,
    window: Window,
    channels: Sequence[int],
    device: torch.device,
) -> tuple[NDArray[np.intp], torch.Tensor]:
    """Return the flat positions in the region of an object's voxels, and their descriptors (channels, voxels)."""
    shown = tuple(
        slice(max(side.start, part.start), max(side.start, part.start, min(side.stop, part.stop)))
        for side, part in zip(box, region, strict=True)
    )
    extent = [part.stop - part.start for part in region]
    voxels = np.nonzero(numbers[shown] == number)
    places = [at + side.start for at, side in zip(voxels, shown, strict=True)]
    positions = np.ravel_multi_index([at - part.start for at, part in zip(places, region, strict=True)], extent)
    # From here on in sampled voxels, counted from the first of the box.
    first = [side.start // step for side, step in zip(box, window.steps, strict=True)]
    grid = (slice(begin * step, side.stop, step) for begin, side, step in zip(first, box, window.steps, strict=True))
    held = numbers[tuple(grid)] == number
    samples = tuple(at // step - begin for at, step, begin in zip(places, window.steps, first, strict=True))
    wanted = np.zeros_like(held)
    wanted[samples] = True
    rank = np.cumsum(wanted).reshape(wanted.shape) - 1
    values = torch.empty((len(channels), int(np.count_nonzero(wanted))), dtype=torch.float32, device=device)
    names = (DESCRIPTOR_NAMES[len(window.axes)][channel] for channel in channels)
    degree = max({"size": 0, "offset": 1}.get(name.split("_")[0], 2) for name in names)
    moments = _gaussian_moments if window.mode == "gaussian" else _sphere_moments
    for outputs, inputs in _parts(wanted, held, window.reach, tuple(slice(0, size) for size in held.shape)):
        mass = torch.from_numpy(held[inputs].astype(np.float32)).to(device)
        here = torch.from_numpy(np.flatnonzero(wanted[outputs])).to(device)
        found = {
            powers: field.reshape(-1)[here] for powers, field in moments(mass, outputs, inputs, window, degree).items()
        }
        ranks = torch.from_numpy(rank[outputs][wanted[outputs]]).to(device)
        values[:, ranks] = torch.stack(_channel_values(found, channels, window))
    if max(window.steps) > 1:
        values = values[:, torch.from_numpy(rank[samples]).to(device)]
    return positions, values


def _parts(
    wanted: NDArray[np.bool_], held: NDArray[np.bool_], reach: Sequence[int], box: Slices
) -> list[tuple[Slices, Slices]]:
    """Divide an object into pairs of boxes: wanted voxels, and all held voxels within reach of them.

    An object that winds through its box fills little of it. Then two halves, each shrunk to the voxels in it, are
    cheaper than the whole, though voxels near the cut count in both.
    """
    outputs = _shrunk(wanted, box)
    if outputs is None:
        return []
    near = (slice(max(0, side.start - far), side.stop + far) for side, far in zip(outputs, reach, strict=True))
    inputs = _shrunk(held, tuple(near)) or outputs
    whole = [(outputs, inputs)]
    sizes = [side.stop - side.start for side in outputs]
    axis = int(np.argmax(sizes))
    if sizes[axis] <= max(reach[axis], SMALLEST_PART):
        return whole
    middle = (outputs[axis].start + outputs[axis].stop) // 2
    halves = [
        part
        for half in (slice(outputs[axis].start, middle), slice(middle, outputs[axis].stop))
        for part in _parts(wanted, held, reach, _replaced(outputs, axis, half))
    ]
    return halves if sum(map(_cost, halves)) < _cost(whole[0]) else whole


def _cost(part: tuple[Slices, Slices]) -> float:
    """Return the multiplications of a part's moments, see `_gaussian_moments`, and a charge per part."""
    (z, y, x), (from_z, from_y, from_x) = ([side.stop - side.start for side in box] for box in part)
    if from_z * from_y * from_x > LARGEST_PART:
        return math.inf
    multiplications: float = x * from_z * (3.0 * from_y * from_x + y * (6.0 * from_y + 10.0 * z))
    return multiplications + CHARGE_PER_PART


def _shrunk(mask: NDArray[np.bool_], box: Slices) -> Slices | None:
    """Return the bounding box of a mask's voxels within a box, or None if there are none."""
    part = mask[box]
    shrunk = []
    for axis, side in enumerate(box):
        filled = np.flatnonzero(part.any(axis=tuple(other for other in range(3) if other != axis)))
        if not filled.size:
            return None
        shrunk.append(slice(side.start + int(filled[0]), side.start + int(filled[-1]) + 1))
    return tuple(shrunk)


def _replaced(box: Slices, axis: int, side: slice) -> Slices:
    return (*box[:axis], side, *box[axis + 1 :])


def _gaussian_moments(mass: torch.Tensor, outputs: Slices, inputs: Slices, window: Window, degree: int) -> Moments:
    """Return the moments about each voxel of a box under the Gaussian, in sampled voxels.

    Args:
        mass: The object's mask in the box ``inputs``, float32.
        outputs: Box of the moments.
        inputs: Box of the voxels that count for it.
        window: The neighbourhood.
        degree: Highest sum of a moment's exponents.

    Returns:
        Exponents z, y, x -> (z, y, x) of the box ``outputs``.
    """
    moments: Moments = {(): mass}
    # Each step multiplies the last axis of (a, b, last) by a matrix and puts it first: (new, a, b). After three steps
    # the axes are in order again, and nothing was copied.
    for axis in (2, 1, 0):
        source, target = (np.arange(box[axis].start, box[axis].stop) for box in (inputs, outputs))
        distance = source - target[:, None]
        reach, radius = window.reach[axis], window.sigma[axis] / window.spacing[axis]
        taps = np.arange(-reach, reach + 1)
        gaussian = np.exp(-0.5 * (taps / radius) ** 2)
        zero_at_ends = np.pad(gaussian / gaussian.sum(), 1)
        weights = zero_at_ends[np.clip(distance, -reach - 1, reach + 1) + reach + 1]
        matrices = [
            torch.from_numpy((weights * distance**n).astype(np.float32)).to(mass.device) for n in range(degree + 1)
        ]
        moments = {
            (n, *rest): (matrices[n] @ field.reshape(-1, field.shape[2]).T).reshape(-1, *field.shape[:2])
            for rest, field in moments.items()
            for n in range(degree + 1 - sum(rest) if axis in window.axes else 1)
        }
    return moments


def _sphere_moments(mass: torch.Tensor, outputs: Slices, inputs: Slices, window: Window, degree: int) -> Moments:
    """Return the moments under the sphere, as `_gaussian_moments`: whole numbers, so exact by Fourier transform."""
    hull = [slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(outputs, inputs, strict=True)]
    source, target = (
        tuple(slice(side.start - whole.start, side.stop - whole.start) for side, whole in zip(box, hull, strict=True))
        for box in (inputs, outputs)
    )
    # A distance beyond the hull is that of no pair of voxels.
    reach = [min(far, side.stop - side.start - 1) for far, side in zip(window.reach, hull, strict=True)]
    size = [fft.next_fast_len(side.stop - side.start + far) for side, far in zip(hull, reach, strict=True)]
    distance = np.ogrid[tuple(slice(-far, far + 1) for far in reach)]
    places = np.ix_(*(-part.ravel() % length for part, length in zip(distance, size, strict=True)))
    sphere = _in_sphere(distance, window)
    padded = torch.zeros(size, dtype=torch.float64, device=mass.device)
    padded[source] = mass.to(torch.float64)
    spectrum = torch.fft.rfftn(padded)
    moments: Moments = {}
    for powers in window.exponents(degree):
        kernel = np.zeros(size)
        kernel[places] = sphere * math.prod(part**n for part, n in zip(distance, powers, strict=True))
        product = spectrum * torch.fft.rfftn(torch.from_numpy(kernel).to(mass.device))
        moments[powers] = torch.fft.irfftn(product, s=size)[target].round().to(torch.float32)
    return moments


def _in_sphere(distance: Sequence[NDArray[np.intp]], window: Window) -> NDArray[np.bool_]:
    """Return where a distance in sampled voxels, z, y, x, lies in the sphere."""
    squares = (
        (d * spacing / sigma) ** 2 for d, spacing, sigma in zip(distance, window.spacing, window.sigma, strict=True)
    )
    return np.asarray(sum(squares) <= 1 + TOLERANCE)


def _channel_values(moments: Moments, channels: Sequence[int], window: Window) -> list[torch.Tensor]:
    """Return the channels of voxels with these moments, each of the moments' shape, 0 to 1."""

    def moment(*axes: int) -> torch.Tensor:
        return moments[tuple(axes.count(axis) for axis in range(3))]

    mass = moment()
    divisor = torch.where(mass > 0, mass, 1.0)
    degree = max(sum(powers) for powers in moments)
    means = {axis: moment(axis) / divisor * window.spacing[axis] for axis in window.axes if degree > 0}
    pairs = list(itertools.combinations(window.axes, 2))

    def covariance(one: int, other: int) -> torch.Tensor:
        mixed = moment(one, other) / divisor * (window.spacing[one] * window.spacing[other])
        return mixed - means[one] * means[other]

    variances = {axis: covariance(axis, axis).clamp(min=SMALLEST_VARIANCE) for axis in window.axes if degree > 1}
    count = len(window.axes)
    values = []
    for channel in channels:
        if channel < count:
            axis = window.axes[channel]
            farthest = window.sigma[axis] * (1.0 if window.mode == "gaussian" else 0.5)
            value = means[axis] / farthest * 0.5 + 0.5
        elif channel < 2 * count:
            axis = window.axes[channel - count]
            value = variances[axis] / window.sigma[axis] ** 2
        elif channel < 2 * count + len(pairs):
            one, other = pairs[channel - 2 * count]
            value = covariance(one, other) / torch.sqrt(variances[one] * variances[other]) * 0.5 + 0.5
        elif window.mode == "gaussian":
            value = mass
        else:
            around = np.ogrid[tuple(slice(-far, far + 1) for far in window.reach)]
            value = mass / int(np.count_nonzero(_in_sphere(around, window)))
        values.append(value.clamp(0, 1))
    return values


@contextmanager
def _exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute matrix products in full float32, and on a CPU with one thread: their sums depend on the number."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        if device.type == "cpu":
            torch.set_num_threads(1)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
