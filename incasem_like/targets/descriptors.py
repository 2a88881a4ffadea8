"""Local shape descriptors: statistics of the part of an object that lies near each of its voxels.

Sheridan et al. 2023, "Local shape descriptors for neuron segmentation", Nature Methods 20. Numbers equal those of the
authors' package ``lsds``, but for its rounding, and three values that it does not mean: its sphere lacks the voxels at
+sigma, and its size there is a count clipped to 1; voxels whose object has no sampled voxel near when downsampled get
size 1 there, 0 here; and foreground that ``labels`` leaves out has offset and correlation 1/2 there, 0 here.

A voxel needs only the moments of its own object, so each object is computed within its bounding box, and objects that
fill little of theirs are split. Moments are taken about each voxel: nothing cancels, and float32 suffices. The Gaussian
is separable: each moment is a product of one small matrix per axis with the box.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from incasem_like.errors import InputError
from incasem_like.targets.instances import Slices, consecutive_ids, one_per_axis, used_axes
from incasem_like.volumes import Roi

if TYPE_CHECKING:
    import torch

Labels = TypeVar("Labels", NDArray[Any], "torch.Tensor")
Mode = Literal["gaussian", "sphere"]
Exponents = tuple[int, ...]
Moments = dict[Exponents, "torch.Tensor"]

DESCRIPTOR_NAMES = {
    2: ("offset_y", "offset_x", "variance_y", "variance_x", "pearson_yx", "size"),
    3: (
        "offset_z", "offset_y", "offset_x", "variance_z", "variance_y", "variance_x",
        "pearson_zy", "pearson_zx", "pearson_yx", "size",
    ),
}  # fmt: skip
SMALLEST_VARIANCE = 1e-3
# Objects are split above so many voxels, which limits memory to 20 times 4 bytes of each, and not below so many along
# an axis; besides its moments, a part costs as much as so many multiplications.
LARGEST_PART = 1 << 23
SMALLEST_PART = 16
CHARGE_PER_PART = 8e6
TRUNCATE = 3.0
# A sphere includes the voxels exactly at its radius, whatever the rounding of radius / voxel size.
TOLERANCE = 1e-6


def local_shape_descriptors(
    instances: Labels,
    sigma: float | Sequence[float],
    voxel_size: float | Sequence[float] = 1.0,
    *,
    components: Sequence[int] | str | None = None,
    mode: Mode = "gaussian",
    downsample: int = 1,
    roi: Roi | None = None,
    labels: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Labels:
    """Return the local shape descriptors of each voxel.

    With m the mask of the object that voxel p lies in, g a Gaussian of standard deviation sigma cut at 3 sigma, of sum
    1, and all sums over voxels q of the array (0 beyond it):

    - mass ``c = sum g(q - p) m(q)``; mean ``mu = sum g(q - p) m(q) (q - p) / c``;
    - covariance ``S = sum g(q - p) m(q) (q - p)(q - p)^T / c - mu mu^T``; variances ``v_d = max(S_dd, 0.001)``.

    ===============  ======  ==============================  ==================================
    channels in 3-D  in 2-D  name                            value, clipped to [0, 1]
    ===============  ======  ==============================  ==================================
    0 1 2            0 1     mean offset z, y, x             ``mu_d / sigma_d / 2 + 1/2``
    3 4 5            2 3     variance                        ``v_d / sigma_d^2``
    6 7 8            4       Pearson correlation zy, zx, yx  ``S_de / sqrt(v_d v_e) / 2 + 1/2``
    9                5       size                            ``c``
    ===============  ======  ==============================  ==================================

    All lengths are in world units, also the floor of the variance. In the mode ``sphere`` g is 1 where
    ``sum_d ((q - p)_d / sigma_d)^2 <= 1`` and 0 elsewhere, offsets are divided by ``sigma_d / 2`` instead, and the size
    is the share of the sphere that the object fills.

    Args:
        instances: Instance ids of any integer dtype, (z, y, x) or (y, x), 0 = background. A tensor's descriptors are
            computed on its device; on the CPU with one thread, so that they don't depend on the number of threads.
        sigma: Radius of the neighbourhood in world units: a number, or one per used axis.
        voxel_size: World units per voxel: a number, or one per axis of the array.
        components: The channels to return, as numbers or as digits like ``"0129"``; None: all.
        mode: Neighbourhood, see above.
        downsample: Take every n-th voxel along the used axes and repeat its descriptors n times; much faster.
        roi: Part of the array, in voxels, to return descriptors of; what surrounds it still counts. Needed around it:
            3 sigma, in the mode ``sphere`` sigma.
        labels: Ids of the objects to describe; None: all.
        axes: ``(1, 2)``: the 2-D descriptors of each section of a stack by itself. None: all axes of the array.

    Returns:
        float32 (channels, \\*shape), values 0 to 1; 0 in all channels outside of objects. `DESCRIPTOR_NAMES`
        names the channels.

    Raises:
        InputError: Ids that are not integers; an array that is not 2-D or 3-D; wrong axes, channels or mode; sigma or
            voxel size with another number of values; sigma below one voxel; a ROI that is not inside the array or not
            a multiple of ``downsample``.

    Example:
        >>> y, x = np.mgrid[-6:7, -6:7]
        >>> disc = (y**2 + x**2 <= 16).astype(np.uint8)
        >>> described = local_shape_descriptors(disc, sigma=3)
        >>> [f"{name} {value:.2f}" for name, value in zip(DESCRIPTOR_NAMES[2], described[:, 6, 6])]
        ['offset_y 0.50', 'offset_x 0.50', 'variance_y 0.37', 'variance_x 0.37', 'pearson_yx 0.50', 'size 0.58']
    """
    import torch

    array = instances.cpu().numpy() if isinstance(instances, torch.Tensor) else instances
    device = instances.device if isinstance(instances, torch.Tensor) else torch.device("cpu")
    window = _window(array.ndim, axes, sigma, voxel_size, mode, downsample)
    channels = _channels(components, len(window.axes))
    region = _region(roi, array.shape, window.steps)
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


@dataclass(frozen=True)
class _Window:
    """The neighbourhood of a voxel in a (z, y, x) array; all lengths are per axis of it, unused axes included.

    Attributes:
        axes: The used axes.
        sigma: Radius in world units.
        spacing: World units between sampled voxels.
        steps: Voxels between sampled voxels.
        mode: Its kind.
    """

    axes: tuple[int, ...]
    sigma: tuple[float, ...]
    spacing: tuple[float, ...]
    steps: tuple[int, ...]
    mode: Mode

    @property
    def reach(self) -> tuple[int, ...]:
        """Return the distance in sampled voxels, per axis, of the farthest voxel that counts; 0 for unused axes."""
        radii = (sigma / spacing for sigma, spacing in zip(self.sigma, self.spacing, strict=True))
        whole = (int(TRUNCATE * r + 0.5) if self.mode == "gaussian" else int(r + TOLERANCE) for r in radii)
        return tuple(reach if axis in self.axes else 0 for axis, reach in enumerate(whole))

    def exponents(self, degree: int) -> list[Exponents]:
        """Return the exponents z, y, x of all moments up to a degree."""
        powers = (range(degree + 1 if axis in self.axes else 1) for axis in range(3))
        return [powers for powers in itertools.product(*powers) if sum(powers) <= degree]


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
    window: _Window,
    channels: Sequence[int],
    device: torch.device,
) -> tuple[NDArray[np.intp], torch.Tensor]:
    """Return the flat positions in the region of an object's voxels, and their descriptors (channels, voxels)."""
    import torch

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


