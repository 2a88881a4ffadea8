"""One optimisation step: network, loss, optimizer and mixed precision on the chosen device."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.plugins.precision import MixedPrecision, Precision
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from incasem_like.networks import (
    build_network,
    enough_memory,
    geometry_in_volumes,
    load_checkpoint,
    network_geometry,
    on_volumes,
    save_checkpoint,
    torch_device,
)
from incasem_like.targets import channel_slices, targets_of
from incasem_like.targets.losses import summed_by
from incasem_like.training.optimizers import make_optimizer
from incasem_like.training.processes import announce, local_device, world_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from incasem_like.config import ModelConfig, TorchConfig, TrainingConfig


def make_fabric(config: TorchConfig) -> tuple[Fabric, Any]:
    """Return the Fabric of a training and its precision plugin; its ``state_dict`` is that of the gradient scaler."""
    device = torch_device(config)
    if config.precision == "fp32":
        precision = Precision()
    else:
        precision = MixedPrecision("bf16-mixed" if config.precision == "bf16" else "16-mixed", device=device.type)
    devices = [device.index] if device.type == "cuda" else 1
    # Without a named environment, Fabric would compare its one device with the tasks of a Slurm job and refuse.
    plugins = [precision, LightningEnvironment()]
    return Fabric(accelerator=device.type, devices=devices, plugins=plugins), precision


CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
WATCHED = 10  # updates before a checkpoint in which a map without any gradient counts as dead
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
        """Return a sentence on layers where many maps had no gradient since the last report; None if there are none.

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


TOO_LARGE = (
    "lower training.input_size_voxels with training.output_size_voxels, training.batch_size or model.num_fmaps, "
    "raise training.accumulate, or set torch.precision=bf16"
)


