"""Networks: architectures and their geometry, and the checkpoint file."""

from incasem_like.networks.auto_context import AutoContext
from incasem_like.networks.checkpoints import Checkpoint, fit_state, load_checkpoint, read_checkpoint, save_checkpoint
from incasem_like.networks.description import describe_network, forward_maps, sizes_near
from incasem_like.networks.devices import (
    autocast_dtype,
    check_arithmetic,
    check_device,
    describe_arithmetic,
    enough_memory,
    for_this_machine,
    has_device,
    torch_device,
)
from incasem_like.networks.geometry import NetworkGeometry
from incasem_like.networks.registry import (
    build_network,
    check_output,
    count_parameters,
    network_geometry,
)
from incasem_like.networks.sections import geometry_in_volumes, on_volumes

__all__ = [
    "AutoContext",
    "Checkpoint",
    "NetworkGeometry",
    "autocast_dtype",
    "build_network",
    "check_arithmetic",
    "check_device",
    "check_output",
    "count_parameters",
    "describe_arithmetic",
    "describe_network",
    "enough_memory",
    "fit_state",
    "for_this_machine",
    "forward_maps",
    "geometry_in_volumes",
    "has_device",
    "load_checkpoint",
    "network_geometry",
    "on_volumes",
    "read_checkpoint",
    "save_checkpoint",
    "sizes_near",
    "torch_device",
]
