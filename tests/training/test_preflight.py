import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from incasem_like.errors import ConfigError, DataError, DiskFullError
from incasem_like.training import preflight
from incasem_like.training.preflight import (
    check_block_sizes,
    check_memory,
    check_options,
    check_space,
    check_training,
    check_validation_tiles,
)
from incasem_like.volumes import create_volume

UNET = {"type": "Unet", "num_fmaps": 2, "downsample_factors": [[2, 2, 2]]}  # inputs 20 + 2 n, outputs 18 less


def sizes(input_size: int, output_size: int) -> dict[str, Any]:
    return {"input_size_voxels": [input_size] * 3, "output_size_voxels": [output_size] * 3}


def test_block_sizes_that_fit_pass(make_config: Callable[..., Any]) -> None:
    check_block_sizes(make_config(model=UNET, training=sizes(24, 6)))


@pytest.mark.parametrize("section", ["training", "validation"])
def test_an_input_the_network_cannot_take_names_the_nearest(
    make_config: Callable[..., Any], tmp_path: Path, section: str
) -> None:
    changes: dict[str, Any] = {"training": sizes(24, 6), "validation": {**sizes(24, 6), "data": write(tmp_path)}}
    changes[section] = {**changes[section], **sizes(25, 7)}
    choices = r"\[24, 24, 24\] \(output \[6, 6, 6\]\) or \[26, 26, 26\] \(output \[8, 8, 8\]\)"
    with pytest.raises(ConfigError, match=rf"{section}\.input_size_voxels=\[25, 25, 25\] does not fit .* {choices}"):
        check_block_sizes(make_config(model=UNET, **changes))


def test_an_output_that_is_not_the_network_s_names_the_right_one(make_config: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"training\.output_size_voxels=\[8, 8, 8\] .* set it to \[6, 6, 6\]"):
        check_block_sizes(make_config(model=UNET, training=sizes(24, 8)))


def test_validation_sizes_do_not_matter_without_validation(make_config: Callable[..., Any]) -> None:
    check_block_sizes(make_config(model=UNET, training=sizes(24, 6), validation=sizes(25, 7)))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({"type": "Custom", "module": "nowhere_to_be_found:Network"}, r"model\.module .* cannot be imported"),
        ({**UNET, "in_channels": 2}, r"set model\.in_channels=1"),
    ],
)
def test_a_network_that_does_not_take_one_channel_or_cannot_be_built_is_refused(
    make_config: Callable[..., Any], model: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_training(make_config(model=model))


@pytest.mark.parametrize(("begin", "enough"), [((4, 4, 4), True), ((4, 5, 4), False)])
def test_validation_tiles_must_be_able_to_advance_by_a_stride(
    make_config: Callable[..., Any], begin: tuple[int, int, int], enough: bool
) -> None:
    region: Any = SimpleNamespace(
        name="cell", roi=SimpleNamespace(begin=begin), raw_roi=SimpleNamespace(begin=(0, 0, 0))
    )
    config = make_config(model=UNET, validation=sizes(20, 2))
    if enough:
        check_validation_tiles(config, [region])
    else:
        with pytest.raises(ConfigError, match=r"too small to cover cell .* \[22, 22, 22\] \(output \[4, 4, 4\]\)"):
            check_validation_tiles(config, [region])


def test_a_full_disk_is_noticed_before_training(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = 2 * 27 + 2  # of OneConv3d
    needed = 2 * 3 * 4 * parameters
    model = make_config().model
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda folder, free=free: type("Usage", (), {"free": free}))
        if fits:
            check_space(model, tmp_path)
        else:
            with pytest.raises(DiskFullError, match="free some space"):
                check_space(model, tmp_path)


def test_training_data_must_be_named(make_config: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"training\.data is not set"):
        check_training(make_config())


def write(folder: Path) -> str:
    (folder / "data.json").write_text("{}")
    return str(folder / "data.json")


def test_data_that_teach_nothing_are_an_error_and_validation_data_that_measure_nothing_a_warning(
    configure: Callable[..., Any], tiny_project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    create_volume(
        tiny_project / "cell.zarr", "volumes/nothing", shape=(48, 48, 48), dtype="uint8", voxel_size=(8, 8, 8)
    ).mark_complete()
    data = json.loads((tiny_project / "validate.json").read_text())
    data["right"] |= {"file": str(tiny_project / "cell.zarr"), "mask": "volumes/nothing"}
    (tmp_path / "masked.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"The mask of training\.data is 0 everywhere in right, so nothing"):
        check_training(configure(f"training.data={tmp_path}/masked.json"))
    with caplog.at_level(logging.WARNING):
        check_training(configure(f"validation.data={tmp_path}/masked.json"))
    assert "The mask of right is 0 everywhere" in caplog.text


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        (
            {"learning_rate_schedule": {"type": "plateau"}},
            r"type=plateau follows a validation metric, but validation\.",
        ),
        ({"early_stopping": 3}, r"early_stopping=3 follows a validation metric, but validation\.data is null"),
        ({"num_params": [1, 54]}, r"The network has 56 parameters, but training\.num_params allows 1 to 54"),
        ({"num_params": [57, 99]}, r"The network has 56 parameters, but training\.num_params allows 57 to 99"),
    ],
)
def test_options_that_the_rest_of_the_configuration_does_not_allow(
    make_config: Callable[..., Any], training: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_options(make_config(training=training))


def test_options_that_are_allowed_pass(make_config: Callable[..., Any]) -> None:
    check_options(make_config(training={"num_params": [56, 56], "batch_size": 6, "accumulate": 3}))


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"batch_size": 3, "accumulate": 2}, r"batch_size 3 does not divide into training\.accumulate 2 equal parts"),
        ({"num_params": [5, 4]}, r"training\.num_params \[5, 4\] is not ascending"),
        ({"optimizer": {"momentum": 0.5}}, r"momentum is 0\.5, but adam has none"),
        ({"optimizer": {"type": "adagrad"}}, r"training\.optimizer\.type"),
        ({"learning_rate_schedule": {"factor": 1.0}}, r"training\.learning_rate_schedule\.factor"),
    ],
)
def test_options_that_contradict_each_other(
    make_config: Callable[..., Any], training: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(training=training)


def test_an_update_that_does_not_fit_in_memory_names_what_would(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from incasem_like.networks.description import describe_network

    def config(**training: Any) -> Any:
        return make_config(model=UNET, training={**sizes(84, 66), **training})

    def bytes_of(size: int, blocks: int) -> int:
        return describe_network(config().model, (size,) * 3, blocks).training_bytes

    def with_memory(free: int) -> None:
        monkeypatch.setattr("incasem_like.training.preflight.available_host_memory", lambda: float(free))

    with_memory(bytes_of(84, 2))
    check_memory(config(batch_size=2))
    check_memory(config(batch_size=4, accumulate=2))
    with pytest.raises(
        ConfigError, match=r"An update of 4 blocks of \[84, 84, 84\] voxels .* set training\.accumulate=2"
    ):
        check_memory(config(batch_size=4))
    with_memory(bytes_of(84, 1) - 1)
    message = r"input_size_voxels=\[82, 82, 82\] and training\.output_size_voxels=\[64, 64, 64\], or torch\.precision"
    with pytest.raises(ConfigError, match=message):
        check_memory(config())
    with_memory(1000)
    with pytest.raises(ConfigError, match=r"lower model\.num_fmaps"):
        check_memory(config())
