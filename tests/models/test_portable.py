"""Portable models: what is in them, that it is verified, and that nothing damaged becomes a run."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from models.conftest import SMALL, VOXEL_SIZE
from safetensors import safe_open

from incasem_like.models import portable_model, read_portable, write_portable
from incasem_like.models.portable import KEY
from incasem_like.networks import build_network, load_checkpoint
from incasem_like.tracking import RunRecord, open_store

Track = Callable[..., RunRecord]
Models = Callable[..., str]
NETWORKS: dict[str, dict[str, Any]] = {
    "Unet": {},
    "anisotropic": {"downsample_factors": [[1, 2, 2]], "constant_upsample": False},
    "padded": {"padding": "same", "normalization": "batch", "residual": "shortcut"},
    "interpolating": {"upsample_mode": "linear", "residual": "linear", "final_kernel_size": 1},
    "hourglass": {"type": "StackedHourglass", "num_stacks": 2},
    "auto-context": {"type": "AutoContext", "first": {**SMALL, "num_fmaps_out": 3}},
    "sections": {"downsample_factors": [[2, 2]], "adjacent_sections": 3},
    "one convolution": {"type": "OneConv3d"},
}


def header(path: Path) -> dict[str, Any]:
    """Read what stands before the tensors, by the definition of the format."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])  # type: ignore[no-any-return]


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the description in a file."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    found = json.loads(content[8 : 8 + length])
    described = json.loads(found["__metadata__"][KEY])
    change(described)
    found["__metadata__"][KEY] = json.dumps(described)
    written = json.dumps(found).encode()
    written += b" " * (-len(written) % 8)
    path.write_bytes(struct.pack("<Q", len(written)) + written + content[8 + length :])


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_of_any_kind_becomes_a_run_with_the_same_weights(track: Track, models: Models, kind: str) -> None:
    record = track(NETWORKS[kind])
    models("export", record.id, "--format", "safetensors", "-o", "exported")
    printed = models("import", "exported/cell_net_0001.safetensors")
    assert "Imported run 2 (cell net)" in printed
    imported = record.store.get(2)
    before, after = (load_checkpoint(one.checkpoint("last").fetch()).network_state for one in (record, imported))
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert imported.checkpoint("last").iteration == 7
    for section in ("model", "data"):
        assert imported.config[section] == record.config[section]
    assert "Already there: run 2" in models("import", "exported/cell_net_0001.safetensors")


def test_the_description_is_that_of_the_run_and_the_test_is_the_networks_value(
    track: Track, models: Models, cell: Path
) -> None:
    record = track(data=cell)
    models("export", record.id, "--format", "safetensors", "--author", "A. Person", "--license", "MIT")
    path = Path("cell_net_0001.safetensors")
    described = json.loads(header(path)["__metadata__"][KEY])["model"]
    assert described["voxel_size"] == list(VOXEL_SIZE)
    assert described["class_names"] == ["background", "er"]
    assert described["outputs"][0]["attributes"]["channel_names"] == ["background", "er"]
    assert described["outputs"][0]["activation"] == "softmax"
    assert described["sizes"] == {
        **{"smallest_input": [20, 20, 20], "step": [2, 2, 2], "lost": [18, 18, 18], "halo": [0, 0, 0]},
    }
    assert described["training"]["run_id"] == 1
    assert described["training"]["sha256"] == record.checkpoint("last").sha256
    assert described["authors"] == ["A. Person"]
    assert "cell.json" not in path.read_text(errors="replace")
    assert str(cell.parent) not in path.read_text(errors="replace")
    with safe_open(path, framework="np") as file:
        raw, expected = file.get_tensor("test.input"), file.get_tensor("test.output")
    stored = zarr.open(str(cell.parent / "data" / "cell.zarr"), mode="r")["volumes/raw"]
    assert np.array_equal(raw[0], stored[5:39, 5:39, 5:39])
    network = build_network(read_portable(path).description.training_config.model).eval()
    load_checkpoint(record.checkpoint("last").fetch(), network)
    with torch.no_grad():
        values = torch.softmax(network(torch.from_numpy(raw[None] / np.float32(127.5) - 1)), 1)[0].numpy()
    np.testing.assert_allclose(expected, values, atol=1e-6)


