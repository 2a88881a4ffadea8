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
from incasem_like.networks import Checkpoint, build_network, fit_state, geometry_in_volumes, network_geometry
from incasem_like.networks.checkpoints import as_checkpoint, read_content
from incasem_like.pretrained.foreign import ForeignRun, blank_document, origin, translate
from incasem_like.pretrained.manifest import PublishedModel
from incasem_like.tracking.model.cache import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]
OF_CHECKPOINT = "checkpoint of sha256 "  # begins the identity of a run made of a checkpoint alone
_DEFAULT_KERNELS = [[3, 3, 3], [3, 3, 3]]
# The only class in a checkpoint of Lightning is that of its hyperparameters; it is read as a plain dict.
_LIGHTNING = [
    (dict, f"{module}.AttributeDict")
    for module in (
        "lightning_fabric.utilities.data",
        "lightning.fabric.utilities.data",
        "pytorch_lightning.utilities.parsing",
    )
]


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
    url: str | None
    content: Checkpoint = field(compare=False, repr=False)


def read_imported(
    path: Path, iteration: int | None = None, url: str | None = None, content: Any = None
) -> ImportedCheckpoint:
    """Read a checkpoint file, or take its ``content`` if that was read; by default Adam counted the updates."""
    checkpoint = as_checkpoint(read_whole(path) if content is None else content, path)
    counted = updates_seen(checkpoint) if iteration is None else iteration
    return ImportedCheckpoint(path, file_sha256(path), counted or 0, counted is not None, url, checkpoint)


def read_whole(path: Path) -> Any:
    """Read the content of a checkpoint file, of Lightning too, and verify the checksums of its parts.

    Raises:
        CheckpointError: It is missing, damaged, or holds more than tensors and plain values.
    """
    content = read_content(path, _LIGHTNING)
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


def check_fits(checkpoint: ImportedCheckpoint, config: Mapping[str, Any]) -> None:
    """Check that a checkpoint fits the network of a configuration; the error names the first tensor that differs."""
    network = build_network(resolve_training_config(config).model)
    fit_state(network, checkpoint.content.network_state, checkpoint.path)


def run_of_checkpoint(
    checkpoint: ImportedCheckpoint,
    *,
    run_id: int | None = None,
    model: PublishedModel | None = None,
    name: str | None = None,
    voxel_size: Sequence[float] | None = None,
    config_file: Path | None = None,
    known: Mapping[str, Any] | None = None,
) -> ForeignRun:
    """Make a training run from a checkpoint.

    Args:
        checkpoint: The file.
        run_id: The id of the training that it comes from; None where that is not known.
        model: Its entry in the list of published models, or None.
        name: The run's name; by default that of the model or file.
        voxel_size: Voxel size in nm, z, y, x; by default that of the model or the configuration file.
        config_file: Configuration it was trained with, this project's or incasem's; by default incasem's defaults.
        known: Sections of its configuration, ``model`` among them; by default the network is recognized.

    Raises:
        CheckpointError: This package cannot build its network.
        ConfigError: The configuration file cannot be used.
        InputError: The voxel size that it was trained at is not given.
    """
    given = {} if config_file is None else translate(read_keys(config_file), f"in {config_file}").config
    assumed: tuple[str, ...] = ()
    if known is None:
        network, assumed = recognize(checkpoint.content.network_state, checkpoint.path)
        network |= {key: given["model"][key] for key in assumed if key in given.get("model", {})}
        known = {"model": network}
    voxels = voxel_size or (model.voxel_size if model is not None else None)
    if voxels is None and "voxel_size" not in given.get("data", {}):
        raise InputError(
            f"The voxel size at which {checkpoint.path.name} was trained is not known: add --voxel_size Z Y X in nm."
        )
    config = _config({**known, **given}, known["model"], voxels, f"of {checkpoint.path.name}")
    check_fits(checkpoint, config)
    file, iteration = checkpoint.path.name, checkpoint.iteration if checkpoint.iteration_known else None
    name = name or (model.name if model is not None else checkpoint.path.stem)
    identity = f"{OF_CHECKPOINT}{checkpoint.sha256}"
    guessed = [*(f"model.{key}" for key in assumed), "training", "validation", "loss"] if config_file is None else []
    info = {**origin(identity, str(checkpoint.path), run_id), "translation": {"assumed": guessed}}
    tags: tuple[str, ...] = ()
    if model is not None:
        described = {"organelle": model.organelle, "fixation": model.fixation, "voxel_size": list(model.voxel_size)}
        info["model"], tags = described, ("pretrained", *model.name.split("_"))
    comment = f"imported from the checkpoint {file}; how it was trained is not known, incasem's defaults stand"
    return ForeignRun(run_id, name, identity, blank_document(run_id, name, comment, config, info, tags, iteration))


def run_of_portable(model: PortableModel, path: Path, name: str | None = None) -> ForeignRun:
    """Make a training run of a portable model that was read from a file or package."""
    described, identity = model.description, f"portable model of sha256 {model.identity}"
    name, came = name or described.name, described.training
    portable = described.model_dump(mode="json", exclude={"config"})
    info = {**origin(identity, str(path), came.run_id), "portable": portable}
    comment = f"imported from {path.name}: there training run {came.run_id}, iteration {came.iteration}"
    config = described.training_config.model_dump(mode="json")
    document = blank_document(None, name, comment, config, info, ("imported",), came.iteration)
    return ForeignRun(None, name, identity, document)


