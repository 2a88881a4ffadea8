"""A training run made from a checkpoint file alone: the network is inferred from tensors, the rest is default."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incasem_like.config import TrainingConfig, resolve_training_config
from incasem_like.config.reading import read_keys
from incasem_like.errors import CheckpointError, InputError
from incasem_like.models import PortableModel
from incasem_like.networks import (
    Checkpoint,
    build_network,
    geometry_in_volumes,
    load_checkpoint,
    network_geometry,
    read_checkpoint,
)
from incasem_like.pretrained.foreign import ForeignRun, blank_document, origin, translate
from incasem_like.pretrained.manifest import PublishedModel
from incasem_like.tracking.model.cache import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]
_DEFAULT_KERNELS = [[3, 3, 3], [3, 3, 3]]


@dataclass(frozen=True)
class ImportedCheckpoint:
    """A checkpoint file to be imported into a run.

    ``iteration`` is the number of updates the network had seen; 0 unless the user or the file gave it
    (``iteration_known``). ``url`` is where it was published, or None.
    """

    path: Path
    sha256: str
    iteration: int
    iteration_known: bool
    url: str | None = None


def read_imported(path: Path, iteration: int | None = None, url: str | None = None) -> ImportedCheckpoint:
    """Read the metadata of a checkpoint file; by default the number of updates is the count of its Adam."""
    content = read_whole(path)
    counted = iteration if iteration is not None else updates_seen(content)
    return ImportedCheckpoint(path, file_sha256(path), counted or 0, counted is not None, url)


def read_whole(path: Path) -> Checkpoint:
    """Read a checkpoint file and verify the checksums of its parts, which loading alone does not do.

    Raises:
        CheckpointError: It is missing, damaged, or holds more than tensors and plain values.
    """
    content = read_checkpoint(path)
    spoilt: str | None = None
    try:
        if zipfile.is_zipfile(path):  # the format of torch before 1.6 has no checksums
            with zipfile.ZipFile(path) as archive:
                spoilt = archive.testzip()
    except Exception:  # a damaged archive fails in many ways
        spoilt = path.name
    if spoilt is not None:
        raise CheckpointError(f"{path} is damaged (the checksum of {spoilt} is wrong): fetch it again.")
    return content


def check_fits(path: Path, config: Mapping[str, Any]) -> None:
    """Check that a checkpoint fits the network of a configuration; the error names the first tensor that differs."""
    load_checkpoint(path, build_network(resolve_training_config(config).model))


def run_of_checkpoint(
    checkpoint: ImportedCheckpoint,
    *,
    run_id: int | None = None,
    model: PublishedModel | None = None,
    name: str | None = None,
    voxel_size: Sequence[float] | None = None,
    config_file: Path | None = None,
    architecture: Architecture | None = None,
) -> ForeignRun:
    """Make a training run from a checkpoint.

    Args:
        checkpoint: The file.
        run_id: The id of the training that it comes from; None where that is not known.
        model: Its entry in the list of published models, or None.
        name: The run's name; by default that of the model or file.
        voxel_size: Voxel size in nm, z, y, x; by default that of the model or the configuration file.
        config_file: Configuration it was trained with, this project's or incasem's; by default incasem's defaults.
        architecture: Its network; by default recognized from its weights.

    Raises:
        CheckpointError: This package cannot build its network.
        ConfigError: The configuration file cannot be used.
        InputError: The voxel size that it was trained at is not given.
    """
    content = read_checkpoint(checkpoint.path)
    given = {} if config_file is None else translate(read_keys(config_file), f"in {config_file}").config
    found = architecture or recognize(content.network_state, checkpoint.path)
    given = {**found.values, **given}
    voxels = voxel_size or (model.voxel_size if model is not None else None)
    if voxels is None and "voxel_size" not in given.get("data", {}):
        raise InputError(
            f"The voxel size at which {checkpoint.path.name} was trained is not known: add --voxel_size Z Y X in nm."
        )
    config = _config(found, given, voxels, f"of {checkpoint.path.name}")
    check_fits(checkpoint.path, config)
    name = name or (model.name if model is not None else checkpoint.path.stem)
    identity = f"checkpoint of sha256 {checkpoint.sha256}"
    assumed = [] if config_file is not None else [*found.assumed, "training", "validation", "loss"]
    info = {**origin(identity, str(checkpoint.path), run_id), "translation": {"assumed": assumed}}
    tags: tuple[str, ...] = ()
    if model is not None:
        described = {"organelle": model.organelle, "fixation": model.fixation, "voxel_size": list(model.voxel_size)}
        info["model"], tags = described, ("pretrained", *model.name.split("_"))
    file = checkpoint.path.name
    comment = f"imported from the checkpoint {file}; how it was trained is not known, incasem's defaults stand"
    iteration = checkpoint.iteration if checkpoint.iteration_known else None
    return ForeignRun(run_id, name, identity, blank_document(run_id, name, comment, config, info, tags, iteration))


def run_of_portable(model: PortableModel, path: Path, name: str | None = None) -> ForeignRun:
    """Make a training run of a portable model that was read from a file or package."""
    described, identity = model.description, f"portable model of sha256 {model.identity}"
    name = name or described.name
    info = {
        **origin(identity, str(path), described.training.run_id),
        "portable": described.model_dump(mode="json", exclude={"config"}),
    }
    came, config = described.training, described.training_config.model_dump(mode="json")
    comment = f"imported from {path.name}: there training run {came.run_id}, iteration {came.iteration}"
    document = blank_document(None, name, comment, config, info, ("imported",), came.iteration)
    return ForeignRun(None, name, identity, document)


def _config(
    found: Architecture, given: Mapping[str, Any], voxel_size: Sequence[float] | None, source: str
) -> dict[str, Any]:
    """Assemble a configuration: values of the file, else defaults, with the network inferred from the tensors."""
    assumed = {key.removeprefix("model.") for key in found.assumed}
    model = {**given.get("model", {}), **{key: value for key, value in found.model.items() if key not in assumed}}
    model = {**{key: found.model[key] for key in assumed}, **model}
    # Independent channels are not classes.
    classes = 2 if model.get("outputs") or given.get("targets") else int(model["num_fmaps_out"])
    if classes < 2:
        raise CheckpointError(
            f"The network {source} has {classes} output channel, but a class needs one each: use another."
        )
    data = {**given.get("data", {}), "num_classes": classes}
    data |= {"voxel_size": list(voxel_size)} if voxel_size is not None else {}
    values: dict[str, Any] = {**given, "model": model, "data": data}
    if len(values.get("loss", {}).get("weight", (1.0, 1.0))) != classes:
        values["loss"] = {**values.get("loss", {}), "weight": [1.0] * classes}
    if not given and len(set(data["voxel_size"])) > 1:
        values["training"] = {"augmentation": {"simple": None, "elastic": None}}
    config = TrainingConfig.from_values(values, lambda _key: source)
    return _with_fitting_blocks(config.model_dump(mode="json"), config)


def _with_fitting_blocks(values: dict[str, Any], config: TrainingConfig) -> dict[str, Any]:
    """Replace block sizes that the network does not take by the nearest valid ones."""
    geometry = geometry_in_volumes(network_geometry(config.model))
    for section in ("training", "validation"):
        wanted = values[section]["input_size_voxels"]
        below, above = geometry.nearest_valid(wanted)
        size = list(below or above)
        output = list(geometry.output_size(size))
        if (size, output) != (wanted, values[section]["output_size_voxels"]):
            values[section] |= {"input_size_voxels": size, "output_size_voxels": output}
    simple = values["training"]["augmentation"]["simple"]
    sizes = list(zip(*(values["training"][f"{way}_size_voxels"] for way in ("input", "output")), strict=True))
    if simple is not None and len({sizes[axis] for axis in simple["transpose_only"]}) > 1:
        simple["transpose_only"] = [1, 2] if sizes[1] == sizes[2] else []
    return values


@dataclass(frozen=True)
class Architecture:
    """A network's ``model`` section.

    Attributes:
        model: Its keys.
        assumed: Keys that cannot be inferred from tensors, so that the default is used.
        values: Other sections of the configuration that are known.
    """

    model: dict[str, Any]
    assumed: tuple[str, ...]
    values: Mapping[str, Any] = field(default_factory=dict)


def recognize(state: State, path: Path) -> Architecture:
    """Infer the architecture of a network from its weights, by parameter names without the prefixes of wrappers.

    Raises:
        CheckpointError: This package cannot build such a network.
    """
    if set(state) == {"layer.weight", "layer.bias"}:
        weight = _weight(state, "layer", path)
        return Architecture(
            {"type": "OneConv3d", "in_channels": int(weight.shape[1]), "num_fmaps_out": int(weight.shape[0])}, ()
        )
    if "conv_pass_task.conv_pass.0.weight" in state:
        raise CheckpointError(
            f"{path} holds a MultitaskUnet, which cannot be used here: name the checkpoint of a Unet."
        )
    levels = _count(state, r"unet\.l_conv\.(\d+)\.")
    if levels < 2 or not state.keys() >= {"final_conv_pass.conv_pass.0.weight", "unet.l_conv.0.conv_pass.0.weight"}:
        raise CheckpointError(
            f"{path} is not a Unet with incasem's parameter names (its first tensor is {next(iter(state))}): convert "
            "the names first."
        )
    first, second = (_weight(state, f"unet.l_conv.{level}.conv_pass.0", path) for level in (0, 1))
    final = _weight(state, "final_conv_pass.conv_pass.0", path)
    down = [_kernels(state, f"unet.l_conv.{level}", path) for level in range(levels)]
    up = [_kernels(state, f"unet.r_conv.0.{level}", path) for level in range(levels - 1)]
    learnt = "unet.r_up.0.0.up.weight" in state
    factors = [[2, 2, 2]] * (levels - 1)
    if learnt:
        factors = [list(_weight(state, f"unet.r_up.0.{level}.up", path).shape[2:]) for level in range(levels - 1)]
    model = {
        "type": "Unet",
        "in_channels": int(first.shape[1]),
        "num_fmaps": int(first.shape[0]),
        "num_fmaps_out": int(final.shape[0]),
        "fmap_inc_factor": int(second.shape[0]) // int(first.shape[0]),
        "downsample_factors": factors,
        "kernel_size_down": None if all(kernels == _DEFAULT_KERNELS for kernels in down) else down,
        "kernel_size_up": None if all(kernels == _DEFAULT_KERNELS for kernels in up) else up,
        "constant_upsample": not learnt,
    }
    return Architecture(model, () if learnt else ("model.downsample_factors",))


def updates_seen(checkpoint: Checkpoint) -> int | None:
    """Return the number of updates of a network when it was saved, from its Adam state; None without one."""
    states = (checkpoint.optimizer_state or {}).get("state")
    if not isinstance(states, Mapping):
        return None
    steps = [int(entry["step"]) for entry in states.values() if isinstance(entry, Mapping) and "step" in entry]
    return max(steps, default=None)


def _kernels(state: State, block: str, path: Path) -> list[list[int]]:
    count = _count(state, re.escape(block) + r"\.conv_pass\.(\d+)\.weight")
    # activations take every other number
    return [list(_weight(state, f"{block}.conv_pass.{index}", path).shape[2:]) for index in range(0, count, 2)]


def _count(state: State, pattern: str) -> int:
    """Return one more than the largest number that a pattern finds in the names, 0 if it finds none."""
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=-1)


def _weight(state: State, layer: str, path: Path) -> Tensor:
    weight = state.get(f"{layer}.weight")
    if weight is None:
        raise CheckpointError(f"{path} is not a complete Unet: it lacks {layer}.weight; use another file.")
    if weight.dim() != 5:
        raise CheckpointError(
            f"{path} is not a network for volumes ({layer}.weight has {weight.dim()} axes): use another."
        )
    return weight
