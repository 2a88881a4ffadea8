"""Random objects that resemble sectioned neurites: labels to train networks from 2-D to 3-D predictions on.

Objects are made on an array whose sections are repeated ``a`` times, and every a-th is returned: so their cut
changes from section to section as much as that of neurites in sections a times thicker than a pixel. ``a`` is drawn for
each sample.

| kind | objects |
|---|---|
| ``A`` | points dilated section by section, by a shape drawn per section; touching ones joined, and grown |
| ``B`` | basins of smooth noise (sigma 5 voxels) around maxima that are the highest of 10 voxels |
| ``C`` | what is nearest to one of some points, up to 25 to 40 voxels from it |
| ``tubes`` | as A, with fewer points and more shapes |
| ``random`` | as B with sigma 10 and maxima of 15 voxels |
| ``Z``, ``mixed`` | one of A, B, C; one of tubes and random |

A and tubes grow by as many voxels as there are sections. The background left in A, C and tubes is an object too. In
tubes and random, ids divisible by 3, or by 5, become background with a probability of 0.2 each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, Literal, get_args

import bioimage_cpp
import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import signal
from skimage.morphology import disk, ellipse, star

from incasem_like.errors import InputError

ObjectKind = Literal["A", "B", "C", "Z", "tubes", "random", "mixed"]
Labels = NDArray[np.uint32]
Shape = tuple[int, int, int]
Draw = tuple[str, tuple[int, ...]]  # a shape to dilate by, and its size
MOST_DILATIONS = 10
HOLE_PROBABILITY = 0.2
HOLE_DIVISORS = (3, 5)
NODES_PER_SIGMA = 2.0  # of the noise that a smooth field is made of
REACH = 3.0  # of its Gaussian, in sigma
STEPS_PER_SIGMA = 4.0  # between sections, at least
SHORTEST_WAY = 4  # log2 of the steps to a maximum that are taken before looking whether all have arrived
MIXTURES: dict[str, tuple[ObjectKind, ...]] = {"Z": ("A", "B", "C"), "mixed": ("tubes", "random")}


def random_objects(
    kind: ObjectKind, shape: Shape, rng: np.random.Generator, thickness: float = 1.0
) -> tuple[Labels, int]:
    """Return labels of random objects.

    Args:
        kind: What objects, see the table above.
        shape: z, y, x in voxels.
        rng: Source of all randomness.
        thickness: Of a section, in pixels: voxel size along z / voxel size along y.

    Returns:
        uint32 ids (z, y, x), 1 to n where present, 0 = background (in ``tubes`` and ``random`` only); and the drawn
        ``a``: 1 to int(thickness) for A, B and C, 2 to the larger of 4 and int(thickness) for tubes and random.

    Raises:
        InputError: An unknown kind, or a shape or thickness that is not positive.

    Example:
        >>> labels, repeats = random_objects("C", (4, 64, 64), np.random.default_rng(0), thickness=5)
        >>> labels.shape, bool(labels.all()), 1 <= repeats <= 5
        ((4, 64, 64), True, True)
    """
    if kind not in get_args(ObjectKind):
        raise InputError(f"Unknown kind of random objects: {kind}; choose one of {', '.join(get_args(ObjectKind))}.")
    if min(shape) < 1 or thickness <= 0:
        raise InputError(f"Random objects of shape {list(shape)} and thickness {thickness:g} cannot be made.")
    if kind in MIXTURES:
        kind = MIXTURES[kind][int(rng.integers(len(MIXTURES[kind])))]
    with_holes = kind in ("tubes", "random")
    lowest, highest = (2, max(4, int(thickness))) if with_holes else (1, max(1, int(thickness)))
    repeats = int(rng.integers(lowest, highest, endpoint=True))
    labels = _MAKERS[kind]((shape[0] * repeats, shape[1], shape[2]), repeats, rng)
    if with_holes:
        for divisor in HOLE_DIVISORS:
            if rng.random() < HOLE_PROBABILITY:
                labels[labels % divisor == 0] = 0
    return labels, repeats


def _dilated_points(shape: Shape, repeats: int, rng: np.random.Generator) -> Labels:
    draws: Sequence[Draw] = (("square", (3,)), ("disk", (int(rng.integers(1, 5, endpoint=True)),)))
    return _tubes_of(shape, repeats, _point_count(25, 50, repeats, rng), draws, rng)


def _tubes(shape: Shape, repeats: int, rng: np.random.Generator) -> Labels:
    ranges = (("star", 4, 6), ("star", 3, 5), ("disk", 1, 4), ("star", 2, 4), ("star", 6, 8))
    draws: list[Draw] = [(name, (int(rng.integers(low, high, endpoint=True)),)) for name, low, high in ranges]
    width, height = (int(size) for size in rng.integers(2, 4, 2, endpoint=True))
    draws += [("square", (3,)), ("ellipse", (width, height))]
    return _tubes_of(shape, repeats, _point_count(5, 5, repeats, rng), draws, rng)


def _tubes_of(shape: Shape, repeats: int, count: int, draws: Sequence[Draw], rng: np.random.Generator) -> Labels:
    """Return points dilated section by section, connected and grown, of every ``repeats``-th section."""
    points = _points(shape, count, rng)
    chosen = rng.integers(len(draws), size=shape[0])
    steps = rng.integers(1, MOST_DILATIONS, size=shape[0], endpoint=True)
    painted = np.zeros(shape, bool)
    for z, y, x in points:
        # A point dilated n times is the shape dilated n - 1 times, centred there.
        _stamp(painted[z], dilated_shape(*draws[chosen[z]], int(steps[z])), int(y), int(x))
    return _grown(cc3d.connected_components(painted, connectivity=26), float(shape[0]), repeats)


def _nearest_points(shape: Shape, repeats: int, rng: np.random.Generator) -> Labels:
    points = _points(shape, _point_count(25, 50, repeats, rng), rng)
    marked = np.zeros(shape, bool)
    marked[tuple(points.T)] = True
    distance = float(rng.integers(25, 40, endpoint=True))
    return _grown(cc3d.connected_components(marked, connectivity=26), distance, repeats)


def _point_count(lowest: int, per_repeat: int, repeats: int, rng: np.random.Generator) -> int:
    return int(rng.integers(lowest, max(lowest, per_repeat * repeats), endpoint=True))


def _points(shape: Shape, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw positions (count, 3); index 0 of an axis is not used unless it is the only one."""
    return np.stack([rng.integers(min(1, size - 1), size, size=count) for size in shape], axis=1)


