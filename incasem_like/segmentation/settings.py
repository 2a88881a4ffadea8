"""The configuration of a segmentation: ``segmentation.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from incasem_like.config.checking import fields_of
from incasem_like.config.kinds import Count, Positive, Size, Text, Whole, Words, contradiction
from incasem_like.config.loading import files_or_default, load_document
from incasem_like.config.section import Document, Section
from incasem_like.config.shared_sections import DirectoriesConfig, TrackingConfig
from incasem_like.errors import InputError
from incasem_like.graphs import check_graph_url
from incasem_like.segmentation.methods.base import Method
from incasem_like.segmentation.methods.components import ConnectedComponents, Hysteresis, Threshold
from incasem_like.segmentation.methods.mutex_watershed import MutexWatershed
from incasem_like.segmentation.methods.watershed import Watershed
from incasem_like.terminal import nearest


class MethodSection(Section):
    """Options of the methods: a field for each method, under its name."""

    watershed: Watershed = Field(default_factory=Watershed, description="Fragments and agglomeration.")
    mutex_watershed: MutexWatershed = Field(default_factory=MutexWatershed, description="Mutex watershed.")
    connected_components: ConnectedComponents = Field(
        default_factory=ConnectedComponents, description="Connected components."
    )
    hysteresis: Hysteresis = Field(default_factory=Hysteresis, description="Two thresholds.")
    threshold: Threshold = Field(default_factory=Threshold, description="One threshold, one object.")


METHODS = tuple(fields_of(MethodSection))


class SegmentationSection(MethodSection):
    """Method, blocks and sizes of objects."""

    method: Annotated[Text, Words("one of " + ", ".join(METHODS))] = Field(
        "watershed", description="Method; its options are those of the section of that name."
    )
    input: Literal["auto", "affinities", "boundaries", "objects", "descriptors"] = Field(
        "auto",
        description="What the dataset holds: affinities, probabilities of boundaries or of objects, or local shape "
        "descriptors; auto: boundaries or descriptors if it was predicted as such, affinities if it has channels, "
        "else objects.",
    )
    mask: Text | None = Field(
        None, description="Mask dataset, `ZARR/DS`: only voxels where it is not 0 are segmented; null = all."
    )
    excluded_sections: tuple[Whole, ...] = Field(
        (),
        description="Sections that are not segmented, such as damaged ones: absolute z indices in voxels.",
    )
    output: Text | None = Field(
        None,
        description="Group for fragments, graph and segmentation, in the container of the prediction; "
        "null = the prediction's dataset, `_` and the method.",
    )
    graph: Text | None = Field(
        None,
        description="Store of the region adjacency graph: `sqlite:////path/graph.db`, `postgresql://user@host/db` or "
        "`mongodb://host/db`, with `$NAME` for a password in the environment; null = Parquet files in the group.",
    )
    block_shape: Size = Field(
        (128, 192, 192), description="Voxels that a worker processes at once, z, y, x; their context comes on top."
    )
    min_size: Count = Field(0, description="Smaller objects are removed, in voxels of the whole object.")
    max_size: Positive | None = Field(None, description="Larger objects are removed; null = none.")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.method not in METHODS:
            ending = nearest(self.method, METHODS) or f": known are {', '.join(METHODS)}."
            raise contradiction(f"segmentation.method '{self.method}' is not a method{ending}")
        if self.max_size is not None and self.min_size > self.max_size:
            raise contradiction(
                f"segmentation.min_size is {self.min_size} and above max_size {self.max_size}: exchange them."
            )
        if self.graph is not None:
            try:
                check_graph_url(self.graph)
            except InputError as error:
                raise contradiction(f"segmentation.graph: {error}") from None
        return self

    @property
    def chosen(self) -> Method:
        """The options of the chosen method."""
        method: Method = getattr(self, self.method)
        return method


class SegmentationConfig(Document):
    """All parameters of a segmentation except the prediction."""

    directories: DirectoriesConfig = Field(default_factory=DirectoriesConfig, description="Folders.")
    segmentation: SegmentationSection = Field(
        default_factory=SegmentationSection, description="Method, blocks and sizes."
    )
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="Run store.")


def load_segmentation_config(
    files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None
) -> SegmentationConfig:
    """Load the configuration of a segmentation; arguments and errors as for ``load_training_config``."""
    return load_document(SegmentationConfig, files_or_default(files, search, "segmentation.yaml"), updates, search)


def method_named(name: str, options: dict[str, object]) -> Method:
    """Return a method with the options of a task; those left out have their defaults."""
    method: Method = getattr(MethodSection.model_validate({name: options}), name)
    return method
