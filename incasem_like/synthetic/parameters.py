"""Parameters of the synthetic optic lobe with meaning, unit and default."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Range = tuple[float, float]


class OpticLobeParameters(BaseModel):
    """Layout, labelling, staining and imaging of the columns of an optic lobe.

    Lengths are in units of the volume's longest side (1 = that side) unless a description says otherwise. Where the
    shipped recipe of the original generator (128 voxels a side) differs from its class defaults, the recipe's value
    is the default here, and the description says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Geometry
    min_columns: int = Field(
        100, ge=1, description="minimum number of columns entering a cubic volume; scaled down for flat volumes"
    )
    subdivisions: tuple[int, int] = Field(
        (8, 15), description="range of n; each icosahedron edge is cut in n + 1 parts: 10 (n + 1)^2 + 2 sites"
    )
    scale: Range = Field((0.7, 1.5), description="range of the ellipsoid's half axes")
    shift: Range = Field(
        (-0.5, 0.5), description="range of the reference site's distance from the centre, as a share of each side"
    )
    rotation_degrees: Range = Field(
        (0.0, 360.0), description="range of the rotation about each axis through the centre, degrees"
    )
    margin: float = Field(0.2, ge=0, description="columns entering within this distance outside the volume are kept")

    # Labels
    relative_diameter: float = Field(
        0.70, gt=0, le=1, description="diameter of a column at its entry, in units of the column spacing"
    )
    relative_depth: float = Field(2.25, gt=0, description="length of a column, in units of the column spacing")
    label_empty_columns: bool = Field(True, description="also label columns without dye (as the original does)")

    # Fluorescence
    type_ratios: tuple[float, float, float, float] = Field(
        (2.0, 3.0, 3.0, 3.0),
        description="shares of columns that are empty (drop-out), dense (A), clustered (B), ring-shaped (C)",
    )
    points_per_cloud: int = Field(250, ge=1, description="number of points in each innermost cloud")
    simplify: float = Field(1.25, gt=0, description="divisor of the spread of every cloud; recipe 1.25, class 1.0")
    baseline_intensity: float = Field(50.0, gt=0, description="factor on every log-normal intensity")
    point_std: float = Field(1.0, ge=0, description="standard deviation of point intensities within one cloud")
    intensity_sigma: Range = Field(
        (0.3, 1.2), description="range of the log-normal sigma, drawn once per volume; recipe 0.3-1.2, class 0.2-1.2"
    )
    diffuse_dye: float = Field(
        0.0,
        ge=0,
        description="dye spread evenly through all non-empty columns, relative to the typical dye of their clouds",
    )
    neurites_empty: float = Field(0.3, ge=0, le=1, description="share of neurites without dye")
    neurite_gain: float = Field(2.0, ge=0, description="brightness of neurites relative to columns")
    neurite_spread: float = Field(0.025, ge=0, description="position noise of neurites, in units of the column spacing")

    # Imaging; lengths in voxels of a volume with 128 voxels on its longest side, scaled with that side
    box_size: float = Field(
        2.0,
        gt=0,
        description="side of the box blur that models optical resolution, voxels at 128; recipe 2, class 4 at 256",
    )
    neuropil_sigma: float = Field(
        10.0, gt=0, description="blur of the neuropil background, voxels at 128; recipe 10, class 91 at 256"
    )
    neuropil_weight: Range = Field(
        (0.5, 2.5), description="range of the neuropil's weight, relative to the normalised volume"
    )
    plateau: float = Field(0.1, ge=0, description="constant background, relative to the 99th percentile")
    photons: tuple[int, int] = Field(
        (10, 29), description="range of the photon count at the 99th percentile, both ends included"
    )
    contrast: Range = Field((0.7, 1.0), description="range of the exponent on the signal (contrast in the log domain)")
    percentiles: Range = Field((1.0, 99.0), description="percentiles that become 0 and 255 in the raw volume")

    @classmethod
    def clear(cls) -> Self:
        """Return a recipe that a small network learns in minutes: sharp columns, dim neurites, no label without dye."""
        return cls(label_empty_columns=False, diffuse_dye=2.0, intensity_sigma=(0.2, 0.5), neurite_gain=0.5)

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        names = (
            "subdivisions",
            "scale",
            "shift",
            "rotation_degrees",
            "intensity_sigma",
            "neuropil_weight",
            "photons",
            "contrast",
            "percentiles",
        )
        for name in names:
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is a range (low, high), but got ({low}, {high}): swap them")
        if min(self.type_ratios) < 0 or sum(self.type_ratios) <= 0:
            raise ValueError(
                f"type_ratios are four shares of 0 or more, but got {self.type_ratios}: at least one must be above 0"
            )
        return self
