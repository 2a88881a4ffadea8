"""What the place where networks compute decides of a prediction: precision, and by memory and speed its tiles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from incasem_like.prediction.planning.ensemble_plan import EnsemblePlan
from incasem_like.prediction.planning.plan import PredictionPlan
from incasem_like.prediction.planning.precision import PrecisionCheck, check_precision
from incasem_like.prediction.planning.survey import Inquiry, Survey, survey

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

logger = logging.getLogger(__name__)


def settled(
    plan: PredictionPlan, workers: Workers | None = None, *, ask: bool = True, tiles: bool = True
) -> PredictionPlan:
    """Find out what the place where the plan's networks compute has to tell, here or by one worker for all of them.

    Where the configured precision is not exact enough on the plan's volumes, it gives way to fp32, with a warning.

    Args:
        plan: Of one network or several.
        workers: Who predicts.
        ask: Start a worker for it; else what was never asked stays unknown.
        tiles: Whether there are tiles to be chosen, unless they are configured.

    Raises:
        InputError: The worker that is asked cannot predict.
        IncasemError: No worker can be started.
    """
    if isinstance(plan, EnsemblePlan):
        found = surveyed(plan.members, workers, ask=ask, tiles=tiles)
        members = [settled_by(member, one) for member, one in zip(plan.members, found, strict=True)]
        return EnsemblePlan.of(members, plan.weights)
    return settled_by(plan, surveyed([plan], workers, ask=ask, tiles=tiles)[0])


def surveyed(
    plans: Sequence[PredictionPlan], workers: Workers | None, *, ask: bool = True, tiles: bool = True
) -> list[Survey | None]:
    """Give what a worker says of the network of each plan; None where none is asked, or not yet.

    Arguments and errors are those of ``settled``; the plans are for the same regions.
    """
    first = plans[0]
    if not first.asks_worker or workers is None:
        return [None] * len(plans)
    networks = tuple(place for plan in plans for place in plan.network_places)
    section = first.config.prediction
    tiles = tiles and section.input_size_voxels is None
    return survey(Inquiry(networks, section, first.regions, tiles), workers, ask=ask)


def settled_by(plan: PredictionPlan, found: Survey | None) -> PredictionPlan:
    """Settle a plan of one network by what a worker found out; where none is asked, by what is found out here."""
    if plan.asks_worker:
        return plan if found is None else _in_precision(replace(plan, survey=found), found.precision)
    config = plan.config
    check = check_precision(plan.network, plan.training.model, config.torch, config.prediction, plan.regions)
    return _in_precision(plan, check)


def _in_precision(plan: PredictionPlan, check: PrecisionCheck | None) -> PredictionPlan:
    if check is None:
        return plan
    if check.used != check.asked:
        logger.warning("%s", check)
    in_use = plan.config.model_copy(update={"torch": check.applied(plan.config.torch)})
    return replace(plan, precision=check, config=in_use)