def _gaussian_moments(mass: torch.Tensor, outputs: Slices, inputs: Slices, window: _Window, degree: int) -> Moments:
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
    import torch

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


def _sphere_moments(mass: torch.Tensor, outputs: Slices, inputs: Slices, window: _Window, degree: int) -> Moments:
    """Return the moments under the sphere, as `_gaussian_moments`: whole numbers, so exact by Fourier transform."""
    import torch

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


def _in_sphere(distance: Sequence[NDArray[np.intp]], window: _Window) -> NDArray[np.bool_]:
    """Return where a distance in sampled voxels, z, y, x, lies in the sphere."""
    squares = (
        (d * spacing / sigma) ** 2 for d, spacing, sigma in zip(distance, window.spacing, window.sigma, strict=True)
    )
    return np.asarray(sum(squares) <= 1 + TOLERANCE)


def _channel_values(moments: Moments, channels: Sequence[int], window: _Window) -> list[torch.Tensor]:
    """Return the channels of voxels with these moments, each of the moments' shape, 0 to 1."""
    import torch

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


def _window(
    dimensions: int,
    axes: Sequence[int] | None,
    sigma: float | Sequence[float],
    voxel_size: float | Sequence[float],
    mode: Mode,
    downsample: int,
) -> _Window:
    """Return the neighbourhood in an array extended to (z, y, x), or raise an error on what cannot be computed."""
    used = used_axes(dimensions, axes)
    if dimensions not in (2, 3) or len(used) < 2:
        raise InputError(
            f"Shape descriptors are of volumes or sections, but {len(used)} of {dimensions} axes are used: give labels "
            "(z, y, x) or (y, x), and at least two axes."
        )
    if mode not in get_args(Mode):
        raise InputError(f"Unknown mode of the shape descriptors: {mode}; choose gaussian or sphere.")
    if downsample < 1:
        raise InputError(f"downsample must be 1 or more, but is {downsample}; 1 describes every voxel.")
    shown = f"the labels have {dimensions} axes"
    sizes = one_per_axis(voxel_size, dimensions, "voxel_size", shown)
    radii = one_per_axis(sigma, len(used), "sigma", shown if len(used) == dimensions else f"{len(used)} axes are used")
    added = 3 - dimensions
    all_radii, spacing, steps = [1.0] * 3, [1.0] * 3, [1] * 3
    for axis, radius in zip(used, radii, strict=True):
        where = axis + added
        all_radii[where], spacing[where], steps[where] = radius, sizes[axis] * downsample, downsample
        if radius < spacing[where] * (1 - TOLERANCE):
            raise InputError(
                f"sigma is less than one sampled voxel along axis {axis}: {radius:g}, but voxel_size * downsample is "
                f"{sizes[axis]:g} * {downsample}; raise sigma, which is in world units, or leave the axis out of axes."
            )
    axes_used = tuple(axis + added for axis in used)
    return _Window(axes_used, tuple(all_radii), tuple(spacing), tuple(steps), mode)


