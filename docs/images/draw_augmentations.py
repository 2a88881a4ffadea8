"""Draw docs/images/augmentations.png: a synthetic block, and what each augmentation makes of it.

    python docs/images/draw_augmentations.py

Each panel shows a z section and, below it, a section across z.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from incasem_like.config.appearance_sections import AppearanceSections
from incasem_like.samples.appearance import AUGMENTATIONS, Raw
from incasem_like.samples.deformation import random_deformation
from incasem_like.samples.resampling import resample_linearly
from incasem_like.targets import boundary_distance

PICTURE = Path(__file__).with_name("augmentations.png")
SHAPE = (40, 120, 120)
SHOWN: dict[str, dict[str, Any]] = {
    "section_intensity": {"scale": 0.4, "shift": 0.15},
    "gamma": {"gamma": [0.5, 2.0], "per_section": True},
    "clahe": {"kernel_size": [20, 30, 30], "clip_limit": [0.02, 0.02]},
    "blur": {"sigma": [0.5, 3.0]},
    "poisson_noise": {"counts": [20, 20]},
    "gaussian_noise": {"std": [0.1, 0.1]},
    "impulse_noise": {"share": [0.05, 0.05]},
    "defects": {"missing": 0.05, "low_contrast": 0.1, "artefact": 0.4},
    "occlusion": {"size": [25, 61, 61]},
}


def synthetic_block() -> Raw:
    """Return cells with dark membranes and some texture, 0 to 1."""
    rng = np.random.default_rng(1)
    seeds = np.zeros(SHAPE, dtype=np.int32)
    for number in range(1, 90):
        seeds[tuple(rng.integers(size) for size in SHAPE)] = number
    nearest = ndimage.distance_transform_edt(
        seeds == 0, sampling=(2, 1, 1), return_distances=False, return_indices=True
    )
    bent = ndimage.gaussian_filter(rng.standard_normal((3, *SHAPE)), (0, 3, 6, 6)) * 150
    places = np.clip(np.indices(SHAPE) + bent.round().astype(int), 0, np.array(SHAPE)[:, None, None, None] - 1)
    cells = seeds[tuple(nearest)][tuple(places)]
    membrane = np.exp(-((boundary_distance(cells, (2, 1, 1), limit=20) / 2) ** 2))
    texture = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1)
    return np.clip(0.75 - 0.5 * membrane + 0.12 * texture, 0, 1).astype(np.float32)


def deformed(raw: Raw) -> Raw:
    """Return the block after an elastic deformation with shifts and slips."""
    sections = {"section_shift_probability": 0.1, "section_slip_probability": 0.1, "max_misalign": 6}
    options = {"control_point_spacing": (20, 20, 20), "jitter_sigma": (1, 3, 3), "subsample": 4, "rotation": True}
    deformation = random_deformation(SHAPE, np.random.default_rng(2), **options, **sections)  # type: ignore[arg-type]
    return resample_linearly(raw, (0, 0, 0), deformation, tuple(slice(0, size) for size in SHAPE))  # type: ignore[arg-type]


def main() -> None:
    """Draw and write the picture."""
    matplotlib.use("Agg")
    raw = synthetic_block()
    panels = {"raw": raw, "elastic, with shifts and slips": deformed(raw)}
    for name, options in SHOWN.items():
        config = AppearanceSections.model_validate({name: options})
        panels[name] = AUGMENTATIONS[name](raw, getattr(config, name), np.random.default_rng(9))
    figure = Figure(figsize=(9, 8.2), layout="constrained")
    for axes, (name, block) in zip(figure.subplots(3, 4).flat, panels.items(), strict=False):
        gap = np.ones((4, SHAPE[2]), dtype=np.float32)
        axes.imshow(np.concatenate([block[20], gap, block[:, 60]]), cmap="gray", vmin=0, vmax=1)
        axes.set_title(name, fontsize=9)
    for axes in figure.axes:
        axes.axis("off")
    figure.savefig(PICTURE, dpi=80)
    print(f"Wrote {PICTURE}")


if __name__ == "__main__":
    main()
