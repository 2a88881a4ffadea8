"""One optimisation step: network, loss, Adam and mixed precision on the chosen device, and their checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from incasem_like.networks import (
    build_network,
    enough_memory,
    geometry_in_volumes,
    load_checkpoint,
    network_geometry,
    on_volumes,
    save_checkpoint,
)
from incasem_like.targets import channel_slices, targets_of
from incasem_like.training.fabric import make_fabric

if TYPE_CHECKING:
    from collections.abc import Iterator

    from incasem_like.config import ModelConfig, TrainingConfig


TOO_LARGE = (
    "lower training.input_size_voxels with training.output_size_voxels, training.batch_size or model.num_fmaps, "
    "or set torch.precision=bf16"
)


def seeded_network(model: ModelConfig, seed: int) -> nn.Module:
    """Build a network whose initial weights depend on ``seed`` only; torch's global generator is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(model)


class Optimization:
    """Network, targets and optimizer, set up for one device.

    Attributes:
        network: The network on the device, without wrappers, as checkpoints store it.
        on_volumes: The same for volumes: a 2-D network is applied to their sections.
        geometry: Sizes z, y, x of these volumes.
        optimizer: The Adam optimizer, without wrappers.
        targets: What it learns, in the order of its channels.
        device: Device that batches are copied to.
    """

    def __init__(self, config: TrainingConfig, network: nn.Module) -> None:
        self.network, self._settings = network, config.training.optimizer
        self._fabric, self._precision = make_fabric(config.torch)
        self.device: torch.device = self._fabric.device
        self._format = torch.channels_last_3d if config.torch.channels_last else torch.contiguous_format
        geometry = network_geometry(config.model)
        if geometry.dims == 3:
            network.to(memory_format=self._format)  # type: ignore[call-overload]
        self.on_volumes, self.geometry = on_volumes(network, geometry), geometry_in_volumes(geometry)
        self.optimizer = torch.optim.Adam(
            network.parameters(), lr=self._settings.lr, weight_decay=self._settings.weight_decay
        )
        self.targets, self._stage_weights = targets_of(config), config.training.stage_weights
        model = torch.compile(self.on_volumes) if config.torch.compile else self.on_volumes
        self._model, self._optimizer = self._fabric.setup(model, self.optimizer)

    def step(self, batch: Mapping[str, Any], rate: float) -> tuple[dict[str, float], torch.Tensor]:
        """Compute the loss of a batch and, when it is finite, update the network once.

        Args:
            batch: raw (b, c, z, y, x) float32; targets: by name, target and weight of the network's output size.
            rate: Learning rate of this update.

        Returns:
            ``loss`` before the update and, of several targets, ``loss_<name>`` of each; and the logits
            (b, channels, z', y', x') without graph.

        Raises:
            IncasemError: The GPU runs out of memory.
        """
        with enough_memory(TOO_LARGE):
            return self._step(batch, rate)

    def _step(self, batch: Mapping[str, Any], rate: float) -> tuple[dict[str, float], torch.Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        raw = batch["raw"].to(self.device, memory_format=self._format, non_blocking=True)
        outputs = self._model(raw)
        stages = outputs if isinstance(outputs, list | tuple) else [outputs]
        losses = self._losses(stages, batch["targets"])
        weighted = [target.weight * one for target, one in zip(self.targets, losses, strict=True)]
        loss = sum(weighted[1:], weighted[0])
        values = torch.stack([loss.detach(), *(one.detach() for one in losses)]).tolist()
        if math.isfinite(values[0]):
            self._fabric.backward(loss)
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        names = [f"loss_{target.name}" for target in self.targets] if len(self.targets) > 1 else []
        return dict(zip(["loss", *names], values, strict=False)), stages[-1].detach()

    def _losses(
        self, stages: Sequence[torch.Tensor], targets: Mapping[str, Mapping[str, torch.Tensor]]
    ) -> list[torch.Tensor]:
        """Return the loss of each target: the mean over the outputs of the network's stages."""
        weights = self._stage_weights or (1.0,) * len(stages)
        losses = []
        for target, channels in zip(self.targets, channel_slices(self.targets), strict=True):
            wanted, weight = (
                targets[target.name][key].to(self.device, non_blocking=True) for key in ("target", "weight")
            )
            terms = [
                factor * target.loss_of(logits[:, channels], wanted, weight)
                for factor, logits in zip(weights, stages, strict=True)
            ]
            losses.append(sum(terms[1:], terms[0]) / sum(weights))
        return losses

    def save(self, path: Path) -> None:
        """Write the two-key checkpoint."""
        save_checkpoint(path, self.network, self.optimizer)

    def load(self, path: Path) -> None:
        """Read a two-key checkpoint; weight decay and learning rate are those of the configuration.

        Raises:
            CheckpointError: It is missing, damaged, without optimizer, or of another architecture.
        """
        load_checkpoint(path, self.network, self.optimizer)
        self._use_configured_settings()

    def start_from(self, path: Path, *, keep_optimizer: bool) -> None:
        """Load the weights of another training; learning rate and weight decay are those of the configuration.

        Args:
            path: A checkpoint, or a file of bare weights.
            keep_optimizer: Whether to load the optimizer's moments too; otherwise they start at zero.

        Raises:
            CheckpointError: It is missing, damaged, of another architecture, or without the requested moments.
        """
        load_checkpoint(path, self.network, self.optimizer if keep_optimizer else None)
        self._use_configured_settings()

    def weights_are_finite(self) -> bool:
        """Return whether all weights are finite; a gradient with NaN or Inf spoils them and the optimizer's moments."""
        return all(bool(torch.isfinite(weight).all()) for weight in self.network.parameters())

    def _use_configured_settings(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"], group["weight_decay"] = self._settings.lr, self._settings.weight_decay

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the gradient scaler; empty without fp16."""
        return dict(self._precision.state_dict())

    def restore_scaler(self, state: Mapping[str, Any]) -> None:
        """Restore the gradient scaler; a state of another precision is ignored."""
        if state and self._precision.state_dict():
            self._precision.load_state_dict(dict(state))

    def numerics(self) -> AbstractContextManager[None]:
        """Return a context in which a CPU computes reproducibly and a GPU may search for its fastest algorithms."""
        return _numerics(self.device)


@contextmanager
def _numerics(device: torch.device) -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    with ExitStack() as undo:
        undo.callback(torch.use_deterministic_algorithms, deterministic, warn_only=warn_only)
        undo.callback(setattr, torch.backends.cudnn, "benchmark", benchmark)
        if device.type == "cpu":
            torch.use_deterministic_algorithms(True, warn_only=True)
            # Filling every new tensor, to reveal reads of uninitialized memory, would take a tenth of a step's time.
            filling: Any = torch.utils.deterministic
            undo.callback(setattr, filling, "fill_uninitialized_memory", filling.fill_uninitialized_memory)
            filling.fill_uninitialized_memory = False
        else:
            torch.backends.cudnn.benchmark = True
        yield
