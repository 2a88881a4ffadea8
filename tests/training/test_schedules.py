import itertools
import math

import pytest

from incasem_like.errors import ConfigError
from incasem_like.training.schedules import SCHEDULES, learning_rate


def test_constant_never_changes() -> None:
    assert {learning_rate(3e-5, "constant", i, iterations=10) for i in range(1, 11)} == {3e-5}


def test_warmup_climbs_to_the_base_rate() -> None:
    rates = [learning_rate(1.0, "constant", i, iterations=10, warmup_iterations=4) for i in range(1, 7)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_matches_its_closed_form_after_the_warmup() -> None:
    rates = [learning_rate(2.0, "cosine", i, iterations=12, warmup_iterations=2) for i in range(3, 13)]
    assert rates == pytest.approx([1 + math.cos(math.pi * k / 10) for k in range(10)])


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_rates_start_at_the_base_never_rise_and_stay_positive(schedule: str) -> None:
    rates = [learning_rate(1.0, schedule, i, iterations=50) for i in range(1, 51)]
    assert rates[0] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))
    assert rates[-1] > 0


def test_unknown_schedule_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cosine'"):
        learning_rate(1.0, "cosin", 1, iterations=2)
