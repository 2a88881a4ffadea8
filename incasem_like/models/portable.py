"""The portable model: weights, description and a verified test in one safetensors file, which no reader executes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors
import torch
from pydantic import Field
from safetensors.torch import save
from torch import nn

from incasem_like.config import TrainingConfig
from incasem_like.config.kinds import Positive, PositiveNumber, Text, VoxelSize
from incasem_like.config.network_sections import OutputSection
from incasem_like.config.section import Document, Section
from incasem_like.disk import write_whole
from incasem_like.errors import CheckpointError, ConfigError
from incasem_like.networks import build_network, fit_state, network_geometry, on_volumes
from incasem_like.prediction.computing.tiles import activated
from incasem_like.samples.regions import RAW_SCALES

SUFFIX = ".safetensors"
VERSION = 1
# Where everything stands in the file: one entry, since several would be stored in no fixed order.
KEY = "incasem_like_model"
NETWORK, TEST_INPUT, TEST_OUTPUT = "network.", "test.input", "test.output"
# Largest difference of a value from 0 to 1 between processors; of other values, relative to the largest.
TOLERANCE = 1e-4
Array = npt.NDArray[Any]
Triple = Annotated[tuple[int, ...], Field(min_length=3, max_length=3)]


class Sizes(Section):
    """Sizes of the network's input and output in voxels, z, y, x."""

    smallest_input: Triple = Field(..., description="The smallest valid input.")
    step: Triple = Field(..., description="Step from one valid input to the next.")
    lost: Triple = Field(..., description="Input minus output, which lies in its centre.")
    halo: Triple = Field(..., description="Outermost output voxels per side that depend on padding: discard them.")


class Normalization(Section):
    """What happens to stored raw before the network."""

    divide_by: dict[Literal["uint8", "uint16", "float"], float] = Field(..., description="By the type of raw.")
    range: tuple[float, float] = Field(..., description="What the values from 0 to 1 are then mapped to.")


class Source(Section):
    """A training run and a checkpoint of it, in the store it was exported from."""

    run_id: int | None = Field(None, description="Its id there.")
    name: str = Field("", description="Its name.")
    iteration: int | None = Field(None, description="Updates that the checkpoint had seen.")
    sha256: str = Field("", description="Of the checkpoint.")


class Citation(Section):
    """What to cite."""

    text: Text = Field(..., description="Authors, title, year.")
    doi: Text = Field(..., description="DOI.")


class Test(Section):
    """The crop that is stored with its expected output."""

    source: Text = Field(..., description="What it is a crop of; noise where it is none.")
    tolerance: PositiveNumber = Field(..., description="Largest difference of a value, relative to the largest over 1.")


class Description(Document):
    """All that stands in a portable model beside its tensors."""

    format: Literal["incasem-like model"] = Field("incasem-like model", description="Marks the format.")
    version: Positive = Field(VERSION, description="Of the format.")
    software: Text = Field(..., description="What wrote it.")
    name: Text = Field(..., description="Of the model.")
    voxel_size: VoxelSize = Field(..., description="nm, z, y, x, of the voxels that the network sees.")
    axes: tuple[str, ...] = Field(("channel", "z", "y", "x"), description="Of test input and output.")
    input_channels: Positive = Field(..., description="Channels of raw.")
    sizes: Sizes = Field(..., description="Input and output sizes.")
    normalization: Normalization = Field(..., description="Of raw.")
    outputs: tuple[OutputSection, ...] = Field(
        ..., description="Groups of output channels in order: activation, names, offsets, sigma."
    )
    class_names: tuple[str, ...] = Field((), description="Of classes, the background first; none without classes.")
    training: Source = Field(..., description="Where the weights come from.")
    lineage: tuple[Source, ...] = Field((), description="The trainings it started from, the latest first.")
    authors: tuple[Text, ...] = Field((), description="Who trained it.")
    license: Text | None = Field(None, description="SPDX identifier.")
    citations: tuple[Citation, ...] = Field((), description="What to cite.")
    test: Test = Field(..., description="The test crop.")
    config: dict[str, Any] = Field(..., description="The configuration of the training, without folders and data.")

    @property
    def training_config(self) -> TrainingConfig:
        """The configuration, validated.

        Raises:
            ConfigError: This version of the package cannot use it.
        """
        return TrainingConfig.from_values(self.config, lambda _key: f"of the portable model {self.name}")