def _channels(components: Sequence[int] | str | None, dimensions: int) -> list[int]:
    names = DESCRIPTOR_NAMES[dimensions]
    if components is None:
        return list(range(len(names)))
    channels = [int(channel) if str(channel).isdigit() else -1 for channel in components]
    if not channels or not all(0 <= channel < len(names) for channel in channels):
        raise InputError(
            f"The components {components!r} are not channels of shape descriptors in {dimensions}-D: choose from 0 to "
            f"{len(names) - 1} ({', '.join(names)})."
        )
    return channels


def _region(roi: Roi | None, shape: Sequence[int], steps: Sequence[int]) -> Slices:
    """Return the part to describe as slices of (z, y, x)."""
    begin, end = ((0,) * len(shape), tuple(shape)) if roi is None else (tuple(roi.begin), tuple(roi.end))
    if len(begin) != len(shape) or not all(0 <= a < b <= n for a, b, n in zip(begin, end, shape, strict=True)):
        raise InputError(
            f"The ROI {begin} to {end} is not inside the labels of shape {tuple(shape)}: give it in voxels."
        )
    used = steps[3 - len(shape) :]
    if any(a % step or b % step for a, b, step in zip(begin, end, used, strict=True)):
        raise InputError(
            f"The block {begin} to {end} is not a multiple of downsample {max(steps)}: change its shape, or downsample."
        )
    return (slice(0, 1),) * (3 - len(shape)) + tuple(slice(a, b) for a, b in zip(begin, end, strict=True))


@contextmanager
def _exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute matrix products in full float32, and on a CPU with one thread: their sums depend on the number."""
    import torch

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