def seeded_network(model: ModelConfig, seed: int) -> nn.Module:
    """Build a network whose initial weights depend on ``seed`` only; torch's global generator is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(model)


@dataclass(frozen=True)
class Update:
    """The outcome of one optimisation step.

    Attributes:
        losses: ``loss`` before the update and, of several targets, ``loss_<name>`` of each.
        logits: (b, channels, z', y', x') on the device, without graph.
        problem: What is not finite, as the beginning of a sentence; then nothing was updated.
    """

    losses: dict[str, float]
    logits: torch.Tensor
    problem: str | None = None


class Optimization:
    """Network, targets and optimizer, set up for one device.

    Attributes:
        network: The network on the device, without wrappers.
        averaged: The moving average of its weights; None without one.
        validated: The network that is validated: the average, if there is one. A 2-D network is applied to the
            sections of volumes.
        geometry: Sizes z, y, x of these volumes.
        optimizer: The optimizer, without wrappers.
        targets: What it learns, in the order of its channels.
        device: Device that batches are copied to.
        dead_units: The feature maps that the last watched steps gave no gradient.
    """

    def __init__(self, config: TrainingConfig, network: nn.Module) -> None:
        self.network = network
        self._fabric, self._precision = make_fabric(local_device(config.torch))
        self.device: torch.device = self._fabric.device
        self._format = torch.channels_last_3d if config.torch.channels_last else torch.contiguous_format
        geometry = network_geometry(config.model)
        if geometry.dims == 3:
            network.to(memory_format=self._format)  # type: ignore[call-overload]
        self.geometry = geometry_in_volumes(geometry)
        self.optimizer = make_optimizer(config.training.optimizer, network)
        self._hyperparameters = [
            {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
        ]
        self.targets, self._stage_weights = targets_of(config), config.training.stage_weights
        self._parts, self._longest = config.training.accumulate, config.training.clip_gradient_norm
        self.dead_units = DeadUnits(network)
        applied = on_volumes(network, geometry)
        model: nn.Module = torch.compile(applied) if config.torch.compile else applied  # type: ignore[assignment]
        self._wrapped = None
        if world_size() > 1:
            if self.device.type == "cuda":
                nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
            self._wrapped = model = nn.parallel.DistributedDataParallel(model.to(self.device))
        self._model, self._optimizer = self._fabric.setup(model, self.optimizer)
        self.averaged: AveragedModel | None = None
        self.validated: nn.Module = applied
        if config.training.ema_decay is not None:
            # The average of the weights; running statistics of batch normalisation are those of the network.
            average = get_ema_multi_avg_fn(config.training.ema_decay)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(network, multi_avg_fn=average)
            self.validated = on_volumes(self.averaged.module, geometry)

    def step(self, batch: Mapping[str, Any], rate: float, *, watch: bool = False) -> Update:
        """Compute the loss of a batch and, when it and its gradient are finite, update the network once.

        Args:
            batch: raw (b, c, z, y, x) float32; targets: by name, target and weight of the network's output size.
            rate: Learning rate of this update.
            watch: Whether to note in ``dead_units`` which feature maps have a gradient.

        Raises:
            IncasemError: Memory does not suffice.
        """
        announce(rate)
        with enough_memory(TOO_LARGE):
            return self._step(batch, rate, watch)

    def follow(self, batch: Mapping[str, Any]) -> float:
        """Do the step that the leading process of the training announces; return its learning rate."""
        rate = announce(0.0)
        if rate >= 0:
            with enough_memory(TOO_LARGE):
                self._step(batch, rate, watch=False)
        return rate

    def _step(self, batch: Mapping[str, Any], rate: float, watch: bool) -> Update:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums, logits, problem = torch.zeros(0), [], None
        for number in range(self._parts):
            values, part = self._backward(_part(batch, number, self._parts), last=number == self._parts - 1)
            sums = values if number == 0 else sums + values
            logits.append(part)
            if not math.isfinite(values[0]):
                problem = f"The loss became {float(values[0])}"
                break
        if problem is None:
            problem = self._unusable_gradient()
        if problem is None:
            if watch:
                self.dead_units.look()
            self._optimizer.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.network)
        self._optimizer.zero_grad(set_to_none=True)
        names = [f"loss_{target.name}" for target in self.targets] if len(self.targets) > 1 else []
        losses = dict(zip(["loss", *names], sums.tolist(), strict=False))
        return Update(losses, logits[0] if len(logits) == 1 else torch.cat(logits), problem)

    def _backward(self, part: Mapping[str, Any], *, last: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the gradient of a part of the batch, if its loss is finite.

        Returns:
            The part's share of the loss and of the losses of the targets; and its logits.
        """
        raw = part["raw"].to(self.device, memory_format=self._format, non_blocking=True)
        # Processes exchange their gradients after the last part.
        with nullcontext() if last or self._wrapped is None else self._wrapped.no_sync():
            outputs = self._model(raw)
            stages = outputs if isinstance(outputs, list | tuple) else [outputs]
            with summed_by(all_reduce) if self._wrapped is not None else nullcontext():
                losses = self._losses(stages, part["targets"])
            weighted = [target.weight * one for target, one in zip(self.targets, losses, strict=True)]
            loss = sum(weighted[1:], weighted[0]) / self._parts
            values = torch.stack([loss.detach(), *(one.detach() / self._parts for one in losses)]).cpu()
            if math.isfinite(values[0]):
                self._fabric.backward(loss)
        return values, stages[-1].detach()

    def _unusable_gradient(self) -> str | None:
        """Shorten the gradient if there is a limit, and return what is wrong with it, if anything."""
        if self._longest is not None:
            norm = self._fabric.clip_gradients(
                self._model, self._optimizer, max_norm=self._longest, error_if_nonfinite=False
            )
        elif not self.scaler_state():
            norm = nn.utils.get_total_norm([one.grad for one in self.network.parameters() if one.grad is not None])
        if self.scaler_state():  # it skips such updates, which occur while it searches for its scale
            return None
        assert norm is not None
        return None if math.isfinite(norm) else f"The gradient became {float(norm)}"

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
        """Write the two-key checkpoint; of the average of weights, if there is one."""
        network = self.network if self.averaged is None else self.averaged.module
        save_checkpoint(path, network, self.optimizer)

    def weights_beside_average(self) -> dict[str, torch.Tensor]:
        """Return the weights that checkpoints lack, since they hold their average; empty without an average."""
        state = {} if self.averaged is None else self.network.state_dict()
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def load(self, path: Path, weights: Mapping[str, torch.Tensor] | None = None) -> None:
        """Read a two-key checkpoint; the optimizer's settings are those of the configuration.

        Args:
            path: The checkpoint.
            weights: The weights whose average the checkpoint holds.

        Raises:
            CheckpointError: It is missing, damaged, without optimizer, or of another architecture.
        """
        load_checkpoint(path, self.network, self.optimizer)
        self._use_configured_settings()
        if self.averaged is not None and weights:
            self.averaged.module.load_state_dict(self.network.state_dict())
            self.averaged.n_averaged.fill_(1)  # 0 would begin a new average
            self.network.load_state_dict(dict(weights))

    def start_from(self, path: Path, *, keep_optimizer: bool) -> None:
        """Load the weights of another training; the optimizer's settings are those of the configuration.

        Args:
            path: A checkpoint, or a file of bare weights.
            keep_optimizer: Whether to load the optimizer's moments too; otherwise they start at zero.

        Raises:
            CheckpointError: It is missing, damaged, of another architecture, or without the requested moments.
        """
        load_checkpoint(path, self.network, self.optimizer if keep_optimizer else None)
        self._use_configured_settings()

    def state(self) -> bytes:
        """Return the state of network, optimizer and gradient scaler, for the other processes of this training."""
        content = io.BytesIO()
        torch.save((self.network.state_dict(), self.optimizer.state_dict(), self.scaler_state()), content)
        return content.getvalue()

    def load_state(self, state: bytes) -> None:
        """Load the state that another process of this training returned."""
        network, optimizer, scaler = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        self.network.load_state_dict(network)
        self.optimizer.load_state_dict(optimizer)
        self.restore_scaler(scaler)

    def weights_are_finite(self) -> bool:
        """Return whether all weights are finite; a gradient with NaN or Inf spoils them and the optimizer's moments."""
        return all(bool(torch.isfinite(weight).all()) for weight in self.network.parameters())

    def _use_configured_settings(self) -> None:
        for group, own in zip(self.optimizer.param_groups, self._hyperparameters, strict=True):
            group.update(own)

    def scaler_state(self) -> dict[str, Any]:
        """Return the state of the gradient scaler; empty without fp16."""
        return dict(self._precision.state_dict())

    def restore_scaler(self, state: Mapping[str, Any]) -> None:
        """Restore the gradient scaler; a state of another precision is ignored."""
        if state and self._precision.state_dict():
            self._precision.load_state_dict(dict(state))

    @contextmanager
    def numerics(self) -> Iterator[None]:
        """Be in a context in which a CPU computes reproducibly and a GPU may search for its fastest algorithms."""
        deterministic = torch.are_deterministic_algorithms_enabled()
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        with ExitStack() as undo:
            undo.callback(torch.use_deterministic_algorithms, deterministic, warn_only=warn_only)
            undo.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            if self.device.type == "cpu":
                torch.use_deterministic_algorithms(True, warn_only=True)
                # Filling every new tensor, to reveal reads of uninitialized memory, would take a tenth of a step's time
                filling: Any = torch.utils.deterministic
                undo.callback(setattr, filling, "fill_uninitialized_memory", filling.fill_uninitialized_memory)
                filling.fill_uninitialized_memory = False
            else:
                torch.backends.cudnn.benchmark = True
            yield


def _part(batch: Mapping[str, Any], number: int, parts: int) -> Mapping[str, Any]:
    """Return one of the equal parts of a batch, of what a step needs of it."""
    size = len(batch["raw"]) // parts
    chosen = slice(number * size, (number + 1) * size)
    targets = {name: {key: value[chosen] for key, value in made.items()} for name, made in batch["targets"].items()}
    return {"raw": batch["raw"][chosen], "targets": targets}
