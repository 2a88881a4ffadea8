"""Draw docs/images/synthetic_*.png: what the generators of synthetic data make.

python docs/images/draw_synthetic.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from incasem_like.synthetic import OpticLobeParameters, generate_optic_lobe
from incasem_like.synthetic.images import generate_image
from incasem_like.synthetic.tissue import Tissue, TissueParameters

FOLDER = Path(__file__).parent
CLASS_COLOURS = ((0, 0, 0), (255, 255, 255), (230, 90, 80), (90, 190, 240))
Picture = npt.NDArray[np.uint8]


def grey(values: npt.NDArray[Any]) -> Picture:
    """Return grey values as colours."""
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=-1)


def coloured(labels: npt.NDArray[Any]) -> Picture:
    """Return a colour per id, black for 0."""
    table = np.random.default_rng(1).integers(50, 255, (997, 3)).astype(np.uint8)
    return np.where(labels[..., None] > 0, table[labels % 997], 0).astype(np.uint8)


def save(name: str, panels: list[Picture]) -> None:
    """Write panels beside each other, with white lines between them, in 64 colours."""
    line = np.full((panels[0].shape[0], 4, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (panel, line)][:-1], axis=1)
    Image.fromarray(row).quantize(64).save(FOLDER / f"synthetic_{name}.png", optimize=True)


def main() -> None:
    """Draw all pictures."""
    shape, size = (48, 300, 300), (24.0, 8.0, 8.0)
    raw, neurites, classes = Tissue(TissueParameters(), 8, shape, size).block((0, 0, 0), shape)
    across = grey(np.repeat(raw[:, 150], 3, axis=0))[:144]
    spoiled = TissueParameters(misalignment=2.5, missing_sections=0.05, noise=25)
    bad = Tissue(spoiled, 8, shape, size).block((0, 150, 0), (48, 1, 300))[0][:, 0]
    line = np.full((12, 300, 3), 255, np.uint8)
    save(
        "tissue",
        [
            grey(raw[10]),
            coloured(neurites[10]),
            np.array(CLASS_COLOURS, np.uint8)[classes[10]],
            np.concatenate([across, line, grey(np.repeat(bad, 3, axis=0))])[:300],
        ],
    )
    lobe = generate_optic_lobe((128,) * 3, seed=3, parameters=OpticLobeParameters())
    clear = generate_optic_lobe((128,) * 3, seed=3, parameters=OpticLobeParameters.clear())
    save("lobe", [grey(lobe.raw[64]), coloured(lobe.labels[64]), grey(clear.raw[64]), coloured(clear.labels[64])])
    images = [generate_image(1, index) for index in range(2)]
    save("images", [part for image in images for part in (grey(image.raw * 255), grey(image.mask * 255))])


if __name__ == "__main__":
    main()
