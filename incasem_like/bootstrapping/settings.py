"""The configuration of a round of bootstrapping: ``round.yaml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from incasem_like.config.kinds import (
    Checkpoint,
    Count,
    ExistingFile,
    Flag,
    Fraction,
    Position,
    Positive,
    Seed,
    Size,
    Text,
    contradiction,
)
from incasem_like.config.loading import files_or_default, load_document
from incasem_like.config.section import Document, Section
from incasem_like.config.shared_sections import DirectoriesConfig, TrackingConfig


class RoundSection(Section):
    """What is segmented, and what was painted."""

    name: Text = Field("round", description="Name of the volume's rounds; runs and datasets are named after it.")
    raw: Text | None = Field(None, description="Raw volume, `ZARR/DS`; predictions and labels are written beside it.")
    offset: Position | None = Field(None, description="First voxel to predict, z, y, x, absolute; null = all of raw.")
    shape: Size | None = Field(None, description="Voxels to predict; null = all of raw.")
    labels: tuple[Text, ...] = Field(
        (),
        description="Painted labels, `ZARR/DS` each: ids of objects, 0 = not painted. "
        "An id means the same object in all.",
    )
    ground_truth: Text | None = Field(
        None, description="Ground truth, `ZARR/DS`, that the result is evaluated with; null = no evaluation."
    )
    validation_share: Fraction = Field(
        0.1,
        lt=1,
        description="Share of the painted pixels to keep from training, for validation: the best checkpoint is the one "
        "for them, and a training ends when it stops improving; 0 = none, train all iterations, use the last one.",
    )
    seed: Seed = Field(1, description="Seed of all trainings.")
    keep_weights: Flag = Field(
        False, description="With `--continue`: start the sparse and the dense model with the weights of that round."
    )


class ModelStep(Section):
    """A training and its prediction."""

    config: tuple[ExistingFile, ...] = Field(
        (), description="Configurations of `train.py`, such as a preset; later ones win."
    )
    values: dict[str, Any] = Field(
        default_factory=dict, description="Keys of `config_training.yaml` that differ, nested or dotted."
    )
    run_id: Positive | None = Field(
        None, description="A training run whose network is used instead of training one, such as an imported one."
    )
    checkpoint: Checkpoint | None = Field(
        None, description="Checkpoint to predict with; null = best, or last where none is best."
    )
    prediction: dict[str, Any] = Field(
        default_factory=dict, description="Keys of `config_prediction.yaml` for its prediction, nested or dotted."
    )


class SelectionSection(Section):
    """Self-consistency: which segmentation, and which of its voxels, become pseudo ground truth."""

    choices: dict[str, Any] = Field(
        default_factory=dict,
        description="Values to try of other keys of the segmentation than its threshold, such as "
        "`{mutex_watershed.bias: [-0.2, 0, 0.2]}`: the most consistent segmentation of all combinations is taken.",
    )
    trusted_share: Fraction = Field(0.95, description="Share of voxels to trust, those of the lowest errors.")
    largest_error: Fraction | None = Field(None, description="Trust errors up to this one instead.")
    largest_object_error: Fraction | None = Field(
        None, description="Trust no voxel of objects with a larger error; null = all objects."
    )
    weights: Literal["none", "voxels", "objects"] = Field(
        "none",
        description="Weight of trusted voxels in the training on the pseudo ground truth: 1, 1 - error of the voxel, "
        "or 1 - error of its object.",
    )


class PseudoTruthSection(Section):
    """Corrections of the selected segmentation before it is learnt."""

    corrections: ExistingFile | None = Field(
        None,
        description="JSON with `merge`, a list of lists of ids, and `remove`, a list of ids, of the selected "
        "segmentation, and its address as `segmentation`; null = none.",
    )


class PaintSection(Section):
    """Where to paint next."""

    count: Count = Field(10, description="Number of places.")
    size: Positive = Field(64, description="Edge of a place on its section, in pixels.")
    disagreement: Flag = Field(
        False,
        description="Look not only for large errors, but also for places where two checkpoints of the last model "
        "disagree; takes another prediction.",
    )
    context: Count = Field(0, description="Sections of raw above and below that the crops show.")


class RoundConfig(Document):
    """All parameters of a round."""

    directories: DirectoriesConfig = Field(default_factory=DirectoriesConfig, description="Folders.")
    round: RoundSection = Field(default_factory=RoundSection, description="Volume and painted labels.")
    sparse_model: ModelStep = Field(default_factory=ModelStep, description="Model of the painted labels.")
    affinities_model: ModelStep = Field(
        default_factory=ModelStep,
        description="Model of 3-D affinities from the prediction of the sparse model; its input follows from that "
        "model's targets. Not used where the sparse model predicts affinities along z, y and x itself.",
    )
    segmentation: dict[str, Any] = Field(
        default_factory=dict,
        description="Keys of the section of `segmentation.yaml`, nested or dotted; of several thresholds the most "
        "consistent one is taken.",
    )
    selection: SelectionSection = Field(default_factory=SelectionSection, description="Self-consistency.")
    pseudo_truth: PseudoTruthSection = Field(default_factory=PseudoTruthSection, description="Corrections.")
    model: ModelStep = Field(default_factory=ModelStep, description="Model of the pseudo ground truth.")
    final_segmentation: dict[str, Any] | None = Field(
        None, description="As `segmentation`, for the prediction of the last model; null = the same."
    )
    where_to_paint: PaintSection = Field(default_factory=PaintSection, description="Where to paint next.")
    tracking: TrackingConfig = Field(default_factory=TrackingConfig, description="Run store.")

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if (self.round.offset is None) != (self.round.shape is None):
            raise contradiction("round.offset and round.shape belong together: give both, in voxels, or none.")
        if not self.round.name.replace("_", "").isalnum():
            raise contradiction(f'round.name is "{self.round.name}": use letters, digits and underscores.')
        return self


def load_round_config(files: Sequence[Path], updates: Sequence[str] = (), search: Path | None = None) -> RoundConfig:
    """Load the configuration of a round; arguments and errors as for ``load_training_config``."""
    return load_document(RoundConfig, files_or_default(files, search, "round.yaml"), updates, search)


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values merged key by key; later ones win.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            if isinstance(value, Mapping):
                value = merged(below, value) if isinstance(below, Mapping) else merged(value)
            result[key] = value
    return result