def _grown(seeds: NDArray[Any], distance: float, repeats: int) -> Labels:
    """Grow objects into the background, make connected parts of what is left objects, and take every n-th section."""
    distances, nearest = bioimage_cpp.distance.distance_transform(seeds == 0, return_indices=True)
    z, y, x = (part[::repeats] for part in nearest)
    near = seeds[z, y, x].astype(np.uint32)
    left = distances > distance
    if left.any():  # as connected in all sections, not in the returned ones
        rest = cc3d.connected_components(left, connectivity=26)[::repeats]
        near = np.where(rest > 0, rest + np.uint32(seeds.max(initial=0)), near).astype(np.uint32)
    result: Labels = near
    return result


def _stamp(section: NDArray[np.bool_], stamp: NDArray[np.bool_], y: int, x: int) -> None:
    """Paint a shape centred at a position, as far as it lies in the section."""
    half_y, half_x = stamp.shape[0] // 2, stamp.shape[1] // 2
    begin_y, begin_x = max(0, y - half_y), max(0, x - half_x)
    target = section[begin_y : y - half_y + stamp.shape[0], begin_x : x - half_x + stamp.shape[1]]
    from_y, from_x = begin_y - y + half_y, begin_x - x + half_x
    target |= stamp[from_y : from_y + target.shape[0], from_x : from_x + target.shape[1]]


