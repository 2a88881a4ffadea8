"""Dead feature maps: those of convolutions that no gradient reaches any more, so that they cannot recover."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    import torch

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
WINDOW = 10  # updates before a checkpoint in which a map without any gradient counts as dead
MANY = 0.5  # share of a layer's maps above which it is reported


class DeadUnits:
    """Watches which feature maps have a gradient.

    Args:
        network: The network; frozen layers are left out.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers = {name: one for name, one in network.named_modules() if isinstance(one, CONVOLUTIONS)}
        self._alive: dict[str, torch.Tensor] = {}

    def look(self) -> None:
        """Note the feature maps that have a gradient now, after the backward pass."""
        for name, layer in self._layers.items():
            if layer.weight.grad is not None:
                alive = layer.weight.grad.detach().flatten(1).any(dim=1)
                if layer.bias is not None and layer.bias.grad is not None:
                    alive |= layer.bias.grad.detach() != 0  # all that is left where the layer below is dead
                self._alive[name] = alive | self._alive.get(name, alive)

    def report(self) -> str | None:
        """Return a sentence on layers of which many maps had no gradient since the last report; None if there are none.

        Without any gradient at all, the samples had nothing to learn, and nothing is reported.
        """
        counts = {name: (int((~alive).sum()), alive.numel()) for name, alive in self._alive.items()}
        self._alive = {}
        dead, known = (sum(count[index] for count in counts.values()) for index in (0, 1))
        worst = {name: count for name, count in counts.items() if count[0] > MANY * count[1]}
        if not worst or dead == known:
            return None
        layers = ", ".join(f"{name} ({found} of {of})" for name, (found, of) in worst.items())
        return (
            f"{dead} of {known} feature maps had no gradient in the last updates, most of them in {layers}: they have "
            "died and will learn nothing more. Start again with model.initialization=he_normal, a lower "
            "training.optimizer.lr, or model.normalization=batch."
        )
