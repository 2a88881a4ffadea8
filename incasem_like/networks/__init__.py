"""Networks: architectures and their geometry, losses, and the checkpoint file."""

from incasem_like.networks.checkpoints import Checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from incasem_like.networks.geometry import NetworkGeometry
from incasem_like.networks.losses import build_loss
from incasem_like.networks.registry import build_network, count_parameters, network_geometry

__all__ = [
    "Checkpoint",
    "NetworkGeometry",
    "build_loss",
    "build_network",
    "count_parameters",
    "load_checkpoint",
    "network_geometry",
    "read_checkpoint",
    "save_checkpoint",
]