def _config(
    given: Mapping[str, Any], network: Mapping[str, Any], voxel_size: Sequence[float] | None, source: str
) -> dict[str, Any]:
    """Assemble a configuration: what is given, else defaults, with that network and blocks of sizes that it takes."""
    model = {**given["model"], **network}
    # Independent channels are not classes.
    classes = 2 if model.get("outputs") or given.get("targets") else int(model["num_fmaps_out"])
    if classes < 2:
        raise CheckpointError(
            f"The network {source} has {classes} output channel, but a class needs one each: use another."
        )
    data = {**given.get("data", {}), "num_classes": classes}
    data |= {"voxel_size": list(voxel_size)} if voxel_size is not None else {}
    sections: dict[str, Any] = {**given, "model": model, "data": data}
    if len(sections.get("loss", {}).get("weight", (1.0, 1.0))) != classes:
        sections["loss"] = {**sections.get("loss", {}), "weight": [1.0] * classes}
    if given.keys() == {"model"} and len(set(data["voxel_size"])) > 1:
        sections["training"] = {"augmentation": {"simple": None, "elastic": None}}
    config = TrainingConfig.from_values(sections, lambda _key: source)
    values = config.model_dump(mode="json")
    geometry = geometry_in_volumes(network_geometry(config.model))
    for section in ("training", "validation"):
        wanted = values[section]["input_size_voxels"]
        below, above = geometry.nearest_valid(wanted)
        size = list(below or above)
        values[section] |= {"input_size_voxels": size, "output_size_voxels": list(geometry.output_size(size))}
    simple = values["training"]["augmentation"]["simple"]
    sizes = list(zip(*(values["training"][f"{way}_size_voxels"] for way in ("input", "output")), strict=True))
    if simple is not None and len({sizes[axis] for axis in simple["transpose_only"]}) > 1:
        simple["transpose_only"] = [1, 2] if sizes[1] == sizes[2] else []
    return values


def recognize(state: State, path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Infer the ``model`` section of a network from its weights, by parameter names without prefixes of wrappers.

    Returns it, and those of its keys that tensors do not tell, which have the default.

    Raises:
        CheckpointError: This package cannot build such a network.
    """
    if set(state) == {"layer.weight", "layer.bias"}:
        out, into = _shape(state, "layer", path)[:2]
        return {"type": "OneConv3d", "in_channels": into, "num_fmaps_out": out}, ()
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

    def kernels(block: str) -> list[list[int]]:
        count = _count(state, re.escape(block) + r"\.conv_pass\.(\d+)\.weight")
        # activations take every other number
        return [_shape(state, f"{block}.conv_pass.{index}", path)[2:] for index in range(0, count, 2)]

    first, second = (_shape(state, f"unet.l_conv.{level}.conv_pass.0", path) for level in (0, 1))
    down = [kernels(f"unet.l_conv.{level}") for level in range(levels)]
    up = [kernels(f"unet.r_conv.0.{level}") for level in range(levels - 1)]
    learnt = "unet.r_up.0.0.up.weight" in state
    factors = [
        _shape(state, f"unet.r_up.0.{level}.up", path)[2:] if learnt else [2, 2, 2] for level in range(levels - 1)
    ]
    model = {
        "type": "Unet",
        "in_channels": first[1],
        "num_fmaps": first[0],
        "num_fmaps_out": _shape(state, "final_conv_pass.conv_pass.0", path)[0],
        "fmap_inc_factor": second[0] // first[0],
        "downsample_factors": factors,
        "kernel_size_down": None if all(kernel == _DEFAULT_KERNELS for kernel in down) else down,
        "kernel_size_up": None if all(kernel == _DEFAULT_KERNELS for kernel in up) else up,
        "constant_upsample": not learnt,
    }
    return model, () if learnt else ("downsample_factors",)


def updates_seen(checkpoint: Checkpoint) -> int | None:
    """Return the number of updates of a network when it was saved, from its Adam state; None without one."""
    states = (checkpoint.optimizer_state or {}).get("state")
    if not isinstance(states, Mapping):
        return None
    steps = [int(entry["step"]) for entry in states.values() if isinstance(entry, Mapping) and "step" in entry]
    return max(steps, default=None)


def _count(state: State, pattern: str) -> int:
    """Return one more than the largest number that a pattern finds in the names, 0 if it finds none."""
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=-1)


def _shape(state: State, layer: str, path: Path) -> list[int]:
    """Return the shape of a layer's weights: out, in, and the kernel's z, y, x."""
    weight = state.get(f"{layer}.weight")
    if weight is None:
        raise CheckpointError(f"{path} is not a complete Unet: it lacks {layer}.weight; use another file.")
    if weight.dim() != 5:
        raise CheckpointError(
            f"{path} is not a network for volumes ({layer}.weight has {weight.dim()} axes): use another."
        )
    return list(weight.shape)
