import numpy as np
import pytest
import zarr

from incasem_like.prediction.outputs import OutputLocation, RegionOutput, most_probable
from incasem_like.volumes import Roi


@pytest.mark.parametrize("classes", [2, 5])
def test_the_class_map_holds_the_first_of_the_most_probable_classes(classes):
    generator = np.random.default_rng(0)
    # Few different values, so that there are ties.
    probabilities = generator.integers(0, 4, (classes, 6, 7, 8)).astype(np.float32) / 4
    before = probabilities.copy()
    found = most_probable(probabilities)
    assert found.dtype == np.uint8
    assert np.array_equal(found, probabilities.argmax(axis=0))
    assert np.array_equal(probabilities, before)


@pytest.mark.parametrize(
    ("suffix", "dtype", "compressor"), [("zarr", "float32", "lz4"), ("zarr", "uint8", "zstd"), ("n5", "float32", None)]
)
def test_floats_are_compressed_quickly_and_read_by_others(tmp_path, suffix, dtype, compressor):
    place = OutputLocation(tmp_path / f"cell.{suffix}", "volumes/predictions/a")
    layout = {"shape": (9, 10, 11), "voxel_size": (8, 8, 8), "offset": (0, 0, 0), "chunk_shape": (9, 10, 11)}
    output = RegionOutput.create(place, 2, dtype, {**layout, "provenance": {}, "overwrite": True})
    probabilities = np.random.default_rng(0).random((2, 9, 10, 11), dtype=np.float32)
    output.write(Roi((0, 0, 0), (9, 10, 11)), probabilities, np.ones((9, 10, 11), dtype=np.uint8))
    store = zarr.N5FSStore(str(place.container)) if suffix == "n5" else str(place.container)
    stored = zarr.open(store, mode="r")[place.probability_map(1)]
    assert getattr(stored.compressor, "cname", None) == compressor
    assert np.abs(stored[:] / (255 if dtype == "uint8" else 1) - probabilities[1]).max() < 0.51 / 255
