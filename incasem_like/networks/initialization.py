"""Initialisation of weights: torch's default, as with incasem; He's, as with funlib; Glorot's, as in Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def keep_torch(network: nn.Module) -> None:
    """Keep torch's default initialisation, with which the signal fades from layer to layer."""


def he_normal(network: nn.Module) -> None:
    """Draw weights so that the signal's variance stays constant through convolutions and ReLUs; biases are 0.

    He, Zhang, Ren and Sun: Delving deep into rectifiers, 2015, arXiv:1502.01852.
    """
    for layer in network.modules():
        if isinstance(layer, CONVOLUTIONS):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def glorot_uniform(network: nn.Module) -> None:
    """Draw weights uniformly within +-sqrt(6 / (inputs + outputs)) of a layer, as Keras does; biases are 0.

    Glorot and Bengio: Understanding the difficulty of training deep feedforward neural networks, 2010.
    """
    for layer in network.modules():
        if isinstance(layer, CONVOLUTIONS):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


INITIALIZATIONS: Mapping[str, Callable[[nn.Module], None]] = {
    "torch": keep_torch,
    "he_normal": he_normal,
    "glorot_uniform": glorot_uniform,
}
