"""Masks and boundaries of whole volumes equal those of the array at once."""

import numpy as np
import pytest

from incasem_like.errors import DataError, InputError
from incasem_like.formatting import derive as deriving
from incasem_like.formatting.derive import Derivation, derive_volume
from incasem_like.formatting.label_masks import metric_mask
from incasem_like.targets import boundary_labels
from incasem_like.volumes import create_volume, open_volume

ZONE = {"outwards": 2, "inwards": 2}


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 4, (4, 5, 4)), np.ones((5, 5, 5), dtype=int)).astype(np.uint32)


@pytest.fixture
def container(tmp_path, labels):
    volume = create_volume(
        tmp_path / "c.zarr", "labels", shape=labels.shape, dtype=labels.dtype, voxel_size=(4, 4, 4), offset=(8, 0, 4)
    )
    volume.write(labels)
    volume.mark_complete()
    return str(tmp_path / "c.zarr")


@pytest.mark.parametrize(("outwards", "inwards"), [(4, 4), (2, 0), (0, 3)])
def test_metric_mask_block_by_block(container, labels, outwards, inwards):
    zone = {"outwards": outwards, "inwards": inwards}
    derivation = Derivation(container, "labels", "mask", chunk_shape=(7, 6, 5))
    derive_volume(derivation, metric_mask, zone, context=max(zone.values()))
    volume = open_volume(container, "mask")
    np.testing.assert_array_equal(volume.read(), metric_mask(labels, outwards, inwards))
    assert (volume.voxel_size, volume.offset, volume.dtype) == ((4, 4, 4), (8, 0, 4), np.uint8)
    assert volume.provenance["parameters"] == zone


@pytest.mark.parametrize("parameters", [{"thickness": 1}, {"thickness": 3}, {"thickness": 2, "axes": [1, 2]}])
def test_boundaries_block_by_block_and_none_at_the_volumes_edge(container, labels, parameters):
    derivation = Derivation(container, "labels", "b", chunk_shape=(7, 6, 5))
    derive_volume(derivation, boundary_labels, parameters, context=parameters["thickness"], outside="reflect")
    np.testing.assert_array_equal(open_volume(container, "b").read(), boundary_labels(labels, **parameters))


def test_processes_give_the_same(container, labels, monkeypatch):
    monkeypatch.setattr(deriving, "useful_workers", lambda wanted, voxels: wanted)
    derivation = Derivation(container, "labels", "mask", chunk_shape=(7, 6, 5), num_workers=2)
    derive_volume(derivation, metric_mask, {"outwards": 2, "inwards": 2}, context=2)
    np.testing.assert_array_equal(open_volume(container, "mask").read(), metric_mask(labels, 2, 2))


@pytest.mark.parametrize(("dtype", "value"), [("int32", -1), ("uint64", 2**64 - 1)])
@pytest.mark.parametrize(("function", "parameters"), [(metric_mask, ZONE), (boundary_labels, {"thickness": 2})])
def test_a_negative_label_is_refused_with_its_place(dtype, value, function, parameters, tmp_path, labels):
    wrong = labels.astype(dtype)
    wrong[19, 0, 3] = value
    volume = create_volume(
        tmp_path / "d.zarr", "labels", shape=labels.shape, dtype=dtype, voxel_size=(4, 4, 4), offset=(8, 0, 4)
    )
    volume.write(wrong)
    volume.mark_complete()
    with pytest.raises(DataError, match=r"labels holds the label .* at z 21, y 0, x 4"):
        derive_volume(Derivation(str(tmp_path / "d.zarr"), "labels", "out", (8, 8, 8)), function, parameters, context=2)
    assert not (tmp_path / "d.zarr/out").exists()


def test_second_call_and_other_parameters(container):
    def run(outwards):
        zone = {"outwards": outwards, "inwards": 1}
        return derive_volume(Derivation(container, "labels", "m"), metric_mask, zone, context=2)

    assert not run(1).already_complete
    assert run(1).already_complete
    with pytest.raises(InputError, match="--overwrite"):
        run(2)


def test_grey_values_and_in_place_are_refused(container, tmp_path):
    zone = {"outwards": 1, "inwards": 1}
    volume = create_volume(tmp_path / "c.zarr", "float", shape=(5, 5, 5), dtype="float32", voxel_size=(1, 1, 1))
    volume.mark_complete()
    with pytest.raises(DataError, match="integers"):
        derive_volume(Derivation(container, "float", "m"), metric_mask, zone, context=1)
    with pytest.raises(InputError, match="replace"):
        derive_volume(Derivation(container, "labels", "labels/"), metric_mask, zone, context=1)
