"""Synthetic 2-D images of columns on a lattice, as a two-photon microscope shows them, and their masks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, uniform_filter

from incasem_like.errors import InputError

Array32 = npt.NDArray[np.float32]
LATTICE = 20  # sites along each of its two directions
MOST_POINTS = 128
ATTEMPTS = 1000


@dataclass(frozen=True)
class ImageParameters:
    """What the images show; lengths in pixels, before a random factor from ``scaling``.

    Attributes:
        size: Side of an image.
        distance: Distance of neighbouring columns.
        angle, angle_range: Angle between the lattice's directions and what is added to it, degrees.
        scaling: Range of the factor on all lengths.
        radius: Radius of a column in the mask.
        points: Points of dye per column.
        spread: Standard deviation of the points of a filled column.
        ring, ring_spread: Radius of a ring-shaped column, and the standard deviation of its points.
        intensity, intensity_sigma, point_std: Log-normal intensities of columns, and what their points deviate by.
        box, blur: Sides of a mean filter and of a Gaussian filter.
        least_labelled: Smallest share of an image that is labelled.
    """

    size: int = 128
    distance: float = 10.0
    angle: float = 60.0
    angle_range: tuple[float, float] = (-10.0, 30.0)
    scaling: tuple[float, float] = (1.152, 1.92)
    radius: float = 3.5
    points: int = 10
    spread: float = 2.0
    ring: float = 3.5
    ring_spread: float = 0.1
    intensity: float = 50.0
    intensity_sigma: float = 0.5
    point_std: float = 5.0
    box: int = 2
    blur: int = 5
    least_labelled: float = 0.3


@dataclass(frozen=True)
class ColumnImage:
    """One image.

    Attributes:
        raw: Intensities, (y, x), percentiles 1 and 99 at 0 and 1.
        mask: 1 in a column, else 0.
        centres: Centre of each column, (n, 2), pixels (y, x).
    """

    raw: Array32
    mask: npt.NDArray[np.uint8]
    centres: Array32


def generate_image(seed: int, index: int = 0, parameters: ImageParameters | None = None) -> ColumnImage:
    """Generate image number ``index`` of a seed; it depends on nothing else.

    Args:
        seed: Seed of a family of images.
        index: Number of the image.
        parameters: What it shows.

    Raises:
        InputError: No image has as many labelled pixels as asked.

    Example:
        >>> image = generate_image(1)
        >>> image.raw.shape, bool(image.mask.mean() >= 0.3)
        ((128, 128), True)
    """
    settings = parameters or ImageParameters()
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    for _ in range(ATTEMPTS):
        scale = float(rng.uniform(*settings.scaling))
        centres = _draw_centres(settings, scale, rng)
        mask = _discs(centres, settings.radius * scale, settings.size)
        if mask.mean() >= settings.least_labelled and len(centres) < MOST_POINTS:
            signal = _image(_draw_dye(centres, settings, scale, rng), settings, scale, rng)
            low, high = np.percentile(signal, (1, 99))
            raw = ((signal - low) / max(high - low, 1e-30)).clip(0, 1).astype(np.float32)
            return ColumnImage(raw, mask, centres.astype(np.float32))
    raise InputError(f"None of {ATTEMPTS} layouts labels {settings.least_labelled:g} of an image: ask for less.")


def _draw_centres(settings: ImageParameters, scale: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the sites of a lattice on one side of a random line, turned by a random angle, that lie in the image."""
    angle = math.radians(settings.angle + rng.uniform(*settings.angle_range))
    basis = settings.distance * scale * np.array([[0, 1], [math.sin(angle), math.cos(angle)]])
    numbers = np.stack(np.meshgrid(*[np.arange(LATTICE) - LATTICE // 2] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    sites = numbers @ basis
    direction = rng.uniform(0, 2 * math.pi)
    normal = np.array([math.sin(direction), math.cos(direction)])
    sites = sites[(sites - sites[rng.integers(len(sites))]) @ normal >= 0]
    turn = rng.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    sites = sites @ rotation + settings.size / 2
    return np.asarray(sites[((sites >= 0) & (sites < settings.size)).all(1)])


def _discs(centres: npt.NDArray[np.float64], radius: float, size: int) -> npt.NDArray[np.uint8]:
    y, x = np.ogrid[:size, :size]
    mask = np.zeros((size, size), np.uint8)
    for centre in centres:
        mask[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = 1
    return mask


def _draw_dye(
    centres: npt.NDArray[np.float64], settings: ImageParameters, scale: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the dye of all columns; a random share of them are rings, the others clouds."""
    dye = np.zeros((settings.size, settings.size))
    rings = rng.random(len(centres)) < rng.uniform()
    for centre, ring in zip(centres, rings, strict=True):
        count = int(settings.points * scale)
        offsets = rng.normal(0, settings.spread * scale, (count, 2))
        if ring:
            far = rng.normal(settings.ring * scale, settings.ring_spread * scale, count)
            turn = rng.uniform(0, 2 * math.pi, count)
            offsets = np.stack([far * np.sin(turn), far * np.cos(turn)], axis=1)
        pixels = np.floor(centre + offsets).astype(int)
        inside = ((pixels >= 0) & (pixels < settings.size)).all(1)
        level = rng.lognormal(1.0, settings.intensity_sigma) * settings.intensity
        dye[tuple(pixels[inside].T)] = rng.normal(level, settings.point_std, count)[inside]
    return dye


def _image(
    dye: npt.NDArray[np.float64], settings: ImageParameters, scale: float, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Blur the dye, add scattered light and noise."""
    signal = uniform_filter(dye, int(settings.box * scale), mode="constant")
    side = int(settings.blur * scale)
    signal = np.maximum(gaussian_filter(signal, _sigma(side - (side % 2 == 0))), 0)
    signal = signal + gaussian_filter(signal, _sigma(21)) + signal.mean()
    photons = rng.poisson(signal).astype(np.float64)
    return np.asarray(photons + rng.normal(0, photons.std() / 10, photons.shape))


def _sigma(side: int) -> float:
    """Return the standard deviation that goes with a Gaussian kernel of so many pixels."""
    return 0.3 * ((side - 1) * 0.5 - 1) + 0.8


class ColumnImages(Sequence[tuple[Array32, Array32]]):
    """Images with their masks, each (1, size, size) float32: a data set for 2-D networks.

    Args:
        count: Number of images.
        seed: Seed of the family.
        parameters: What they show.
        path: HDF5 file to read, or to write if it does not exist (``data``, ``masks``, ``center_points``).

    Raises:
        InputError: The file holds other images.

    Example:
        >>> images = ColumnImages(3, seed=7)
        >>> image, mask = images[2]
        >>> image.shape, len(images)
        ((1, 128, 128), 3)
    """

    def __init__(
        self, count: int, seed: int = 0, parameters: ImageParameters | None = None, path: str | Path | None = None
    ) -> None:
        if count < 1 or seed < 0:
            raise InputError(f"Got {count} images of seed {seed}: give 1 or more, and a seed of 0 or more.")
        settings = parameters or ImageParameters()
        self.record = json.loads(json.dumps({"count": count, "seed": seed, "parameters": asdict(settings)}))
        file = None if path is None else Path(path)
        self.already_complete = file is not None and file.exists()
        if file is not None and self.already_complete:
            self.data, self.masks, self.centres = _read(file, self.record)
            return
        made = [generate_image(seed, index, settings) for index in range(count)]
        self.data = np.stack([image.raw for image in made])
        self.masks = np.stack([image.mask for image in made]).astype(np.float32)
        self.centres = [image.centres for image in made]
        if file is not None:
            self._write(file)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        """Return an image and its mask, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        return self.data[index][None], self.masks[index][None]

    def _write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with h5py.File(partial, "w") as file:
            file.create_dataset("data", data=self.data, compression="gzip", shuffle=True)
            file.create_dataset("masks", data=self.masks, compression="gzip", shuffle=True)
            rows = file.create_dataset("center_points", (len(self),), h5py.vlen_dtype(np.float32))
            for number, centres in enumerate(self.centres):
                rows[number] = centres.ravel()
            file.attrs["record"] = json.dumps(self.record)
        partial.replace(path)


def _read(path: Path, record: Any) -> tuple[Array32, Array32, list[Array32]]:
    try:
        with h5py.File(path) as file:
            there = json.loads(file.attrs.get("record", "null"))
            if there not in (None, record):
                raise InputError(f"{path} holds images of other parameters or another seed: name another file.")
            if len(file["data"]) != record["count"]:
                raise InputError(f"{path} holds {len(file['data'])} images, not {record['count']}: name another file.")
            centres = [row.reshape(-1, 2) for row in file["center_points"][:]] if "center_points" in file else []
            return file["data"][:], file["masks"][:], centres
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{path} holds no images of this kind: {error}.") from error