def test_targets_travel_with_their_offsets_names_and_sigma(track: Track, models: Models) -> None:
    offsets = [[-1, 0, 0], [0, -3, 0]]
    targets = [{"type": "affinities", "offsets": offsets}, {"type": "lsd", "sigma": 80.0}]
    record = track(targets=targets, loss={"type": "cross_entropy_scaling"})
    models("export", record.id, "--format", "safetensors", "--noise")
    affinities, lsd = read_portable(Path("cell_net_0001.safetensors")).description.outputs
    assert affinities.attributes["offsets"] == offsets
    assert (affinities.activation, lsd.activation) == ("sigmoid", "sigmoid")
    assert (lsd.channels, lsd.attributes["sigma"]) == (10, [80.0] * 3)
    models("import", "cell_net_0001.safetensors")
    assert record.store.get(2).config["targets"] == record.config["targets"]


def test_the_same_run_gives_the_same_bytes(track: Track, tmp_path: Path) -> None:
    record = track()
    for name in ("one", "other"):
        write_portable(portable_model(record), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_an_imported_run_is_exported_with_the_lineage_of_both(track: Track, models: Models, cell: Path) -> None:
    track(data=cell)
    models("export", 1, "--format", "safetensors", "--cite", "Person: Cells, 2026", "10.1000/1")
    models("import", "cell_net_0001.safetensors", "--name", "second")
    models("export", 2, "--format", "safetensors")
    described = read_portable(Path("second_0002.safetensors")).description
    assert (described.training.run_id, [one.run_id for one in described.lineage]) == (2, [1])
    assert described.class_names == ("background", "er")
    assert "10.1000/1" in [one.doi for one in described.citations]


@pytest.fixture
def exported(track: Track, models: Models) -> Path:
    track()
    models("export", 1, "--format", "safetensors")
    return Path("cell_net_0001.safetensors")


def newer(path: Path) -> None:
    rewrite(path, lambda content: content["model"].update(version=2))


def renamed(path: Path) -> None:
    rewrite(path, lambda content: content["model"].update(name="another"))


def incomplete(path: Path) -> None:
    rewrite(path, lambda content: content["model"].pop("outputs"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def tensors_alone(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (newer, "has version 2 of the format, but this package reads versions up to 1: update it"),
        (renamed, "is damaged \\(the checksum of its content is wrong\\)"),
        (incomplete, "is damaged \\(.*outputs.*\\)"),
        (truncated, "is damaged or not in the safetensors format"),
        (flipped, "is damaged \\(the checksum of its content is wrong\\)"),
        (tensors_alone, "holds tensors, but no description of a model"),
        (empty, "is damaged or not in the safetensors format"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_one_sentence(
    exported: Path, models: Models, damage: Callable[[Path], None], sentence: str, here: Path
) -> None:
    damage(exported)
    message = models("import", exported, status=2)
    assert len(message.strip().splitlines()) == 1
    assert re.search(sentence, message)
    assert open_store(None, "trainings", here / "runs").ids() == [1]


def test_other_values_than_expected_are_refused_with_the_difference(exported: Path, models: Models, here: Path) -> None:
    model = read_portable(exported)
    wrong = model.test_output.copy()
    wrong[0, 0, 0, 0] += 0.25
    write_portable(type(model)(model.description, model.state, model.test_input, wrong), exported)
    message = models("import", exported, status=2)
    assert "does not reproduce its test output: values differ by 0.25, more than 0.0001" in message
    assert open_store(None, "trainings", here / "runs").ids() == [1]
    assert not list((here / "runs" / "models").glob("0002*"))


def test_weights_of_another_network_are_refused_by_the_tensor_that_differs(exported: Path, models: Models) -> None:
    model = read_portable(exported)
    config = json.loads(json.dumps(model.description.config))
    config["model"]["num_fmaps"] = 3
    changed = model.description.model_copy(update={"config": config})
    write_portable(type(model)(changed, model.state, model.test_input, model.test_output), exported)
    message = models("import", exported, status=2)
    assert "belongs to another architecture: unet.l_conv.0.conv_pass.0.weight is 2x1x3x3x3 in the file" in message


def test_flags_that_the_file_answers_itself_are_refused(exported: Path, models: Models) -> None:
    message = models("import", exported, "--voxel_size", 4, 4, 4, status=2)
    assert "says itself how it was trained: leave --voxel_size" in message


def test_nothing_is_overwritten(exported: Path, models: Models) -> None:
    before = exported.read_bytes()
    assert "exists: move it away" in models("export", 1, "--format", "safetensors", status=2)
    assert exported.read_bytes() == before


def test_only_trainings_have_a_network(exported: Path, models: Models) -> None:
    assert "name the training run" in models("export", "predictions/1", status=2)
