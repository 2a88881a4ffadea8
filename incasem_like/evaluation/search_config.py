"""The configuration of a search of segmentation parameters: that of a segmentation, and the section ``search``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from incasem_like.config.kinds import Fraction, Text, Words, contradiction
from incasem_like.config.loading import files_or_default, load_document
from incasem_like.config.sweep_config import SweepSection
from incasem_like.segmentation.settings import SegmentationConfig
from incasem_like.terminal import nearest

METRICS: Mapping[str, str] = {
    "voi": "min", "nvi": "min", "nid": "min", "adapted_rand_error": "min", "cremi_score": "min", "rand_index": "max",
    "f1": "max", "mean_ap": "max", "panoptic_quality": "max",
}  # fmt: skip
THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))


class DecodeSearchSection(SweepSection):
    """Segmentations that differ in some keys of their configuration, compared with ground truth."""

    key: ClassVar[str] = "search"
    example: ClassVar[str] = "segmentation.watershed.scoring=[mean,hist_quant_50]"
    trials: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Number of segmentations; null = every combination, for `grid`, else 20."
    )
    metric: Annotated[Text, Words("one of " + ", ".join(METRICS))] = Field(
        "voi", description=f"Score that chooses the best: {', '.join(METRICS)}."
    )
    space: dict[str, Any] = Field(
        default_factory=dict,
        description="Configuration keys to vary beside the threshold, such as `segmentation.watershed.scoring`: a list "
        "of values, or a range as for a sweep.",
    )
    thresholds: tuple[Fraction, ...] = Field(
        THRESHOLDS,
        min_length=1,
        description="Thresholds at which each graph is cut, for methods that cut one; all in one pass.",
    )

    @model_validator(mode="after")
    def _knows_its_keys(self) -> Self:
        if self.metric not in METRICS:
            ending = nearest(self.metric, list(METRICS)) or f": choose one of {', '.join(METRICS)}."
            raise contradiction(f"Unknown search.metric '{self.metric}'{ending}")
        for key in self.dimensions:
            if not key.startswith("segmentation."):
                raise contradiction(f"search.space.{key} is not a key of the segmentation: write segmentation.KEY.")
        return self


class DecodeSearchConfig(SegmentationConfig):
    """All parameters of a search: those that its segmentations share, and those that differ."""

    search: DecodeSearchSection = Field(default_factory=DecodeSearchSection, description="The keys to vary.")


def load_search_config(
    files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None
) -> DecodeSearchConfig:
    """Load the configuration of a search; arguments and errors as for ``load_training_config``."""
    return load_document(DecodeSearchConfig, files_or_default(files, search, "segmentation.yaml"), updates, search)
