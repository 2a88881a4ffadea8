"""The bioimage.io package: a portable model with TorchScript weights and a description that other programs read.

Format: https://github.com/bioimage-io/spec-bioimage-io, model description 0.5. The package also contains the portable
model itself, from which it is imported again, so that no TorchScript has to be executed for that.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from incasem_like.config.network_sections import OutputSection
from incasem_like.disk import write_whole
from incasem_like.errors import CheckpointError, ConfigError
from incasem_like.models.portable import Array, Description, PortableModel, group_arrays, in_range, read_portable
from incasem_like.networks import network_geometry, on_volumes
from incasem_like.samples.regions import RAW_SCALES

FORMAT_VERSION = "0.5.14"
RDF, PORTABLE, WEIGHTS, README = "rdf.yaml", "model.safetensors", "weights.torchscript.pt", "README.md"
# Names under which the description of a package was stored at other times.
_DESCRIPTIONS = (RDF, "bioimageio.yaml", "model.yaml")
_EARLIEST = (1980, 1, 1, 0, 0, 0)  # that zip can store; the same model always gives the same bytes
_POSTPROCESSING: Mapping[str, list[dict[str, Any]]] = {
    "softmax": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
    "sigmoid": [{"id": "sigmoid"}],
    "none": [],
}


class Grouped(nn.Module):
    """A network that returns the logits of each group of channels by themselves, as a package declares them.

    Args:
        network: Maps (batch, channels, z, y, x) to logits.
        channels: Number of channels of each group.
    """

    def __init__(self, network: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        self.network, self.channels = network, list(channels)

    def forward(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Map (batch, channels, z, y, x) to a tuple of logits."""
        return torch.split(self.network(raw), self.channels, dim=1)


def write_package(model: PortableModel, path: Path) -> None:
    """Write a bioimage.io package of a portable model, atomically.

    Raises:
        ConfigError: TorchScript cannot represent the network: it fails, or gives other values.
    """
    script, resizes = torchscript(model)
    files = {PORTABLE: model.to_bytes(), WEIGHTS: script, README: _readme(model.description).encode()}
    for name, values in _tests(model).items():
        buffer = io.BytesIO()
        np.save(buffer, values)
        files[f"{name}.npy"] = buffer.getvalue()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[RDF] = yaml.safe_dump(package_description(model, hashes, resizes), sort_keys=False).encode()

    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files):
                archive.writestr(zipfile.ZipInfo(name, _EARLIEST), files[name])

    write_whole(path, write)


