"""Checks of a round before it runs: volumes too thin, and trained networks that are gone or read something else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from incasem_like.bootstrapping.plan import MODELS, RoundPlan
from incasem_like.bootstrapping.steps import combinations, final_options, first_options
from incasem_like.config import resolve_training_config
from incasem_like.config.loading import nest
from incasem_like.config.network_sections import input_sections
from incasem_like.config.prediction_config import PredictionConfig
from incasem_like.config.target_sections import parse_targets
from incasem_like.errors import ConfigError, InputError, RunNotFoundError
from incasem_like.segmentation.settings import SegmentationConfig

if TYPE_CHECKING:
    from incasem_like.tracking import RunRecord, RunStore

log = logging.getLogger(__name__)


def check_round(plan: RoundPlan, store: RunStore) -> None:
    """Check a round.

    Args:
        plan: The round.
        store: Store of rounds.

    Raises:
        InputError: The volume has one section; or a training that the round uses does not exist.
        ConfigError: An option of a prediction or segmentation is wrong; a network does not take or give blocks of the
            given sizes; or the network of 3-D affinities reads something else than the sparse model predicts.
    """
    for options in (first_options(plan), final_options(plan)):
        for values in combinations(options):
            SegmentationConfig.from_values({"segmentation": values}, lambda _path: "in the round")
    for name in MODELS:
        values = nest(getattr(plan.config, name).prediction)
        PredictionConfig.from_values(values, lambda _path, name=name: f"in {name}.prediction of the round")  # type: ignore[misc]
    _check_thickness(plan)
    for name in MODELS:
        used = name != "affinities_model" or plan.two_networks
        run_id, key = getattr(plan.config, name).run_id, f"{name}.run_id"
        if run_id is None and plan.config.round.keep_weights and name != "affinities_model":
            run_id, key = plan.parent.get(name, {}).get("run_id"), f"the {name} of round {plan.parent_id}"
        if run_id is not None and used:
            record = _training(store, run_id, key)
            if name == "affinities_model":
                _check_inputs(plan, record)
        if getattr(plan.config, name).run_id is None and used:
            _check_sizes(plan, name)


def _check_thickness(plan: RoundPlan) -> None:
    sections = int(plan.roi.shape[0])
    if sections < 2:
        raise InputError(
            f"{plan.raw.address} has one section to predict, but a round makes a segmentation in 3-D: give a volume of "
            "several sections, or correct round.shape."
        )
    sizes = {
        name: plan.training(name).training.input_size_voxels[0]
        for name in MODELS
        if getattr(plan.config, name).run_id is None and (name != "affinities_model" or plan.two_networks)
    }
    thicker = {name: size for name, size in sizes.items() if size > sections}
    if thicker:
        log.warning(
            "%s has %d sections, fewer than the networks see (%s): beyond its ends it is mirrored.",
            plan.raw.address, sections, ", ".join(f"{name}: {size}" for name, size in thicker.items()),
        )  # fmt: skip


def _check_sizes(plan: RoundPlan, name: str) -> None:
    from incasem_like.training.preflight import check_block_sizes  # loads torch, which a dry run does without

    validated = name != "affinities_model" and plan.config.round.validation_share > 0  # with held-out pixels
    try:
        check_block_sizes(plan.training(name), validated=validated)
    except ConfigError as error:
        raise ConfigError(f"{name}.values: {error}") from None


def _training(store: RunStore, run_id: int, key: str) -> RunRecord:
    try:
        return store.sibling("trainings").get(run_id)
    except RunNotFoundError:
        raise InputError(
            f"Training run {run_id}, {key}, does not exist (any more): name another, or leave it out to train one."
        ) from None


def _check_inputs(plan: RoundPlan, record: RunRecord) -> None:
    """Compare what a trained network reads with what the sparse model predicts, but for names that say the same."""
    predicted = tuple(target.resolved(2) for target in parse_targets(plan.inputs_of_affinities()))
    wanted = input_sections(predicted, plan.raw.require_voxel_size())
    read = resolve_training_config(record.config).model.inputs or ()
    where = f"affinities_model.run_id={record.id}"
    if [group.name for group in read] != [group.name for group in wanted]:
        names = [", ".join(group.name for group in groups) or "raw" for groups in (read, wanted)]
        raise ConfigError(
            f"{where} reads {names[0]}, but the sparse model predicts {names[1]}: name another run, or change "
            "sparse_model.values.targets."
        )
    for group, other in zip(read, wanted, strict=True):
        for key, value in group.attributes.items():
            if key not in ("sigma", "grow_boundary") and not _same(value, other.attributes.get(key)):
                raise ConfigError(
                    f"{where} reads {group.name} of {key} {value}, but the sparse model predicts it of "
                    f"{other.attributes.get(key)}: name another run, or change sparse_model.values.targets."
                )


def _same(one: Any, other: Any) -> bool:
    numbers = isinstance(one, list) and one and isinstance(one[0], int | float)
    if numbers and isinstance(other, list | tuple) and len(one) == len(other):
        return bool(np.allclose(one, other, rtol=0.02))
    return bool(one == other)
