from types import SimpleNamespace

import pytest
import torch

from incasem_like.prediction.blocks import region_block_shape, region_offset
from incasem_like.prediction.computing.tiles import TiledPredictor
from incasem_like.volumes import Coordinate, Roi, create_volume


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [
        (1, (8, 8, 8)),
        (2, (8, 8, 16)),
        (3, (8, 8, 24)),
        (5, (8, 16, 24)),  # a row is three tiles long
        (100, (32, 40, 24)),
    ],
)
def test_a_block_holds_the_tiles_that_are_predicted_together(make_network, batch_size, expected):
    network = make_network("padded")
    predictor = TiledPredictor(
        network, geometry=network.geometry, input_size=(10, 10, 10), device=torch.device("cpu"), batch_size=batch_size
    )
    region = SimpleNamespace(roi=Roi((5, 5, 5), (30, 40, 20)), raw_roi=Roi((0, 0, 0), (40, 50, 30)))
    assert tuple(predictor.steps(region.roi, region.raw_roi.begin)) == (8, 8, 8)
    assert region_block_shape(predictor, region, (8, 8, 8)) == expected


def test_tiles_that_are_run_in_slabs_are_predicted_one_by_one(make_network):
    network = make_network("isotropic")
    options = {"geometry": network.geometry, "input_size": (52, 52, 52), "device": torch.device("cpu")}
    assert TiledPredictor(network, batch_size=8, **options).batch_size == 1
    assert TiledPredictor(network, batch_size=8, augmentation="mirrors", **options).batch_size == 8


@pytest.mark.parametrize("factor", [1, 2])
def test_an_output_lies_where_its_raw_voxels_do_also_between_whole_voxels(tmp_path, factor):
    size, offset = (8.0, 4.6, 4.6), (20.0, -1.15, 0.0)
    raw = create_volume(str(tmp_path / "a.zarr"), "raw", shape=(9, 9, 9), dtype="uint8", voxel_size=size, offset=offset)
    first = Coordinate(2, 1, 3)  # voxels of the region from the first one that downsampling takes
    begin = Coordinate(-(-at // factor) for at in raw.roi.begin) + first
    region = SimpleNamespace(raw=raw, roi=Roi(begin, (2, 2, 2)), downsample_factor=factor)
    index = [at * factor - start for at, start in zip(begin, raw.roi.begin, strict=True)]
    expected = [start + at * edge for start, at, edge in zip(offset, index, size, strict=True)]
    assert region_offset(region) == pytest.approx(expected, abs=1e-9)
