"""Networks of the user's own: a class that is named in the configuration, with declared sizes."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from torch import nn

from incasem_like.errors import ConfigError
from incasem_like.networks.geometry import NetworkGeometry

if TYPE_CHECKING:
    from incasem_like.config.network_sections import CustomModel


class Custom:
    """A ``torch.nn.Module`` that the user wrote.

    It is called as ``Class(in_channels=..., num_fmaps_out=..., **model.options)``, and maps (b, in_channels, z, y, x)
    in [-1, 1] to logits (b, num_fmaps_out, z', y', x'), or without z for a 2-D network.
    """

    @classmethod
    def from_config(cls, model: CustomModel) -> nn.Module:
        """Build the user's network.

        Raises:
            ConfigError: The class cannot be imported, is not a ``torch.nn.Module``, or does not take these arguments.
        """
        made = _class_of(model.module)
        try:
            network = made(in_channels=model.in_channels, num_fmaps_out=model.num_fmaps_out, **model.options)
        except Exception as error:  # whatever a class of the user's raises
            raise ConfigError(
                f"model.module {model.module} cannot be made ({error}): it is called with in_channels, num_fmaps_out "
                "and model.options."
            ) from error
        network.geometry = cls.geometry_of(model)  # type: ignore[assignment]
        return network

    @staticmethod
    def geometry_of(model: CustomModel) -> NetworkGeometry:
        """Return the declared sizes.

        Raises:
            ConfigError: The output is not centred in the input.
        """
        lost = tuple(large - small for large, small in zip(model.input_size, model.output_size, strict=True))
        if min(lost) < 0:
            raise ConfigError(
                f"model.output_size {list(model.output_size)} is larger than model.input_size "
                f"{list(model.input_size)}: correct one of them."
            )
        return NetworkGeometry(model.input_size, model.stride, lost, model.halo)


def _class_of(address: str) -> type[nn.Module]:
    module, _, name = address.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"model.module {address} cannot be imported ({error}): correct the name, or set PYTHONPATH to the folder "
            "that holds it."
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(f"model.module {address} is not a torch.nn.Module: name a class of networks.")
    return found