@dataclass(frozen=True)
class PortableModel:
    """A trained network with all that is needed to use it elsewhere.

    Attributes:
        description: What it is.
        state: Its weights by parameter name.
        test_input: A crop of raw as stored, (channels, z, y, x).
        test_output: What the network makes of it, activated, (output channels, z', y', x').
    """

    description: Description
    state: Mapping[str, torch.Tensor]
    test_input: Array
    test_output: npt.NDArray[np.float32]

    @property
    def identity(self) -> str:
        """SHA-256 of description, weights and test."""
        return _digest(self.description, self._tensors())

    def network(self) -> nn.Module:
        """Return the network with its weights, on the CPU.

        Raises:
            CheckpointError: The weights do not fit the network that the description names.
            ConfigError: This package cannot build that network.
        """
        return network_with(self.description.training_config, self.state, self.description.name)

    def verify(self) -> float:
        """Predict the test crop and compare with the expected output.

        Returns:
            The largest difference, relative to the largest expected value if that is over 1.

        Raises:
            CheckpointError: It is larger than the tolerance; or as ``network``.
            ConfigError: As ``network``.
        """
        name, expected = self.description.name, self.test_output
        found = predict_crop(self.network(), self.description.training_config, self.test_input)
        if found.shape != expected.shape:
            raise CheckpointError(
                f"The portable model {name} predicts its test crop with the shape {list(found.shape)} instead of "
                f"{list(expected.shape)}: have it exported again."
            )
        difference = float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))
        if not difference <= self.description.test.tolerance:
            raise CheckpointError(
                f"The portable model {name} does not reproduce its test output: values differ by {difference:.3g}, "
                f"more than {self.description.test.tolerance:g}; have it exported again, and compare the versions of "
                "this package."
            )
        return difference

    def _tensors(self) -> dict[str, torch.Tensor]:
        tests = {TEST_INPUT: self.test_input, TEST_OUTPUT: self.test_output}
        return {
            **{f"{NETWORK}{name}": tensor.contiguous() for name, tensor in self.state.items()},
            **{name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in tests.items()},
        }

    def to_bytes(self) -> bytes:
        """Return the content of its file; the same model always gives the same bytes."""
        tensors = self._tensors()
        content = {"sha256": _digest(self.description, tensors), "model": self.description.model_dump(mode="json")}
        return save(tensors, {KEY: json.dumps(content, sort_keys=True)})


def write_portable(model: PortableModel, path: Path) -> None:
    """Write a portable model as one file, atomically."""
    write_whole(path, lambda file: file.write(model.to_bytes()))


def is_portable(path: Path) -> bool:
    """Return whether a file is, or claims by its name to be, in the safetensors format.

    Example:
        >>> _ = Path("weights.pt").write_bytes(b"PK")
        >>> is_portable(Path("weights.pt"))
        False
    """
    with path.open("rb") as file:
        return path.suffix == SUFFIX or file.read(10)[8:] == b'{"'


def read_portable(path: Path, of: Path | None = None) -> PortableModel:
    """Read a portable model and verify that its content is what was written; nothing in it is executed.

    Args:
        path: The file.
        of: The package that it was taken from, which messages name.

    Raises:
        CheckpointError: It is damaged, written by a later version, or another kind of file.
    """
    shown = of or path
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{shown} is damaged or not in the safetensors format ({error}): fetch it again."
        ) from error
    if KEY not in metadata:
        raise CheckpointError(
            f"{shown} holds tensors, but no description of a model: use a file that incasem-like models export wrote."
        )
    try:
        content = json.loads(metadata[KEY])
        stated, model = str(content["sha256"]), dict(content["model"])
        version = int(model["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{shown} is damaged (its description cannot be read): fetch it again.") from error
    if version > VERSION:
        raise CheckpointError(
            f"{shown} has version {version} of the format, but this package reads versions up to {VERSION}: update it."
        )
    try:
        description = Description.from_values(model, lambda _key: f"in {shown}")
    except ConfigError as error:
        raise CheckpointError(f"{shown} is damaged ({str(error).rstrip('.')}): fetch it again.") from error
    if stated != _digest(description, tensors) or not {TEST_INPUT, TEST_OUTPUT} <= tensors.keys():
        raise CheckpointError(f"{shown} is damaged (the checksum of its content is wrong): fetch it again.")
    state = {name.removeprefix(NETWORK): value for name, value in tensors.items() if name.startswith(NETWORK)}
    return PortableModel(description, state, tensors[TEST_INPUT].numpy(), tensors[TEST_OUTPUT].numpy())


def network_with(config: TrainingConfig, state: Mapping[str, torch.Tensor], name: str) -> nn.Module:
    """Build a configuration's network with these weights, on the CPU.

    Raises:
        CheckpointError: The weights belong to another network.
        ConfigError: The network cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        network = build_network(config.model)
    fit_state(network, state, name)
    return network


def predict_crop(network: nn.Module, config: TrainingConfig, raw: Array) -> npt.NDArray[np.float32]:
    """Predict stored raw (channels, z, y, x) in one pass on the CPU in fp32; return activated channels.

    Raises:
        CheckpointError: The result contains NaN or Inf.
        ConfigError: The network fails, or returns another shape than it declares.
    """
    volumes = on_volumes(network, network_geometry(config.model)).eval()
    try:
        with torch.inference_mode():
            values = activated(volumes(in_range(raw)), config.model.outputs or ())[0].numpy()
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"The network fails for an input of {list(raw.shape)} ({error}): correct it.") from error
    if not np.isfinite(values).all():
        raise CheckpointError("The network gives NaN or Inf for the test crop: choose another checkpoint.")
    return values


def in_range(raw: Array) -> torch.Tensor:
    """Return stored raw (channels, ...) as the network takes it: (1, channels, ...) from -1 to 1.

    Example:
        >>> in_range(np.array([[0, 255]], dtype=np.uint8))
        tensor([[[-1.,  1.]]])
    """
    scaled = np.multiply(raw, np.float32(RAW_SCALES[raw.dtype.name]), dtype=np.float32) * 2 - 1
    return torch.from_numpy(scaled[None])


def group_arrays(groups: Sequence[OutputSection], values: Array) -> list[Array]:
    """Split channels (channels, ...) by the groups that describe them.

    Example:
        >>> groups = [OutputSection(name=name, channels=count) for name, count in (("affinities", 3), ("lsd", 10))]
        >>> [len(part) for part in group_arrays(groups, np.zeros((13, 8, 8, 8)))]
        [3, 10]
    """
    ends = np.cumsum([group.channels for group in groups])
    return np.split(values, ends[:-1])


def _digest(description: Description, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(description.model_dump(mode="json"), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
