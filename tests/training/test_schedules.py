import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from incasem_like.config.training_sections import ScheduleConfig
from incasem_like.training.optimizers import Plateau, learning_rate

SCHEDULES = ("constant", "cosine", "linear", "plateau", "polynomial")


def rates(
    type: str, iterations: int, *, lr: float = 1.0, warmup: int = 0, final: float = 0.0, power: float = 0.9
) -> list[float]:
    schedule = SimpleNamespace(type=type, warmup_iterations=warmup, final_fraction=final, power=power)
    section = SimpleNamespace(optimizer=SimpleNamespace(lr=lr), learning_rate_schedule=schedule, iterations=iterations)
    config: Any = SimpleNamespace(training=section)
    return [learning_rate(config, iteration) for iteration in range(1, iterations + 1)]


def test_constant_never_changes() -> None:
    assert set(rates("constant", 10, lr=3e-5, final=0.1)) == {3e-5}


def test_warmup_climbs_to_the_base_rate() -> None:
    assert rates("constant", 6, warmup=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_matches_its_closed_form_after_the_warmup() -> None:
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * k / 10)) / 2 for k in range(11)]
    assert rates("cosine", 13, warmup=2, final=0.2)[2:] == pytest.approx(expected)


def test_linear_ends_at_the_final_fraction() -> None:
    assert rates("linear", 5, lr=2.0, final=0.5) == pytest.approx([2.0, 1.75, 1.5, 1.25, 1.0])


def test_polynomial_equals_torch_s() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=9, power=2.5)
    expected = []
    for _ in range(10):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates("polynomial", 10, lr=0.3, power=2.5) == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_plateau_lowers_the_rate_after_its_patience_but_not_below_the_final_fraction(mode: str) -> None:
    plateau = Plateau(ScheduleConfig(type="plateau", factor=0.5, patience=1, final_fraction=0.3), mode)
    factors = []
    for value in (0.5, 0.6, 0.6, math.nan, 0.4, 0.5, 0.7, 0.1, 0.1):
        plateau.measured(value if mode == "max" else 1 - value)
        factors.append(plateau.factor)
    assert factors == [1, 1, 1, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]


def test_a_restored_plateau_goes_on_where_it_was() -> None:
    schedule = ScheduleConfig(type="plateau", factor=0.5, patience=1)
    one, other = Plateau(schedule, "max"), Plateau(schedule, "max")
    for value in (0.5, 0.4, 0.4, 0.3):
        one.measured(value)
    other.restore(one.state())
    assert other.factor == one.factor == 0.5
    for plateau in (one, other):
        plateau.measured(0.2)
    assert other.state() == one.state()
    assert other.factor == 0.25


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_start_at_the_base_and_never_rise(schedule: str) -> None:
    found = rates(schedule, 50)
    assert found[0] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(found))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_training_of_one_iteration_uses_the_base_rate(schedule: str) -> None:
    assert rates(schedule, 1, lr=0.5) == [0.5]


def test_a_warmup_longer_than_the_training_only_climbs() -> None:
    assert rates("cosine", 3, warmup=6) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
