"""Pictures of the worst errors of a segmentation: raw, ground truth and segments around each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from incasem_like.errors import IncasemError
from incasem_like.viewing.figures import OBJECT_COLOURS, new_figure, png
from incasem_like.volumes import Roi, Volume, open_volume

SIDE, MOST = 160, 3


def draw_errors(segmentation: str, labels: str, scores: Mapping[str, Any]) -> bytes | None:
    """Draw the sections through the largest splits and merges, as PNG; None without errors.

    Each row shows an error: grey values if the raw volume is known from the provenance of the segmentation, the ground
    truth, and the segmentation; objects that take part are coloured, others are grey.

    Args:
        segmentation, labels: Addresses.
        scores: With ``largest_splits`` and ``largest_merges``, see ``evaluation.instances.largest_errors``.
    """
    errors = [("split", one) for one in scores.get("largest_splits", ())[:MOST] if len(one["parts"]) > 1]
    errors += [("merge", one) for one in scores.get("largest_merges", ())[:MOST] if len(one["parts"]) > 1]
    if not errors:
        return None
    predicted, truth = open_volume(segmentation), open_volume(labels)
    raw = raw_of(predicted)
    columns = ["raw"] * (raw is not None) + ["ground truth", "segmentation"]
    figure = new_figure(width=3.2 * len(columns), height=3.2 * len(errors))
    grid = figure.subplots(len(errors), len(columns), squeeze=False)
    for row, (kind, error) in zip(grid, errors, strict=True):
        parts = [part["id"] for part in error["parts"]]
        own, other = ([error["id"]], parts) if kind == "split" else (parts, [error["id"]])
        roi = _around(error["parts"][-1]["position"], predicted.roi)
        shown = [colours_of(truth.read(roi, outside="constant")[0], own),
                 colours_of(predicted.read(roi, outside="constant")[0], other)]  # fmt: skip
        if raw is not None:
            shown.insert(0, raw.read(roi, outside="constant")[0])
        for axes, image, title in zip(row, shown, columns, strict=True):
            axes.imshow(image, cmap="gray", interpolation="nearest")
            axes.set_title(title, fontsize=9)
            axes.set_xticks([])
            axes.set_yticks([])
        z, y, x = error["parts"][-1]["position"]
        row[0].set_ylabel(f"{kind} {error['id']}, {error['bits']:.3f} bits\nz {z}, y {y}, x {x}", fontsize=8)
    return png(figure)


def raw_of(volume: Volume) -> Volume | None:
    """Return the grey values that a segmentation or prediction was made from; None if they cannot be found."""
    provenance: Any = volume.provenance
    for _ in range(8):
        sources = [one.get("address") for one in (provenance or {}).get("inputs") or () if isinstance(one, Mapping)]
        if not sources:
            return None
        try:
            source = open_volume(str(sources[0]), allow_incomplete=True)
        except (IncasemError, OSError):
            return None
        if source.dataset.rpartition("/")[2].startswith("raw") and source.axes == "zyx":
            return source if source.voxel_size == volume.voxel_size else None
        provenance = source.provenance
    return None


def _around(position: Sequence[int], roi: Roi) -> Roi:
    """Return one section of a volume around a position."""
    z, y, x = position
    shape = [min(SIDE, int(size)) for size in roi.shape[1:]]
    corners = [
        int(min(max(at - size // 2, first), last - size))
        for at, size, first, last in zip((y, x), shape, roi.begin[1:], roi.end[1:], strict=True)
    ]
    return Roi((z, *corners), (1, *shape))


def colours_of(labels: npt.NDArray[Any], ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return an RGB image: the named ids in colours, other objects grey, boundaries between objects dark."""
    image = np.zeros((*labels.shape, 3))
    image[labels > 0] = 0.75
    for number, one in enumerate(ids):
        image[labels == one] = OBJECT_COLOURS[number % len(OBJECT_COLOURS)]
    edges = np.zeros(labels.shape, bool)
    edges[1:] |= labels[1:] != labels[:-1]
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    image[edges] *= 0.4
    return image
