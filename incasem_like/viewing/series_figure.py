"""The figure of a series: each score against the iteration of the checkpoint, the best iteration marked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from incasem_like.viewing.figures import Curve, Mark, curves_figure

# Name of a score: dice_class_1 is the mean of all regions, dice_class_1_ds_0 that of the first one.
SCORE = re.compile(r"(?P<kind>.+?)_(?P<class>\d+)(?:_ds_(?P<region>\d+))?")
TITLES = {"dice_class": "dice", "jaccard_class": "jaccard"}
COLUMNS = 2


def series_figure(
    scores: Mapping[int, Mapping[str, float]], regions: Sequence[str], best: tuple[str, int] | None = None
) -> bytes:
    """Draw a panel for each kind of score, with a curve for each class of objects, as PNG.

    With several regions, each has a pale curve in addition to the mean.

    Args:
        scores: Scores by iteration and name.
        regions: Names of the regions, in the order of the data configuration.
        best: Score and iteration to mark.
    """
    steps = sorted(scores)
    panels: dict[str, list[Curve]] = {}
    marks: dict[str, Mark] = {}
    for name in sorted({name for found in scores.values() for name in found}, key=_order):
        match = SCORE.fullmatch(name)
        if match is None or match["class"] == "0" or (match["region"] is not None and len(regions) == 1):
            continue
        title = TITLES.get(match["kind"], match["kind"])
        values = [scores[step].get(name, float("nan")) for step in steps]
        panels.setdefault(title, []).append(_curve(match, steps, values, regions))
        if best is not None and name in (best[0], best[0].removesuffix("_ds_0") if len(regions) == 1 else ""):
            marks[title] = Mark(best[1], scores[best[1]][name], f"best: {best[1]}")
    return curves_figure(panels, COLUMNS, marks)


def _order(name: str) -> tuple[int, str, int, int]:
    """Sort dice first, then by class, means before regions."""
    match = SCORE.fullmatch(name)
    if match is None:
        return (9, name, 0, 0)
    kinds = [*TITLES, "precision", "recall"]
    place = kinds.index(match["kind"]) if match["kind"] in kinds else len(kinds)
    return (place, match["kind"], int(match["class"]), -1 if match["region"] is None else int(match["region"]))


def _curve(match: re.Match[str], steps: Sequence[int], values: Sequence[float], regions: Sequence[str]) -> Curve:
    number = int(match["class"])
    colour = f"C{number - 1}"
    if match["region"] is None:
        return Curve(f"class {number}" + (", mean" if len(regions) > 1 else ""), steps, values, colour)
    index = int(match["region"])
    region = regions[index] if index < len(regions) else f"region {index}"
    return Curve(f"class {number}, {region}", steps, values, colour, pale=True)
