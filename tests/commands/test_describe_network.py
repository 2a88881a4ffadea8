"""describe_network.py prints what a configured network is made of, takes and needs."""

import sys
from pathlib import Path

import pytest

from incasem_like.commands.describe_network import main

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "02_train" / "describe_network.py"


@pytest.fixture
def described(monkeypatch, capsys):
    def described(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
        with pytest.raises(SystemExit) as end:
            main(SCRIPT)
        printed = capsys.readouterr()
        return int(end.value.code or 0), " ".join(printed.out.split()), printed.err

    return described


def test_the_default_network_with_its_layers_sizes_and_memory(described) -> None:
    status, text, _ = described("with", "config_training.yaml")
    assert status == 0
    assert "unet.r_up.0.0.up Upsample 64 120 x 120 x 120 0" in text
    assert "final_conv_pass.conv_pass.0 Conv3d 2 110 x 110 x 110 1,730" in text
    assert "parameters 5,837,730 field of view 100 x 100 x 100 voxels at most" in text
    assert "100 x 100 x 100 and steps of 8 x 8 x 8" in text
    assert "204 x 204 x 204 110 x 110 x 110 212 x 212 x 212 118 x 118 x 118" in text
    assert "for an update of 1 x 204 x 204 x 204" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("with", "training.input_size_voxels=[202,202,202]"), "[202, 202, 202] does not fit the network"),
        (("config_training.yaml",), "must stand behind the word 'with'"),
        (("with", "model.num_fmapss=3"), "did you mean 'model.num_fmaps'"),
    ],
)
def test_what_is_wrong_is_one_sentence(described, words: tuple[str, ...], sentence: str) -> None:
    status, _, problem = described(*words)
    assert status == 2
    assert sentence in problem
    assert problem.count("\n") == 1


def test_a_two_d_network_without_layers(described) -> None:
    sizes = ("training.input_size_voxels=[3,92,92]", "training.output_size_voxels=[1,50,50]")
    changes = ("model.adjacent_sections=3", "training.augmentation.simple.transpose_only=[1,2]")
    status, text, problem = described("--summary", "with", "model.downsample_factors=[[2,2],[2,2]]", *sizes, *changes)
    assert status == 0, problem
    assert "3 x 44 x 44 and steps of 1 x 4 x 4" in text
    assert "unet.l_conv" not in text
