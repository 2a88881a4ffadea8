"""Small networks with lively weights, and a volume in memory to predict."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

MODELS = {
    "isotropic": {},
    "anisotropic": {
        "downsample_factors": [[1, 2, 2], [2, 2, 2]],
        "kernel_size_down": [[[1, 3, 3]] * 2, [[3, 3, 3]] * 2, [[3, 3, 3]] * 2],
        "kernel_size_up": [[[1, 3, 3]] * 2, [[3, 3, 3]] * 2],
    },
    "transposed": {"constant_upsample": False, "downsample_factors": [[3, 3, 3]]},
    "padded": {"type": "OneConv3d"},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Several test processes share the cores; threads on top of that make each of them slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_network():
    """Build one of ``MODELS`` with weights of which the signal reaches the output."""
    from incasem_like.networks import build_network

    def make(kind):
        values = {
            "type": "Unet",
            "in_channels": 1,
            "num_fmaps": 3,
            "num_fmaps_out": 3,
            "fmap_inc_factor": 2,
            "downsample_factors": [[2, 2, 2]] * 2,
            "kernel_size_down": None,
            "kernel_size_up": None,
            "constant_upsample": True,
        }
        return _enliven(build_network(SimpleNamespace(**(values | MODELS[kind]))))

    return make


@pytest.fixture(scope="session")
def enliven():
    """Give a network weights with which the signal reaches the output."""
    return _enliven


def _enliven(network):
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter, generator=generator)
        else:
            torch.nn.init.uniform_(parameter, 0.0, 0.2, generator=generator)
    return network


class MirroredVolume:
    """A volume at an offset, mirrored beyond its edges."""

    def __init__(self, shape, begin):
        self.values = np.random.default_rng(0).random(shape, dtype=np.float32)
        self.begin = begin

    def read(self, roi):
        indices = []
        for axis, length in enumerate(self.values.shape):
            at = np.arange(roi.begin[axis], roi.end[axis]) - self.begin[axis]
            at = np.abs(at) % (2 * (length - 1))
            indices.append(np.where(at < length, at, 2 * (length - 1) - at))
        return self.values[np.ix_(*indices)]


@pytest.fixture(scope="session")
def mirrored_volume():
    return MirroredVolume