def is_package(path: Path) -> bool:
    """Return whether a path is a bioimage.io package, as a zip or a folder.

    Example:
        >>> with zipfile.ZipFile("model.zip", "w") as archive:
        ...     archive.writestr("rdf.yaml", "type: model")
        >>> is_package(Path("model.zip"))
        True
    """
    if path.is_dir():
        return any((path / name).is_file() for name in _DESCRIPTIONS)
    try:
        with zipfile.ZipFile(path) as archive:
            return not set(_DESCRIPTIONS).isdisjoint(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_package(path: Path) -> PortableModel:
    """Read the portable model in a package.

    Raises:
        CheckpointError: The package is damaged, or was made by another program, so that it holds no portable model.
    """
    if path.is_dir():
        if (path / PORTABLE).is_file():
            return read_portable(path / PORTABLE)
        described = next(path / name for name in _DESCRIPTIONS if (path / name).is_file()).read_bytes()
        raise _without_portable(path, described)
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory(prefix="incasem-import-") as folder:
            if PORTABLE not in archive.namelist():
                name = next(name for name in _DESCRIPTIONS if name in archive.namelist())
                raise _without_portable(path, archive.read(name))
            return read_portable(Path(archive.extract(PORTABLE, folder)), path)
    except (zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): fetch it again.") from error


def _without_portable(path: Path, description: bytes) -> CheckpointError:
    try:
        weights = ", ".join(yaml.safe_load(description)["weights"])
    except (yaml.YAMLError, KeyError, TypeError):
        return CheckpointError(f"{path} is damaged (its description cannot be read): fetch it again.")
    return CheckpointError(
        f"{path} holds weights as {weights} alone, which are pickled or belong to another program: import a package or "
        "file that incasem-like models export wrote."
    )


def torchscript(model: PortableModel) -> tuple[bytes, bool]:
    """Trace the network.

    Returns:
        The TorchScript, and whether it takes inputs of other sizes than that of the test too.

    Raises:
        ConfigError: It cannot be traced, or gives other values for the test crop.
    """
    description = model.description
    volumes = on_volumes(model.network(), network_geometry(description.training_config.model))
    network = Grouped(volumes, [group.channels for group in description.outputs]).eval()
    raw = in_range(model.test_input)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # sizes are compared while it is traced, and torch warns of any comparison
        try:
            traced = torch.jit.trace(network, raw, check_trace=False)  # type: ignore[no-untyped-call]
            # Other values too: those computed outside torch became constants of the test crop.
            others = torch.rand(raw.shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
            same = all(_agree(traced(one), network(one), description.test.tolerance) for one in (raw, others))
        except (RuntimeError, TypeError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"The network cannot be converted to TorchScript ({first}): export it with --format safetensors."
            ) from error
        if not same:
            raise ConfigError(
                "As TorchScript the network gives other values than itself: export it with --format safetensors."
            )
        size = [edge + step for edge, step in zip(raw.shape[2:], description.sizes.step, strict=True)]
        larger = torch.rand((*raw.shape[:2], *size), generator=torch.Generator().manual_seed(0)) * 2 - 1
        try:
            resizes = _agree(traced(larger), network(larger), description.test.tolerance)
        except RuntimeError:
            resizes = False
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
    return _without_paths(buffer), resizes


def _without_paths(script: io.BytesIO) -> bytes:
    """Return TorchScript without the places in the source files of this machine that its layers came from."""
    stripped = io.BytesIO()
    with zipfile.ZipFile(script) as archive, zipfile.ZipFile(stripped, "w", zipfile.ZIP_STORED) as kept:
        for entry in archive.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                kept.writestr(zipfile.ZipInfo(entry.filename, _EARLIEST), archive.read(entry))
    return stripped.getvalue()


def package_description(model: PortableModel, hashes: Mapping[str, str], resizes: bool = True) -> dict[str, Any]:
    """Return the content of ``rdf.yaml``.

    Args:
        model: The model.
        hashes: SHA-256 of the files that it names.
        resizes: Whether inputs of all valid sizes can be given; otherwise only that of the test.
    """
    described = model.description

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashes[name]}

    authors = [{"name": name} for name in described.authors]
    scale = RAW_SCALES[model.test_input.dtype.name]
    return {
        "format_version": FORMAT_VERSION,
        "type": "model",
        "name": _plain(described.name),
        "description": f"Network that predicts {_what(described)} at voxels of {_nm(described)} nm",
        **({"authors": authors} if authors else {}),
        **({"license": described.license} if described.license else {}),
        "cite": [one.model_dump() for one in described.citations],
        "documentation": file(README),
        "tags": ["incasem-like", "3d", "segmentation"],
        "attachments": [file(PORTABLE)],
        "inputs": [
            {
                "id": "raw",
                "axes": _input_axes(model, resizes),
                # Values as stored, such as 0 to 255, in the type that the network computes with.
                "data": {"type": "float32"},
                "test_tensor": file("raw.npy"),
                "preprocessing": [{"id": "scale_linear", "kwargs": {"gain": 2 * scale, "offset": -1.0}}],
            }
        ],
        "outputs": [
            {
                "id": group.name,
                "axes": _output_axes(model, group),
                "data": {"type": "float32"},
                "test_tensor": file(f"{group.name}.npy"),
                "postprocessing": _POSTPROCESSING[group.activation],
            }
            for group in described.outputs
        ],
        "weights": {"torchscript": {**file(WEIGHTS), "pytorch_version": torch.__version__.partition("+")[0]}},
        "config": {
            "bioimageio": {
                "reproducibility_tolerance": [
                    {
                        "absolute_tolerance": described.test.tolerance,
                        "relative_tolerance": described.test.tolerance,
                        "mismatched_elements_per_million": 0,
                    }
                ],
                "architecture_type": str(described.config["model"]["type"]),
                "target_structure": list(described.class_names[1:]),
                "task": "segmentation",
            },
            "incasem_like": {
                **described.model_dump(mode="json", include={"training", "lineage", "normalization", "sizes"}),
                "outputs": [group.model_dump(mode="json") for group in described.outputs],
            },
        },
    }


def _input_axes(model: PortableModel, resizes: bool) -> list[dict[str, Any]]:
    described, sizes, halo = model.description, model.description.sizes, _halo(model)
    axes: list[dict[str, Any]] = []
    for axis, name in enumerate("zyx"):
        smallest, step = sizes.smallest_input[axis], sizes.step[axis]
        # Something has to be left of the smallest output once its halo is discarded.
        smallest += step * max(0, -((smallest - sizes.lost[axis] - 2 * halo[axis] - 1) // step))
        size = {"min": smallest, "step": step} if resizes else model.test_input.shape[axis + 1]
        axes.append({**_space(described, axis, name), "size": size})
    channels = [f"raw{number}" for number in range(described.input_channels)]
    return [{"type": "batch"}, {"type": "channel", "channel_names": channels}, *axes]


def _output_axes(model: PortableModel, group: OutputSection) -> list[dict[str, Any]]:
    described, axes = model.description, []
    for axis, (name, halo) in enumerate(zip("zyx", _halo(model), strict=True)):
        size = {"tensor_id": "raw", "axis_id": name, "offset": -described.sizes.lost[axis]}
        axes.append({**_space(described, axis, name), "size": size, **({"halo": halo} if halo else {})})
    names = group.attributes.get("channel_names") or [f"channel{number}" for number in range(group.channels)]
    return [{"type": "batch"}, {"type": "channel", "channel_names": [_plain(name) for name in names]}, *axes]


def _halo(model: PortableModel) -> tuple[int, ...]:
    """Return the halo, but no more than the test's output allows: deep padded networks would need huge tests."""
    edges = model.test_output.shape[1:]
    return tuple(min(halo, (edge - 1) // 2) for halo, edge in zip(model.description.sizes.halo, edges, strict=True))


def _space(described: Description, axis: int, name: str) -> dict[str, Any]:
    return {"type": "space", "id": name, "unit": "nanometer", "scale": described.voxel_size[axis]}


def _tests(model: PortableModel) -> dict[str, Array]:
    groups = model.description.outputs
    outputs = group_arrays(groups, model.test_output)
    raw = model.test_input[None].astype(np.float32)
    return {"raw": raw, **{group.name: part[None] for group, part in zip(groups, outputs, strict=True)}}


def _agree(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: float) -> bool:
    return all(
        one.shape == other.shape and bool((one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max())))
        for one, other in zip(found, expected, strict=True)
    )


def _readme(described: Description) -> str:
    outputs = "\n".join(f"- {group.name}: {_channels(group)}" for group in described.outputs)
    cited = "\n".join(f"- {one.text}, doi {one.doi}" for one in described.citations)
    came = described.training
    return f"""# {described.name}

Predicts {_what(described)} from volumes of {_nm(described)} nm (z, y, x). Raw is divided by the largest value of its
type and mapped to -1 to 1. Volumes of other voxel sizes have to be resampled first.

## Outputs

{outputs}

## Origin

Training run {came.run_id} ({came.name}), iteration {came.iteration}, checkpoint of SHA-256 {came.sha256}.

## Validation

The test crop ({described.test.source}) is reproduced within {described.test.tolerance:g}; `incasem-like models import`
verifies that. How well the model segments other volumes has to be measured on these.

## To cite

{cited}
"""


def _channels(group: OutputSection) -> str:
    further = {key: value for key, value in group.attributes.items() if key not in ("target", "channel_names")}
    names = ", ".join(map(str, group.attributes.get("channel_names") or ()))
    return f"{group.channels} channels, {group.activation} ({names}){f'; {further}' if further else ''}"


def _what(described: Description) -> str:
    return ", ".join(described.class_names[1:]) or ", ".join(group.name for group in described.outputs)


def _nm(described: Description) -> str:
    return " x ".join(f"{edge:g}" for edge in described.voxel_size)


def _plain(name: object) -> str:
    """Return a name of the characters that the format allows."""
    return "".join(sign if sign.isalnum() or sign in "_+-.,() " else "_" for sign in str(name))
