"""Lower precision is held against fp32 on a real tile of the volume, and gives way to it where it is too coarse."""

import numpy as np
import pytest
import zarr

from incasem_like.prediction.planning.planner import plan_prediction
from incasem_like.prediction.planning.probe import lively_part, nearly_greatest_difference

BF16 = "torch.precision=bf16"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))


def plan(laboratory, *updates):
    return plan_prediction(laboratory.config(None, *updates), [laboratory.training]).resolved().lead


def probabilities(place):
    return np.asarray(zarr.open(str(place.container), mode="r")[place.probability_map(1)])


def test_what_is_exact_enough_is_used(laboratory, caplog):
    planned = plan(laboratory, BF16, "prediction.precision_tolerance=1")
    assert planned.source.torch.precision == "bf16"
    assert 0 < planned.precision.difference < 0.2
    assert "999 of 1000 values of a tile of cell_er by at most 0.0" in str(planned.precision)
    assert caplog.text == ""


def test_what_is_too_coarse_gives_way_to_fp32_with_a_sentence(laboratory, caplog):
    planned = plan(laboratory, BF16, "prediction.precision_tolerance=0.00001")
    assert planned.source.torch.precision == planned.precision.used == "fp32"
    assert "prediction.precision_tolerance allows 1e-05: predicting in fp32." in caplog.text


def test_the_difference_is_that_of_the_whole_prediction(laboratory):
    """The tile stands for the volume: what all of it differs by is of the size that the tile showed."""
    exact, coarse = (
        laboratory.predict(laboratory.config(None, f"torch.precision={name}", "prediction.precision_tolerance=1"))
        for name in ("fp32", "bf16")
    )
    maps = [
        np.asarray(
            zarr.open(str(done.locations["cell_er"].container), mode="r")[done.locations["cell_er"].probability_map(1)]
        )
        for done in (exact, coarse)
    ]
    shown = plan(laboratory, BF16, "prediction.precision_tolerance=1").precision.difference
    assert 0 < np.quantile(np.abs(maps[0] - maps[1]), 0.999) <= 1.5 * shown


@pytest.mark.parametrize("updates", [[], [BF16, "prediction.precision_tolerance=null"]])
def test_nothing_is_checked_where_there_is_nothing_to_check(laboratory, monkeypatch, updates):
    monkeypatch.setattr("incasem_like.prediction.planning.probe.make_predictor", None)
    assert plan(laboratory, *updates).precision is None


def test_a_prediction_says_which_precision_it_was_made_in(laboratory, caplog):
    config = laboratory.config(None, BF16, "prediction.precision_tolerance=0.00001")
    done = laboratory.predict(config)
    assert laboratory.store.get(done.run_id).info["precision"] == {
        "asked": "bf16",
        "used": "fp32",
        "difference": pytest.approx(plan(laboratory, BF16).precision.difference),
        "tolerance": 0.00001,
        "region": "cell_er",
    }
    expected = laboratory.one_shot((12, -18, 3), (25, 30, 28))
    assert np.abs(probabilities(done.locations["cell_er"]) - expected[1]).max() < 1e-5


def test_values_that_are_none_are_never_exact_enough():
    exact = np.zeros(10_000, dtype=np.float32)
    other = exact.copy()
    other[:9] = 0.5
    assert nearly_greatest_difference(exact, other) == 0
    other[:11] = 0.5
    assert nearly_greatest_difference(exact, other) == 0.5
    other[0] = np.nan
    assert nearly_greatest_difference(exact, other) == float("inf")


def test_the_tile_is_taken_where_raw_varies_inside_the_mask(tmp_path, laboratory, write_volume):
    raw = np.full((60, 300, 300), 100, dtype=np.uint8)
    raw[:, 230:290, 230:290] = np.random.default_rng(0).integers(0, 256, (60, 60, 60), dtype=np.uint8)
    raw[:, 20:60, 20:60] = np.random.default_rng(0).integers(0, 200, (60, 40, 40), dtype=np.uint8)
    mask = np.ones(raw.shape, dtype=np.uint8)
    write_volume(laboratory.container, "volumes/quiet", raw)
    entry = {**laboratory.entry(raw="volumes/quiet"), "offset": None, "shape": None}

    def part(**changes):
        planned = plan_prediction(laboratory.config({"cell_er": {**entry, **changes}}), [laboratory.training])
        (region,) = planned.regions
        return lively_part(region) - region.roi.begin

    assert part().begin[1:] == (201, 201)
    mask[:, 200:] = 0
    write_volume(laboratory.container, "volumes/half", mask)
    assert part(mask="volumes/half").begin[1:] == (50, 50)
