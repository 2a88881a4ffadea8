"""Faults that 2-D predictions have in single sections: objects split, merged, and artefacts outside objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from incasem_like.synthetic.random_objects import dilated_shape

Labels = NDArray[np.uint32]
NEAR = 4  # pixels between objects that may be merged
ARTEFACTS = ("star", "disk", "ellipse")


@dataclass(frozen=True)
class Faults:
    """How often each fault occurs; every one has draws of its own.

    Attributes:
        tries: How often each kind is tried in a sample.
        split: Probability of each try that an object is split in one or two sections.
        merge: Probability that two objects are merged there.
        artefact: Probability that a shape covers them there, with an id of its own.
    """

    tries: int = 5
    split: float = 0.1
    merge: float = 0.1
    artefact: float = 0.1


def obfuscate(labels: Labels, faults: Faults, rng: np.random.Generator) -> tuple[Labels, dict[str, int]]:
    """Return labels with faults, and how many of each kind were made.

    New ids are above all that occur, so that no part takes the id of another object.

    Args:
        labels: (z, y, x), 0 = background.
        faults: How often.
        rng: Source of all randomness; the draws of one kind do not depend on the probabilities of others.

    Example:
        >>> from incasem_like.synthetic.random_objects import random_objects
        >>> labels, _ = random_objects("C", (4, 64, 64), np.random.default_rng(0), thickness=5)
        >>> _, made = obfuscate(labels, Faults(tries=3, split=1, merge=0, artefact=0), np.random.default_rng(1))
        >>> made
        {'split': 3, 'merge': 0, 'artefact': 0}
    """
    changed, made = labels.copy(), {}
    makers: dict[str, Callable[[Labels, np.random.Generator], bool]] = {
        "split": _split, "merge": _merge, "artefact": _artefact,
    }  # fmt: skip
    for (kind, make), own in zip(makers.items(), rng.spawn(len(makers)), strict=True):
        made[kind] = sum(
            make(changed, each) for each in own.spawn(faults.tries) if each.random() < getattr(faults, kind)
        )
    return changed, made


def _sections(labels: Labels, rng: np.random.Generator) -> list[int]:
    """Choose one section, or two neighbours."""
    count = min(int(rng.integers(1, 2, endpoint=True)), len(labels))
    first = int(rng.integers(len(labels) - count, endpoint=True))
    return list(range(first, first + count))


def _any_object(labels: Labels, section: int, rng: np.random.Generator) -> int:
    """Choose one of a section's objects, all alike; 0 if there is none."""
    ids = np.unique(labels[section])
    ids = ids[ids > 0]
    return int(rng.choice(ids)) if len(ids) else 0


def _split(labels: Labels, rng: np.random.Generator) -> bool:
    """Cut an object by a watershed of the distance to its boundary, from two of its pixels."""
    sections = _sections(labels, rng)
    chosen = _any_object(labels, sections[0], rng)
    new, done = labels.max() + np.uint32(1), False
    for section in sections:
        pixels = np.argwhere((labels[section] == chosen) & (chosen > 0))
        if len(pixels) < 2:
            continue
        begin, end = pixels.min(axis=0), pixels.max(axis=0) + 1
        crop = labels[section, begin[0] : end[0], begin[1] : end[1]]
        inside = np.pad(crop == chosen, 1)
        seeds = np.zeros(inside.shape, np.int32)
        first = pixels[rng.integers(len(pixels))]
        far = np.argsort(((pixels - first) ** 2).sum(axis=1))[len(pixels) // 2 :]  # one of the farther half
        for number, pixel in enumerate((first, pixels[far[rng.integers(len(far))]]), start=1):
            seeds[tuple(pixel - begin + 1)] = number
        parts = watershed(-ndimage.distance_transform_edt(inside), seeds, mask=inside)[1:-1, 1:-1]
        crop[parts == 2] = new
        done = True
    return done


def _merge(labels: Labels, rng: np.random.Generator) -> bool:
    """Set the id of an object to that of one nearby, and fill the gap between them."""
    sections = _sections(labels, rng)
    chosen = _any_object(labels, sections[0], rng)
    around = ndimage.binary_dilation(labels[sections[0]] == chosen, iterations=NEAR) if chosen else None
    near = np.unique(labels[sections[0]][around]) if around is not None else np.zeros(0, np.uint32)
    near = near[(near > 0) & (near != chosen)]
    if not len(near):
        return False
    other = int(rng.choice(near))
    for section in labels[sections]:
        if (section == chosen).any() and (section == other).any():
            one, two = (ndimage.binary_dilation(section == each, iterations=NEAR) for each in (chosen, other))
            section[one & two & (section == 0)] = chosen
    part = labels[sections[0] : sections[-1] + 1]
    part[part == other] = chosen
    return True


def _artefact(labels: Labels, rng: np.random.Generator) -> bool:
    """Cover a place by a star, disk or ellipse."""
    name = ARTEFACTS[int(rng.integers(len(ARTEFACTS)))]
    size: tuple[Any, ...] = (int(rng.integers(4, 12, endpoint=True)),)
    if name == "ellipse":
        size = (size[0], int(rng.integers(4, 12, endpoint=True)))
    shape = dilated_shape(name, size, 1)
    new = labels.max() + np.uint32(1)
    at = [int(rng.integers(length)) for length in labels.shape[1:]]
    for section in _sections(labels, rng):
        begin = [max(0, place - side // 2) for place, side in zip(at, shape.shape, strict=True)]
        target = labels[
            section, begin[0] : at[0] - shape.shape[0] // 2 + shape.shape[0],
            begin[1] : at[1] - shape.shape[1] // 2 + shape.shape[1],
        ]  # fmt: skip
        first = [side // 2 - place + start for side, place, start in zip(shape.shape, at, begin, strict=True)]
        target[shape[first[0] : first[0] + target.shape[0], first[1] : first[1] + target.shape[1]]] = new
    return True
