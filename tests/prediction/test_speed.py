import pytest
import torch

from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.prediction.planning.memory import TileMemory
from incasem_like.prediction.planning.probe import DeviceProfile, PrecisionCheck
from incasem_like.prediction.planning.tile_size import (
    UNMEASURED,
    MeasurementCache,
    fitted,
    measurable_sizes,
    measure_speed,
    speed_cache,
    sum_of_speeds,
)

MEMORY = TileMemory(8, 1, 2, 1, None, False, 4, 42)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_fit_finds_the_times_that_tiles_were_made_with():
    sizes = [(1000, 100), (2000, 500), (8000, 4000), (20000, 12000)]
    speed = fitted([(read, written, 2e-6 * read + 5e-6 * written + 1e-3) for read, written in sizes])
    assert (speed.per_input, speed.per_output, speed.per_tile) == pytest.approx((2e-6, 5e-6, 1e-3))
    assert sum_of_speeds([speed] * 8).seconds(1000.0, 100.0, 1.0) == pytest.approx(8 * (2e-3 + 5e-4 + 1e-3))
    speed = fitted([(read, written, 2e-6 * read + 5e-6 * written) for read, written in sizes[:2]])
    assert (speed.per_input, speed.per_output) == pytest.approx((2e-6, 5e-6))


@pytest.mark.parametrize("measured", [[(1000, 100, 1.0)], [(1000, 100, 1.0), (2000, 500, 0.5)]])
def test_what_tells_nothing_of_proportions_takes_the_usual_ones(measured):
    speed = fitted(measured)
    assert speed.measured
    assert speed.per_output / speed.per_input == pytest.approx(UNMEASURED.per_output / UNMEASURED.per_input)
    assert not fitted([]).measured


def test_tiles_grow_within_the_bounds(make_network):
    geometry = make_network("isotropic").geometry
    sizes = list(measurable_sizes(geometry, MEMORY, 2**40, 10**7))
    assert all(geometry.is_valid(size) for size in sizes)
    volumes = [z * y * x for z, y, x in sizes]
    assert volumes == sorted(set(volumes))
    assert sum(volumes) <= 10**7
    assert list(measurable_sizes(geometry, MEMORY, 2**40, 10)) == []
    assert list(measurable_sizes(geometry, MEMORY, 10, 10**9)) == []


def test_real_tiles_are_timed_and_kept(make_network, cache):
    network = make_network("isotropic")

    def predictor(size):
        return TiledPredictor(network, geometry=network.geometry, input_size=size, device=torch.device("cpu"))

    sizes = list(measurable_sizes(network.geometry, MEMORY, 2**40, 10**6))
    measured = measure_speed(predictor, 1, iter(sizes))
    assert len(measured) == len(sizes)
    assert all(seconds > 0 for _read, _written, seconds in measured)
    kept = speed_cache({"model": "a"}, torch.device("cpu"))
    assert kept.read() is None
    kept.write(measured)
    assert speed_cache({"model": "a"}, torch.device("cpu")).read() == measured
    assert speed_cache({"model": "b"}, torch.device("cpu")).read() is None
    assert kept.path.is_relative_to(cache)


def test_what_a_worker_found_is_kept_as_it_was_an_infinite_difference_too():
    check = PrecisionCheck("bf16", "fp32", float("inf"), 0.02, "cell_er")
    profile = DeviceProfile("a GPU", 2.0**33, [(1000, 100, 0.25)], check)
    kept = MeasurementCache("device_profiles", DeviceProfile, {"model": "a"})
    kept.write(profile)
    assert kept.read() == profile


@pytest.mark.parametrize("content", ["", "[[1, 2", "[[1, 2]]", "7", '[["a", 1, 2]]'])
def test_a_damaged_cache_is_no_cache(content):
    kept = speed_cache({}, torch.device("cpu"))
    kept.path.parent.mkdir(parents=True)
    kept.path.write_text(content)
    assert kept.read() is None


def test_a_cache_that_cannot_be_written_is_no_fault(cache):
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where a folder should be")
    speed_cache({}, torch.device("cpu")).write([(1, 1, 1.0)])
    assert speed_cache({}, torch.device("cpu")).read() is None


def test_another_architecture_is_timed_too(make_network):
    network = make_network("padded")
    measured = measure_speed(
        lambda size: TiledPredictor(network, geometry=network.geometry, input_size=size, device=torch.device("cpu")),
        1,
        [(8, 8, 8)],
    )
    assert measured[0][:2] == (512, 512)
