"""Checkpoints with bootstrapper's parameter names become networks that give the values of modules written here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.data import AttributeDict
from torch import nn

from incasem_like.config import resolve_training_config
from incasem_like.errors import CheckpointError, InputError
from incasem_like.networks import build_network, load_checkpoint
from incasem_like.pretrained.bootstrapper import read_bootstrapper
from incasem_like.pretrained.checkpoint_run import read_whole
from incasem_like.pretrained.importing import Importer
from incasem_like.pretrained.manifest import read_manifest
from incasem_like.pretrained.sources import Description, Sources
from incasem_like.tracking import open_store

FULL, FLAT = [[3, 3, 3]] * 2, [[1, 3, 3]] * 2


class Pass(nn.Module):
    """Convolutions with ReLU between, plus a convolution of the input of one voxel, then the last activation."""

    def __init__(self, before: int, after: int, kernels: list[list[int]], last: nn.Module) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[len(kernels[0])]
        layers: list[nn.Module] = []
        for number, kernel in enumerate(kernels):
            layers += [nn.ReLU()] if number else []
            layers.append(conv(after if number else before, after, kernel))
        self.conv_pass = nn.Sequential(*layers)
        self.residual = nn.Sequential(conv(before, after, 1))
        self.last = last

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        out = self.conv_pass(maps)
        return self.last(out + crop(self.residual(maps), out.shape[2:]))


def crop(maps: torch.Tensor, size: Any) -> torch.Tensor:
    begin = [(have - want) // 2 for have, want in zip(maps.shape[2:], size, strict=True)]
    return maps[(..., *(slice(at, at + want) for at, want in zip(begin, size, strict=True)))]


class Unet(nn.Module):
    """Two levels: as the sources build them, for one pooling."""

    def __init__(self, before: int, down: Any, up: Any, factor: list[int], last: int, decoders: int) -> None:
        super().__init__()
        fmaps = 3
        self.factor = factor
        self.l_conv = nn.ModuleList(
            [Pass(before, fmaps, down[0], nn.ReLU()), Pass(fmaps, 2 * fmaps, down[1], nn.ReLU())]
        )
        self.r_conv = nn.ModuleList(nn.ModuleList([Pass(3 * fmaps, last, up, nn.ReLU())]) for _ in range(decoders))
        self.lost = [sum(kernel[axis] - 1 for kernel in up) for axis in range(len(factor))]

    def forward(self, maps: torch.Tensor) -> list[torch.Tensor]:
        dims = len(self.factor)
        left = self.l_conv[0](maps)
        pooled = {2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}[dims](left, self.factor)
        mode = {2: "bilinear", 3: "trilinear"}[dims]
        large = nn.functional.interpolate(
            self.l_conv[1](pooled), scale_factor=tuple(map(float, self.factor)), mode=mode
        )
        sizes = zip(large.shape[2:], self.lost, self.factor, strict=True)
        size = [(have - lost) // step * step + lost for have, lost, step in sizes]
        joined = torch.cat([crop(left, size), crop(large, size)], dim=1)
        return [passes[0](joined) for passes in self.r_conv]


class Network(nn.Module):
    """A U-Net and its heads, each of which ends in a sigmoid."""

    def __init__(
        self, heads: dict[str, int], before: int, down: Any, up: Any, factor: list[int], **options: Any
    ) -> None:
        super().__init__()
        last = options.get("last", 3)
        self.unet = Unet(before, down, up, factor, last, options.get("decoders", 1))
        self.names = list(heads)
        for name, channels in heads.items():
            setattr(self, name, Pass(last, channels, [[1] * len(factor)], nn.Sigmoid()))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        decoded = self.unet(maps)
        outputs = [getattr(self, name)(decoded[at % len(decoded)]) for at, name in enumerate(self.names)]
        return torch.cat(outputs, dim=1)


KINDS: dict[str, Any] = {
    "3d_from_mtlsd": (({"affs_head": 9}, 12, [FLAT, FULL], FULL, [1, 2, 2]), {"last": 5}, (14, 22, 22)),
    "3d_from_lsd": (({"affs_head": 3}, 10, [FLAT, FULL], FULL, [1, 2, 2]), {}, (14, 22, 22)),
    "3d_mtlsd": (({"lsd_head": 10, "aff_head": 6}, 1, [FULL, FULL], FLAT, [1, 2, 2]), {}, (14, 22, 22)),
    "2d_mtlsd": (({"lsd_head": 6, "aff_head": 6}, 3, [[[3, 3]] * 2] * 2, [[3, 3]] * 2, [2, 2]), {}, (22, 22)),
    "2d_two": (
        ({"lsd_head": 6, "aff_head": 2}, 1, [[[3, 3]] * 2] * 2, [[3, 3]] * 2, [2, 2]),
        {"decoders": 2},
        (22, 22),
    ),
}


def network(kind: str) -> Network:
    torch.manual_seed(3)
    arguments, options, _ = KINDS[kind]
    return Network(*arguments, **options).eval()


def write(path: Path, made: Network, form: str) -> Path:
    """Write a checkpoint as gunpowder does, as Lightning does, or the weights alone."""
    state = {name: value.clone() for name, value in made.state_dict().items()}
    optimizer = {"state": {0: {"step": torch.tensor(15000.0)}}, "param_groups": [{"lr": 5e-5, "params": [0]}]}
    content: Any = {
        "plain": {"model_state_dict": state, "optimizer_state_dict": optimizer},
        "weights": state,
        "lightning": {
            "epoch": 0, "global_step": 15000, "pytorch-lightning_version": "2.5.0", "optimizer_states": [optimizer],
            "state_dict": {f"model.{name}": value for name, value in state.items()},
            "hyper_parameters": AttributeDict(num_fmaps=3), "callbacks": {}, "loops": {"fit_loop": {}},
        },
    }[form]  # fmt: skip
    torch.save(content, path)
    return path


def imported(folder: Path, path: Path, **description: Any) -> Any:
    store = open_store(None, kind="trainings", runs_directory=folder / "runs")
    sources = Sources(read_manifest(None), folder / "models")
    stated = {"voxel_size": (50.0, 8.0, 8.0), "sigma": 80.0, **description}
    ((run, checkpoint),) = sources.read(sources.find(str(path)), Description(**stated))
    return store.get(Importer(store).add(run, checkpoint).run_id)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["plain", "lightning"])
def test_an_imported_network_gives_the_values_of_the_original(tmp_path, kind, form):
    made = network(kind)
    record = imported(tmp_path, write(tmp_path / "model_checkpoint_15000", made, form))
    config = resolve_training_config(record.config)
    found = build_network(config.model).eval()
    load_checkpoint(record.checkpoints[0].path, found)
    arguments, _, size = KINDS[kind]
    maps = torch.rand((1, arguments[1], *size), generator=torch.Generator().manual_seed(0))
    reads_predictions = "from" in kind
    with torch.inference_mode():
        expected = made(maps if reads_predictions else 2 * maps - 1)
        values = found(2 * maps - 1).sigmoid()
    assert values.shape == expected.shape
    assert torch.allclose(values, expected, atol=1e-5)
    assert record.checkpoints[0].iteration == 15000
    assert (config.model.inputs is not None) == reads_predictions


def test_sigma_and_offsets_travel_with_it(tmp_path):
    record = imported(tmp_path, write(tmp_path / "checkpoint", network("3d_from_mtlsd"), "plain"))
    model = resolve_training_config(record.config).model
    assert [group.channels for group in model.inputs] == [6, 6]
    assert model.inputs[0].attributes["sigma_voxels"] == [10, 10]
    assert model.inputs[1].attributes["offsets"][2] == [0, -9, 0]
    assert model.outputs[0].attributes["offsets"][-1] == [0, 0, -27]


def test_the_net_config_beside_it_says_the_offsets(tmp_path):
    near = [[-1, 0], [0, -1], [-4, 0], [0, -4], [-8, 0], [0, -8]]
    described = {
        "downsample_factors": [[1, 2, 2]],
        "inputs": {"2d_lsds": {"dims": 6, "sigma": 20}, "2d_affs": {"dims": 6, "neighborhood": near}},
        "outputs": {"3d_affs": {"dims": 9, "neighborhood": [[-step, 0, 0] for step in range(1, 10)]}},
    }
    (tmp_path / "net_config.json").write_text(json.dumps(described))
    path = write(tmp_path / "checkpoint", network("3d_from_mtlsd"), "plain")
    model = resolve_training_config(imported(tmp_path, path).config).model
    assert model.inputs[1].attributes["offsets"] == [[0, *offset] for offset in near]
    assert model.outputs[0].attributes["offsets"][8] == [-9, 0, 0]
    with pytest.raises(
        InputError, match=r"sigma of the descriptors .* \(net_config.json says 20, in units .* --sigma NM"
    ):
        imported(tmp_path, path, sigma=None)


def test_what_is_not_known_is_asked_for_in_one_sentence(tmp_path):
    path = write(tmp_path / "checkpoint", network("3d_mtlsd"), "plain")
    store = ["--runs_directory", tmp_path / "runs", "--models_directory", tmp_path / "models"]
    for flags, message in (
        (["--voxel_size", 50, 8, 8], "is not known: add --sigma NM, in nm of --voxel_size."),
        (["--sigma", 80], "add --voxel_size Z Y X in nm."),
    ):
        words = ["models", "import", path, *flags, *store]
        command = [sys.executable, "-m", "incasem_like", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    six = Network({"affs_head": 9}, 6, [FLAT, FULL], FULL, [1, 2, 2])
    with pytest.raises(InputError, match="What the 6 input channels of six are is not known"):
        imported(tmp_path, write(tmp_path / "six", six, "plain"))
    odd = Network({"affs_head": 4}, 10, [FLAT, FULL], FULL, [1, 2, 2])
    with pytest.raises(InputError, match="offsets of the 4 affinities 3d_affs of odd are not known"):
        imported(tmp_path, write(tmp_path / "odd", odd, "plain"))


def test_damaged_weights_are_refused_and_other_checkpoints_left_to_others(tmp_path):
    made = network("2d_mtlsd")
    with torch.no_grad():
        made.unet.l_conv[0].conv_pass[0].weight[0] = np.nan
    with pytest.raises(CheckpointError, match="check that its weights are finite"):
        imported(tmp_path, write(tmp_path / "damaged", made, "plain"))
    state = network("2d_mtlsd").state_dict()
    del state["unet.r_conv.0.0.residual.0.weight"]
    torch.save(state, tmp_path / "incomplete")
    with pytest.raises(
        CheckpointError, match=r"another architecture: it lacks unet\.r_conv\.0\.0\.residual\.0\.weight"
    ):
        imported(tmp_path, tmp_path / "incomplete")
    torch.save({"layer.weight": torch.zeros(2, 1, 3, 3, 3), "layer.bias": torch.zeros(2)}, tmp_path / "other")
    assert read_bootstrapper(read_whole(tmp_path / "other"), tmp_path / "other") is None
    with pytest.raises(InputError, match="leave --sigma out"):
        imported(tmp_path, tmp_path / "other")