@lru_cache(maxsize=1024)
def dilated_shape(name: str, size: tuple[int, ...], steps: int) -> NDArray[np.bool_]:
    """Return a point dilated ``steps`` times by a shape, of odd sides and centred.

    >>> dilated_shape("square", (3,), 2).shape, int(dilated_shape("disk", (1,), 2).sum())
    ((5, 5), 13)
    """
    if steps > 1:
        before, once = dilated_shape(name, size, steps - 1), dilated_shape(name, size, 1)
        return np.asarray(signal.fftconvolve(before.astype(np.float32), once.astype(np.float32)) > 0.5)
    if name == "square":
        return np.ones((size[0], size[0]), bool)
    made = {"disk": disk, "star": star, "ellipse": ellipse}[name](*size)
    return np.asarray(made, bool)


def _basins_of_noise(sigma: float, window: int) -> Callable[[Shape, int, np.random.Generator], Labels]:
    def make(shape: Shape, repeats: int, rng: np.random.Generator) -> Labels:
        between = min(repeats, math.ceil(repeats * STEPS_PER_SIGMA / sigma))  # sections computed for each returned one
        step = repeats / between
        field = smooth_noise((shape[0] // repeats * between, *shape[1:]), sigma, rng, step)
        labels: Labels = basins(field, window, step)[::between]
        return labels

    return make


def smooth_noise(
    shape: Shape, sigma: float, rng: np.random.Generator, section_step: float = 1.0
) -> NDArray[np.float32]:
    """Return a stationary Gaussian field: white noise under a Gaussian of that width, not scaled.

    The Gaussian is separable and wide, so that noise on a grid of two nodes per sigma suffices, and a small matrix per
    axis sums it up at the voxels.

    Args:
        shape: z, y, x in voxels.
        sigma: Standard deviation of the Gaussian in pixels.
        rng: Source of all randomness.
        section_step: Distance of sections in pixels.
    """
    z, y, x = (_noise_weights(size, sigma, step) for size, step in zip(shape, (section_step, 1.0, 1.0), strict=True))
    noise = rng.standard_normal((z.shape[1], y.shape[1], x.shape[1]), dtype=np.float32)
    field = np.matmul(y, noise @ x.T)
    result: NDArray[np.float32] = (z @ field.reshape(len(field), -1)).reshape(shape)
    return result


@lru_cache(maxsize=64)
def _noise_weights(size: int, sigma: float, step: float) -> NDArray[np.float32]:
    places, between = np.arange(size) * step, sigma / NODES_PER_SIGMA
    nodes = np.arange(-REACH * sigma, places[-1] + REACH * sigma + between, between)
    weights: NDArray[np.float32] = np.exp(-0.5 * ((places[:, None] - nodes) / sigma) ** 2).astype(np.float32)
    return weights


def basins(field: NDArray[np.float32], window: int, section_step: float = 1.0) -> Labels:
    """Return the watershed of a smooth field: a basin around each voxel that is the highest of a window.

    Each voxel belongs to the maximum that the steepest way along faces leads to. Maxima that are not the highest of
    their window flood, over the highest pass, into a neighbour that is: the watershed from the other maxima.

    Args:
        field: (z, y, x) without plateaus.
        window: Edge of the window in pixels.
        section_step: Distance of sections in pixels.

    Returns:
        uint32 ids from 1 on.

    Example:
        >>> basins(np.array([[[1, 5, 2, 0, 3, 9, 4]]], np.float32), 3).tolist()
        [[[1, 1, 1, 2, 2, 2, 2]]]
        >>> basins(np.array([[[1, 5, 2, 0, 3, 9, 4]]], np.float32), 11).tolist()
        [[[1, 1, 1, 1, 1, 1, 1]]]
    """
    target = _steepest(field)
    for _ in range(SHORTEST_WAY):
        target = target[target]
    while not np.array_equal(further := target[target], target):
        target = further
    maxima, numbers = _numbered(target)
    wins = _highest_of_window(field, maxima, (max(1, round(window / section_step)), window, window))
    if not wins.all():
        order = _flooded(field, numbers.reshape(field.shape), wins)
    else:
        order = np.arange(1, len(maxima) + 1, dtype=np.uint32)
    return order[numbers].reshape(field.shape)


def _steepest(field: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the flat position of each voxel's highest face neighbour, or its own where it is higher."""
    best = field.copy()
    way = np.zeros(field.shape, np.int8)
    steps = [0]
    for axis, step in product(range(3), (-1, 1)):
        here, there = pair_of_slices(axis, step)
        to, neighbour = best[here], field[there]
        higher = neighbour > to
        np.copyto(to, neighbour, where=higher)
        np.copyto(way[here], len(steps), where=higher)
        steps.append(step * math.prod(field.shape[axis + 1 :]))
    return np.arange(field.size, dtype=np.int32) + np.array(steps, np.int32)[way.reshape(-1)]


def pair_of_slices(axis: int, step: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the slices of the voxels that have a neighbour along an axis, and of these neighbours."""
    back, front = slice(1, None), slice(None, -1)
    here, there = (back, front) if step < 0 else (front, back)
    around = (slice(None),) * axis
    return (*around, here), (*around, there)


def _numbered(target: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the flat positions of the maxima, and the number of the maximum of each voxel, from 0."""
    maxima = np.flatnonzero(target == np.arange(target.size, dtype=np.int32)).astype(np.int32)
    number = np.zeros(target.size, np.int32)
    number[maxima] = np.arange(len(maxima), dtype=np.int32)
    return maxima, number[target]


def _highest_of_window(field: NDArray[np.float32], maxima: NDArray[np.int32], window: Shape) -> NDArray[np.bool_]:
    """Return which maxima are the highest voxel of the window around them."""
    sides = [(size // 2, (size - 1) // 2) for size in window]  # as ndimage.maximum_filter places an even window
    wins = np.zeros(len(maxima), bool)
    for number, at in enumerate(zip(*np.unravel_index(maxima, field.shape), strict=True)):
        around = tuple(
            slice(max(0, int(place) - before), int(place) + after + 1)
            for place, (before, after) in zip(at, sides, strict=True)
        )
        wins[number] = field[at] >= field[around].max()
    wins[np.argmax(field.reshape(-1)[maxima])] = True
    return wins


def _flooded(field: NDArray[np.float32], numbers: NDArray[np.int32], wins: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """Return the id of each basin once those without a winning maximum joined others, over the highest passes."""
    count = len(wins)
    highest = np.full(count * count, -np.inf, np.float32)  # pass between each pair of basins
    for axis in range(3):
        here, there = pair_of_slices(axis, -1)
        one, other = numbers[here], numbers[there]
        border = np.nonzero(one != other)
        first, second = one[border], other[border]
        open_ = ~(wins[first] & wins[second])
        place = tuple(part[open_] for part in border)
        height = np.minimum(field[here][place], field[there][place])
        np.maximum.at(highest, first[open_] * count + second[open_], height)
    found = np.flatnonzero(highest > -np.inf)
    joined = np.stack(np.divmod(found[np.argsort(-highest[found])], count), axis=1)
    parents = list(range(count))
    has_winner = wins.tolist()

    def root(one: int) -> int:
        while parents[one] != one:
            parents[one] = parents[parents[one]]
            one = parents[one]
        return one

    for pair in joined.tolist():
        kept, lost = map(root, pair)
        if kept != lost and not (has_winner[kept] and has_winner[lost]):
            parents[lost] = kept
            has_winner[kept] = has_winner[kept] or has_winner[lost]
    roots = np.array([root(one) for one in range(count)])
    _, ids = np.unique(roots, return_inverse=True)
    return (ids + 1).astype(np.uint32)


_MAKERS: dict[str, Callable[[Shape, int, np.random.Generator], Labels]] = {
    "A": _dilated_points,
    "B": _basins_of_noise(5.0, 10),
    "C": _nearest_points,
    "tubes": _tubes,
    "random": _basins_of_noise(10.0, 15),
}
