"""Augmentations of what raw looks like: noise, blur, brightness, contrast, defects, occlusion; labels stay as they are.

Raw ranges from 0 to 1, and is clipped to that after each of them. Where a key has a range, a value is drawn from it
uniformly.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from incasem_like.config.kinds import Flag, Fraction, PositiveRange, Range, Size, contradiction
from incasem_like.config.section import Section


class RawSection(Section):
    """An augmentation of raw that happens to a share of the blocks."""

    probability: Fraction = Field(0.5, description="Probability that a block is changed.")


class SectionIntensityConfig(RawSection):
    """Brightness and contrast of each z section by itself; off by default."""

    scale: Fraction = Field(0.1, description="Contrast of a section is multiplied by 1 - scale to 1 + scale.")
    shift: Fraction = Field(0.1, description="Brightness of a section is shifted by -shift to +shift.")


class GammaConfig(RawSection):
    """Gamma correction, raw to the power of gamma; off by default."""

    gamma: PositiveRange = Field((0.8, 1.2), description="Range of gamma; below 1 is brighter.")
    per_section: Flag = Field(True, description="Draw gamma for each z section instead of once for the block.")


class ClaheConfig(RawSection):
    """Contrast-limited adaptive histogram equalisation; off by default."""

    kernel_size: Size = Field((64, 64, 64), description="Tile of the equalisation in voxels, z, y, x.")
    clip_limit: Range = (0.01, 0.03)
    """Range of the share of a tile's voxels that a grey level may hold; more is stronger."""


class BlurConfig(RawSection):
    """Gaussian blur within z sections, of another width each, as out of focus; off by default."""

    sigma: Range = Field((0.0, 1.5), description="Range of the standard deviation in voxels.")


class PoissonNoiseConfig(RawSection):
    """Shot noise, the count of photons or electrons; off by default."""

    counts: PositiveRange = Field((30.0, 300.0), description="Range of the mean count of a voxel of brightness 1.")


class GaussianNoiseConfig(RawSection):
    """Gaussian noise; off by default."""

    std: Range = Field((0.0, 0.1), description="Range of the standard deviation.")


class ImpulseNoiseConfig(RawSection):
    """Voxels that become black or white; off by default."""

    share: Range = Field((0.0, 0.05), description="Range of the share of voxels.")


class DefectsConfig(Section):
    """Defects of single z sections, at most one each; off by default."""

    missing: Fraction = Field(0.03, description="Probability of a section to be black.")
    low_contrast: Fraction = Field(0.03, description="Probability of a section to lose contrast.")
    contrast: Fraction = Field(0.1, description="Contrast that is left of such a section.")
    artefact: Fraction = Field(0.03, description="Probability of a section to have dark or bright stains.")

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        total = self.missing + self.low_contrast + self.artefact
        if total > 1:
            raise contradiction(
                "training.augmentation.defects: missing, low_contrast and artefact sum to "
                f"{total:g}, but a section has one defect at most: lower them to a sum of 1."
            )
        return self


class OcclusionConfig(RawSection):
    """A box somewhere in the block in which raw is black; off by default."""

    size: Size = Field((40, 40, 40), description="Size of the box in voxels, z, y, x; cut to the block.")


class AppearanceSections(Section):
    """The augmentations of what raw looks like, in the order in which they are applied; all are off by default."""

    section_intensity: SectionIntensityConfig | None = Field(None, description="Brightness and contrast per section.")
    gamma: GammaConfig | None = Field(None, description="Gamma correction.")
    clahe: ClaheConfig | None = Field(None, description="Adaptive histogram equalisation.")
    blur: BlurConfig | None = Field(None, description="Blur within sections.")
    poisson_noise: PoissonNoiseConfig | None = Field(None, description="Shot noise.")
    gaussian_noise: GaussianNoiseConfig | None = Field(None, description="Gaussian noise.")
    impulse_noise: ImpulseNoiseConfig | None = Field(None, description="Black and white voxels.")
    defects: DefectsConfig | None = Field(None, description="Missing, pale and stained sections.")
    occlusion: OcclusionConfig | None = Field(None, description="A black box.")
