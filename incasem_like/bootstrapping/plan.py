"""A round before it runs: its configuration, and what follows from it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from incasem_like.bootstrapping.painting import Painting
from incasem_like.bootstrapping.places import painted_crops
from incasem_like.bootstrapping.settings import ModelStep, RoundConfig, merged
from incasem_like.config import TrainingConfig
from incasem_like.config.loading import nest
from incasem_like.config.reading import read_keys
from incasem_like.config.target_sections import parse_targets
from incasem_like.config.training_sections import TrainingSection
from incasem_like.errors import ConfigError
from incasem_like.volumes import Roi, Volume, open_volume

MODELS = ("sparse_model", "affinities_model", "model")
NEIGHBOURS = {(-1, 0, 0), (0, -1, 0), (0, 0, -1)}
# Painted voxels are few: blocks are chosen by what is painted in them, however little.
SPARSE_REJECT = {"min_masked": 0.01, "min_mask_fraction": 0.01}
PATIENCE = 10  # validations without improvement before a training ends

Values = dict[str, Any]


@dataclass(frozen=True)
class RoundPlan:
    """A configuration and what follows from it, before anything runs.

    Attributes:
        config: The configuration.
        parent: The steps' results of the round that is continued, by step; empty without one.
        parent_id: Id of that round's run.
        scripts: The folder of scripts.
        store_flags: Flags that select the run store.
        num_workers: Processes of blockwise steps.
    """

    config: RoundConfig
    parent: Mapping[str, Any]
    parent_id: int | None
    scripts: Path
    store_flags: Sequence[str] = ()
    num_workers: int = 1
    _trainings: dict[str, TrainingConfig] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def raw(self) -> Volume:
        """The raw volume."""
        if self.config.round.raw is None:
            raise ConfigError("round.raw is null: name the raw volume, such as round.raw=data/cell.zarr/volumes/raw.")
        return open_volume(self.config.round.raw)

    @cached_property
    def painting(self) -> Painting:
        """All painted labels: those of the configuration, and what was painted in the folder of the parent."""
        labels = tuple(open_volume(address) for address in self.config.round.labels)
        crops = tuple(crop for folder in self.parent.get("paint_folders", []) for crop in painted_crops(Path(folder)))
        return Painting(self.raw, labels, crops)

    @property
    def folder(self) -> Path:
        """Folder of the configurations and logs of this volume's steps."""
        return self.config.directories.runs / "bootstrapping" / self.config.round.name

    @property
    def roi(self) -> Roi:
        """What is predicted, in absolute voxels."""
        section = self.config.round
        if section.offset is None or section.shape is None:
            return self.raw.roi
        roi = Roi(section.offset, section.shape)
        if not self.raw.roi.contains(roi):
            raise ConfigError(f"round.offset and round.shape are not inside {self.raw.address}: correct them.")
        return roi

    def training(self, name: str) -> TrainingConfig:
        """Return the checked configuration of a training, but for its data."""
        if name not in self._trainings:
            values = self.training_values(name)
            self._trainings[name] = TrainingConfig.from_values(values, lambda _path: f"in {name} of the round")
        return self._trainings[name]

    def training_values(self, name: str) -> Values:
        """Return the nested values of a training, as far as they do not depend on earlier steps."""
        step: ModelStep = getattr(self.config, name)
        values = merged(*(nest(read_keys(path)) for path in step.config), nest(step.values))
        voxel_size = list(self.raw.require_voxel_size())
        own: Values = {"seed": self.config.round.seed}
        if name != "affinities_model" and self.config.round.validation_share:
            own = merged(own, _validation_values(values))
        if name == "sparse_model":
            own = merged(own, {"training": {"reject": SPARSE_REJECT}})
        fixed: Values = {"data": {"voxel_size": voxel_size}}
        if name == "affinities_model":  # it reads what the sparse model predicts, whatever its preset reads
            fixed = merged(fixed, {"training": {"synthetic": {"input": self.inputs_of_affinities()}}})
        if self.config.round.keep_weights and name in self.parent and name != "affinities_model":
            own = merged(own, {"training": {"start_from": {"run_id": self.parent[name]["run_id"]}}})
        return merged(own, values, fixed)

    def inputs_of_affinities(self) -> list[Values]:
        """Return what the affinities' network reads: the sparse model's targets, of objects that have gaps."""
        inputs = []
        for target in self.training("sparse_model").resolved_targets:
            # Defaults are left out: a key that a later version adds does not change what a step depends on.
            values = target.model_dump(mode="json", exclude={"weight", "loss"}, exclude_unset=True)
            values |= {"type": target.type, "name": target.name}
            if target.type == "affinities" and not values.get("grow_boundary"):
                values |= {"grow_boundary": 1, "grow_boundary_axes": [1, 2]}
            inputs.append(values)
        return inputs

    @cached_property
    def two_networks(self) -> bool:
        """Whether 3-D affinities come from a second network that reads the first one's prediction."""
        for target in self.training("sparse_model").resolved_targets:
            if target.type == "affinities":
                offsets = {tuple(offset) for offset in target.describe()["offsets"]}
                if offsets >= NEIGHBOURS:
                    return False
        return True


def _validation_values(values: Values) -> Values:
    """Return with what a training is validated, ended and its best checkpoint chosen, unless its values say more.

    Affinities are compared rather than descriptors: those of a single section are not those of an object in 3-D.
    """
    every = values.get("training", {}).get("save_every", TrainingSection().save_every)
    chosen: Values = {"training": {"early_stopping": PATIENCE}, "validation": {"validate_every": every}}
    with contextlib.suppress(PydanticCustomError):  # wrong targets are reported with the whole configuration
        for target in parse_targets(values.get("targets") or ["classes"]):
            if target.type == "affinities":
                metric = {"best_metric": target.resolved(2).main_metric, "best_mode": None}
                return merged(chosen, {"training": {"checkpoints": metric}})
    return chosen
