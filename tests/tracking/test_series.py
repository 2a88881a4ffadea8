"""What is kept of a metric of any length, held against a plain definition."""

import math
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incasem_like.tracking.series import BoundedSeries, MetricTable

START = datetime(2026, 1, 1)


def kept_indices(count: int, limit: int) -> list[int]:
    """The definition: the smallest power of two whose multiples, with the last index, are at most ``limit``."""
    stride = 1
    while len(indices := sorted({*range(0, count, stride), count - 1})) > limit:
        stride *= 2
    return indices


def filled(count: int, limit: int, start: int = 0, series: BoundedSeries | None = None) -> BoundedSeries:
    series = BoundedSeries(limit) if series is None else series
    for index in range(start, count):
        series.append(index * 10, index / 2, START + timedelta(seconds=index))
    return series


@pytest.mark.parametrize("limit", [2, 3, 5, 10, 16])
def test_what_is_kept_depends_on_the_length_alone(limit: int) -> None:
    for count in range(1, 200):
        series = filled(count, limit)
        assert [step // 10 for step, _, _ in series.points] == kept_indices(count, limit)
        assert [value * 2 for _, value, _ in series.points] == kept_indices(count, limit)
        assert series.count == count


@given(st.integers(1, 400), st.integers(2, 20), st.integers(0, 400))
def test_a_series_taken_up_from_its_document_goes_on_as_if_never_put_down(count: int, limit: int, more: int) -> None:
    first = filled(count, limit)
    document = first.as_document()
    again = filled(count + more, limit, count, BoundedSeries.from_document(document, limit))
    assert again.points == filled(count + more, limit).points


def test_a_series_written_by_sacred_in_full_is_thinned_when_taken_up() -> None:
    whole = filled(300, 1000).as_document()
    text = {
        "steps": whole["steps"],
        "values": whole["values"],
        "timestamps": [moment.isoformat() for moment in whole["timestamps"]],
    }
    assert BoundedSeries.from_document(text, 10).points == filled(300, 10).points


@given(st.integers(1, 300), st.integers(2, 20), st.data())
def test_a_withdrawn_series_is_exact_again_once_it_is_as_long_as_it_was(
    count: int, limit: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, count))
    series = filled(count, limit)
    series.withdraw((cut - 1) * 10, cut)
    assert all(step <= (cut - 1) * 10 for step, _, _ in series.points)
    assert series.count == cut
    more = data.draw(st.integers(count, count + 100))
    assert filled(more, limit, cut, series).points == filled(more, limit).points


def test_without_a_count_a_short_series_is_cut_exactly_and_a_long_one_at_a_kept_point() -> None:
    short, long = filled(8, 10), filled(100, 10)
    short.withdraw(35)
    assert (short.count, short.points[-1][0]) == (4, 30)
    long.withdraw(350)
    assert (long.stride, long.count, long.points[-1][0]) == (16, 33, 320)


def test_the_summary_is_of_the_full_series_and_passes_over_undefined_values() -> None:
    table = MetricTable(limit=3)
    values = [math.nan, 3.0, -1.0, 7.0, 2.0, math.inf, 5.0, math.nan]
    for step, value in enumerate(values):
        table.add("loss", step, value, START)
    found = table.summary["loss"]
    assert math.isnan(found.pop("last"))
    assert found == {"last_step": 7, "min": -1.0, "min_step": 2, "max": math.inf, "max_step": 5}
    table.add("none", 1, math.nan, START)
    assert table.summary["none"]["min"] is None
    assert table.summary["none"]["max_step"] is None


def test_a_withdrawal_takes_the_summary_back_too() -> None:
    table = MetricTable(limit=100)
    for step, value in enumerate([5.0, 1.0, 3.0, 0.5, 9.0]):
        table.add("loss", step, value, START)
    table.add("late", 4, 1.0, START)
    table.withdraw(2, {"loss": 3})
    assert table.summary == {
        "loss": {"last": 3.0, "last_step": 2, "min": 1.0, "min_step": 1, "max": 5.0, "max_step": 0}
    }
    assert table.counts() == {"loss": 3}


def test_an_extreme_between_the_kept_points_survives_a_withdrawal_behind_it() -> None:
    table = MetricTable(limit=4)
    for step in range(100):
        table.add("loss", step, -9.0 if step == 37 else float(step), START)
    table.withdraw(90, {"loss": 91})
    assert (table.summary["loss"]["min"], table.summary["loss"]["min_step"]) == (-9.0, 37)
