"""bioimage.io packages: read, validated and run by the reference implementation of the format."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from models.test_portable import NETWORKS
from scipy import special

from incasem_like.config import load_prediction_config
from incasem_like.errors import ConfigError
from incasem_like.models import portable_model, read_package, read_portable, write_package
from incasem_like.prediction.planning.planner import plan_prediction
from incasem_like.tracking import RunRecord, open_store

Track = Callable[..., RunRecord]
Models = Callable[..., str]


def check_package(path: Path) -> Any:
    """Validate a package with the format's own library, then run it as it describes itself, on two sizes."""
    spec = pytest.importorskip("bioimageio.spec", reason="needs bioimageio.spec: pip install -e '.[test]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        described = spec.load_description(path, format_version="latest")
        assert not isinstance(described, spec.InvalidDescr), described.validation_summary.format()
        assert described.validation_summary.status == "valid-format"
    with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = {name: io.BytesIO(archive.read(name)) for name in archive.namelist()}
        script = torch.jit.load(files["weights.torchscript.pt"])
    (given,) = described.inputs
    raw = np.load(files["raw.npy"])
    (scaling,) = (step for step in given.preprocessing if step.id == "scale_linear")
    sizes = {axis.id: axis.size for axis in given.axes if axis.type == "space"}
    with torch.no_grad():
        found = script(torch.from_numpy(raw) * scaling.kwargs.gain + scaling.kwargs.offset)
        for output, logits in zip(described.outputs, found, strict=True):
            values = logits.numpy().astype(np.float64)
            for step in (step for step in output.postprocessing if step.id != "ensure_dtype"):
                assert step.id in ("softmax", "sigmoid")
                values = special.softmax(values, 1) if step.id == "softmax" else special.expit(values)
            np.testing.assert_allclose(values, np.load(files[f"{output.id}.npy"]), atol=1e-5)
        if all(hasattr(size, "step") for size in sizes.values()):
            shape = [size.min + 9 * size.step for size in sizes.values()]
            for output, logits in zip(described.outputs, script(torch.rand(raw.shape[:2] + tuple(shape))), strict=True):
                edges = [axis for axis in output.axes if axis.type == "space"]
                expected = [edge + axis.size.offset for edge, axis in zip(shape, edges, strict=True)]
                assert list(logits.shape[2:]) == expected
    assert b"/site-packages/" not in path.read_bytes()
    return described


@pytest.mark.parametrize("kind", NETWORKS)
def test_other_programs_get_the_same_values(track: Track, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.bioimageio.zip"
    write_package(portable_model(track(NETWORKS[kind])), path)
    check_package(path)


def test_a_package_describes_voxels_classes_halo_and_origin(track: Track, models: Models, cell: Path) -> None:
    track(NETWORKS["padded"], data=cell)
    models("export", 1, "--author", "A. Person", "--license", "CC-BY-4.0")
    described = check_package(Path("cell_net_0001.bioimageio.zip"))
    raw, classes = described.inputs[0], described.outputs[0]
    assert [axis.scale for axis in raw.axes if axis.type == "space"] == [8.0] * 3
    assert [str(axis.unit) for axis in raw.axes if axis.type == "space"] == ["nanometer"] * 3
    assert list(map(str, classes.axes[1].channel_names)) == ["background", "er"]
    sizes = read_portable(Path("cell_net_0001.safetensors")).description.sizes
    assert tuple(axis.halo for axis in classes.axes if axis.type == "space") == sizes.halo
    assert min(sizes.halo) > 0
    assert str(described.license) == "CC-BY-4.0"
    assert described.config.model_dump()["incasem_like"]["training"]["run_id"] == 1


def test_each_target_is_an_output_with_its_activation(track: Track, models: Models) -> None:
    targets = [{"type": "affinities"}, {"type": "lsd", "sigma": 80.0}]
    track(targets=targets)
    models("export", 1, "--format", "bioimageio")
    described = check_package(Path("cell_net_0001.bioimageio.zip"))
    assert [(str(one.id), len(one.axes[1].channel_names)) for one in described.outputs] == [
        ("affinities", 3),
        ("lsd", 10),
    ]


def test_a_package_becomes_the_same_run_as_the_file(track: Track, models: Models) -> None:
    record = track()
    models("export", 1)
    models("import", "cell_net_0001.bioimageio.zip")
    assert record.store.get(2).config["model"] == record.config["model"]
    assert "Already there: run 2" in models("import", "cell_net_0001.safetensors")
    with zipfile.ZipFile("cell_net_0001.bioimageio.zip") as archive:
        archive.extractall("unpacked")
    assert "Already there: run 2" in models("import", "unpacked")
    assert read_package(Path("unpacked")).identity == read_portable(Path("cell_net_0001.safetensors")).identity


@pytest.mark.slow
def test_packages_are_the_same_bytes_from_run_to_run(track: Track, here: Path) -> None:
    track()
    for folder in ("one", "other"):
        words = ["incasem_like", "models", "export", "1", "-o", folder]
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=here, env={**os.environ}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    for name in ("cell_net_0001.bioimageio.zip", "cell_net_0001.safetensors"):
        assert (here / "one" / name).read_bytes() == (here / "other" / name).read_bytes()


def foreign(weights: dict[str, Any]) -> bytes:
    return yaml.safe_dump({"format_version": "0.5.4", "type": "model", "name": "theirs", "weights": weights}).encode()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (foreign({"pytorch_state_dict": {"source": "weights.pt"}}), "holds weights as pytorch_state_dict alone"),
        (foreign({"torchscript": {"source": "weights.pt"}}), "holds weights as torchscript alone"),
        (b"weights: [", "is damaged (its description cannot be read)"),
        (b"name: theirs", "is damaged (its description cannot be read)"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_packages_of_other_programs_are_refused(
    here: Path, models: Models, content: bytes, sentence: str, packed: bool
) -> None:
    path = here / "theirs"
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("rdf.yaml", content)
    else:
        path.mkdir()
        (path / "rdf.yaml").write_bytes(content)
    message = models("import", path, status=2)
    assert sentence in message
    assert "\n" not in message
    assert open_store(None, "trainings", here / "runs").ids() == []


def test_a_damaged_package_is_refused(track: Track, models: Models, here: Path) -> None:
    track()
    models("export", 1, "--format", "bioimageio")
    path = here / "cell_net_0001.bioimageio.zip"
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        inside = archive.getinfo("model.safetensors")
    at = inside.header_offset + 200 + inside.file_size // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert "is damaged" in models("import", path, status=2)
    path.write_bytes(whole[:-50])
    assert "truncated or not a checkpoint" in models("import", path, status=2)
    assert open_store(None, "trainings", here / "runs").ids() == [1]


OWN = """
import torch


class Plain(torch.nn.Module):
    def __init__(self, in_channels, num_fmaps_out, how="same"):
        super().__init__()
        self.layer, self.how = torch.nn.Conv3d(in_channels, num_fmaps_out, 3), how

    def forward(self, volume):
        values = self.layer(volume)
        if self.how == "random":
            return values + torch.rand(values.shape)
        if self.how == "fixed":
            size = [int(edge) for edge in values.shape[2:]]
            return values[:, :, : size[0], : size[1], : size[2]] if size[0] != 16 else values.reshape(1, 2, 16, 16, 16)
        if self.how == "python":
            return torch.from_numpy(values.detach().numpy() * self.scale(values))
        return values[:, :1] if self.how == "narrow" else values

    def scale(self, values):
        return 1.0
"""


@pytest.fixture
def own(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    (here / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(here)
    sys.modules.pop("own_networks", None)

    def model(**options: Any) -> dict[str, Any]:
        sizes = {"input_size": [3, 3, 3], "output_size": [1, 1, 1]}
        return {"type": "Custom", "module": "own_networks:Plain", **sizes, "options": options}

    return model


@pytest.fixture
def track_own(track: Track, own: Callable[..., dict[str, Any]]) -> Track:
    return lambda **options: track(own(**options))


def test_a_network_of_ones_own_is_exported_and_its_module_is_named(
    track_own: Track, models: Models, here: Path
) -> None:
    track_own()
    printed = models("export", 1)
    assert "To import it, own_networks:Plain is needed there too" in printed
    check_package(here / "cell_net_0001.bioimageio.zip")
    models("import", "cell_net_0001.safetensors")
    (here / "own_networks.py").unlink()
    sys.modules.pop("own_networks")
    message = models("import", "cell_net_0001.safetensors", status=2)
    assert "model.module own_networks:Plain cannot be imported" in message


def test_a_network_that_takes_one_size_as_torchscript_declares_that_size(
    track_own: Track, models: Models, here: Path
) -> None:
    track_own(how="fixed")
    models("export", 1)
    described = check_package(here / "cell_net_0001.bioimageio.zip")
    assert [axis.size for axis in described.inputs[0].axes if axis.type == "space"] == [18, 18, 18]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("random", "gives other values than itself"),
        ("python", "cannot be converted to TorchScript|gives other values than itself"),
        ("narrow", "wrong shape"),
    ],
)
def test_a_network_that_cannot_be_converted_is_refused_and_nothing_is_written(
    track_own: Track, models: Models, here: Path, how: str, sentence: str
) -> None:
    track_own(how=how)
    message = models("export", 1, "-o", "exported", status=2)
    assert re.search(sentence, message)
    assert not list((here / "exported").glob("*"))
    assert "\n" not in message


def test_the_npy_files_are_the_test(track: Track, models: Models, here: Path) -> None:
    track()
    models("export", 1)
    model = read_portable(here / "cell_net_0001.safetensors")
    with zipfile.ZipFile(here / "cell_net_0001.bioimageio.zip") as archive:
        archive.extractall(here / "unpacked")
    raw, classes = (np.load(here / "unpacked" / f"{name}.npy") for name in ("raw", "classes"))
    assert np.array_equal(raw[0], model.test_input)
    assert np.array_equal(classes[0], model.test_output)


def test_a_network_that_returns_another_shape_does_not_predict(track_own: Track, cell: Path) -> None:
    record = track_own(how="narrow")
    config = load_prediction_config([], [f"prediction.data={cell}", "torch.device=cpu"])
    with pytest.raises(ConfigError, match="returned the wrong shape"):
        plan_prediction(config, [record])
