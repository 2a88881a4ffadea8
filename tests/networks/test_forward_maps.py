"""The memory of a forward pass, worked out from the configuration, against the tensors that torch makes for one."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from incasem_like.config import ModelConfig
from incasem_like.networks import build_network, forward_maps

MODELS = {
    "incasem": {},
    "widening": {"num_fmaps": 12, "fmap_inc_factor": 6},
    "anisotropic": {"downsample_factors": [[1, 2, 2], [1, 2, 2], [2, 2, 2]], "fmap_inc_factor": 5, "num_fmaps": 6},
    "transposed": {"constant_upsample": False, "downsample_factors": [[3, 3, 3], [2, 2, 2]]},
    "many channels": {"in_channels": 40, "num_fmaps": 4, "num_fmaps_out": 30},
    "one convolution": {"type": "OneConv3d", "in_channels": 3},
}


class Living(TorchDispatchMode):
    """Counts the elements of all tensors that live, and remembers how many there were at most."""

    def __init__(self):
        super().__init__()
        self.now = self.most = self.widest = 0
        self.known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor)
        return made

    def note(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata in self.known:
            return
        size = storage.nbytes() // tensor.element_size()
        self.known.add(storage._cdata)
        self.now += size
        self.most, self.widest = max(self.most, self.now), max(self.widest, size)
        weakref.finalize(storage, self.gone, storage._cdata, size)

    def gone(self, key, size):
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("kind", MODELS)
def test_it_is_what_a_large_tile_comes_to(kind):
    model = ModelConfig.model_validate({"type": "Unet", "in_channels": 1} | MODELS[kind])
    with torch.device("meta"):
        network = build_network(model)
    size = network.geometry.nearest_valid([3000, 3000, 3000])[0]
    with torch.no_grad(), Living() as living:
        network(torch.empty((1, model.in_channels, *size), device="meta"))
    voxels = size[0] * size[1] * size[2]
    told = forward_maps(model)
    assert 0.8 * told.together <= living.most / voxels <= told.together
    assert 0.8 * told.widest <= living.widest / voxels <= told.widest
