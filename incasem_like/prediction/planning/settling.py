"""What the place where networks compute decides of a prediction: precision, and by memory and speed its tiles."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from incasem_like.prediction.planning.plan import PredictionPlan
from incasem_like.prediction.planning.precision import PrecisionCheck, check_precision
from incasem_like.prediction.planning.survey import Inquiry, Survey, is_wanted, survey

if TYPE_CHECKING:
    from incasem_like.blockwise.workers_file import Workers

logger = logging.getLogger(__name__)


def settled(
    plans: Sequence[PredictionPlan], workers: Workers | None = None, *, ask: bool = True
) -> list[PredictionPlan]:
    """Find out what the place where networks compute has to tell, here or by one worker for all of them.

    Where the configured precision is not exact enough on the plans' volumes, it gives way to fp32, with a warning.

    Args:
        plans: Of one network each, for the same regions.
        workers: Who predicts.
        ask: Start a worker for it; else what was never asked stays unknown.

    Raises:
        InputError: The worker that is asked cannot predict.
        IncasemError: No worker can be started.
    """
    config, regions = plans[0].config, plans[0].regions
    if not plans[0].elsewhere or workers is None:
        return [
            _in_precision(
                plan, check_precision(plan.network, plan.training.model, config.torch, config.prediction, regions)
            )
            for plan in plans
        ]
    return [
        plan if found is None else _in_precision(replace(plan, survey=found), found.precision)
        for plan, found in zip(plans, surveyed(plans, workers, ask=ask), strict=True)
    ]


def surveyed(plans: Sequence[PredictionPlan], workers: Workers, *, ask: bool = True) -> list[Survey | None]:
    """Give what a worker says of each network, if anything is to be said; arguments and errors as for ``settled``."""
    config = plans[0].config
    if not is_wanted(config):
        return [None] * len(plans)
    networks = tuple(place for plan in plans for place in plan.network_places)
    return survey(Inquiry(networks, config.prediction, plans[0].regions), workers, ask=ask)


def _in_precision(plan: PredictionPlan, check: PrecisionCheck | None) -> PredictionPlan:
    if check is None:
        return plan
    if check.used != check.asked:
        logger.warning("%s", check)
    in_use = plan.config.model_copy(update={"torch": check.applied(plan.config.torch)})
    return replace(plan, precision=check, config=in_use)
