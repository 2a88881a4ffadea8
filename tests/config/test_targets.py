"""A list of targets in a configuration: what follows from it, and the one sentence for what cannot be."""

from __future__ import annotations

import json

import pytest

from incasem_like.config import TrainingConfig, load_training_config
from incasem_like.config.target_sections import LOSSES, TARGETS, load
from incasem_like.errors import ConfigError


def learning(targets: str, *updates: str) -> TrainingConfig:
    return load_training_config([], [f"targets={targets}", *updates])


def test_without_targets_incasems_keys_mean_classes() -> None:
    config = load_training_config(
        [], ["data.num_classes=3", "loss.weight=[1,2,0.5]", "loss.balance_labels.clipmin=0.02"]
    )
    assert config.targets is None
    (classes,) = config.resolved_targets
    assert (classes.channels, classes.loss.weight, classes.clipmin) == (3, (1.0, 2.0, 0.5), 0.02)  # type: ignore[attr-defined]
    assert (config.model.num_fmaps_out, config.model.outputs) == (3, None)
    assert [name for name in classes.metrics if name.endswith("class_2")] == [
        "dice_class_2", "jaccard_class_2", "precision_class_2", "recall_class_2",
    ]  # fmt: skip
    assert (
        classes
        == learning(
            "[{type: classes, loss: {type: cross_entropy_scaling, weight: [1,2,0.5]}, clipmin: 0.02}]",
            "data.num_classes=3",
        ).resolved_targets[0]
    )


def test_channels_outputs_and_the_best_metric_follow_from_targets() -> None:
    config = learning("[{type: affinities, offsets: [[-1,0,0],[0,-9,0]]}, {type: classes, name: organelles}]")
    assert config.model.num_fmaps_out == 4
    assert config.model.outputs is not None
    assert [(one.name, one.channels, one.activation) for one in config.model.outputs] == [
        ("affinities", 2, "sigmoid"), ("organelles", 2, "softmax"),
    ]  # fmt: skip
    assert config.model.outputs[0].attributes["offsets"] == [[-1, 0, 0], [0, -9, 0]]
    chosen = config.training.checkpoints
    assert (chosen.best_metric, chosen.best_mode) == ("affinities_dice", "max")
    assert (
        learning("[affinities]", "training.checkpoints.best_metric=affinities_bce").training.checkpoints.best_mode
        == "min"
    )
    assert learning("[classes]").model.outputs is None, "predicted as classes, with a segmentation"


@pytest.mark.parametrize(
    "targets", ["[classes]", "[affinities, {type: lsd, sigma: [80, 40, 40], loss: {type: sum, losses: [mse]}}]"]
)
def test_what_is_tracked_reads_back_as_the_same_configuration(targets: str) -> None:
    config = learning(targets)
    tracked = json.loads(json.dumps(config.model_dump(mode="json")))
    assert TrainingConfig.model_validate(tracked) == config


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ("classes", "targets must be a list of targets, each a mapping with type (classes, affinities, boundaries"),
        ("[]", "targets must be a list of targets"),
        ("[5]", "targets[0] is 5: known types are classes, affinities"),
        ("[{offsets: 3}]", 'targets[0] is {"offsets": 3}: known types are'),
        ("[affinity]", "targets[0] has the type 'affinity'; did you mean 'affinities'?"),
        ("[classes, {type: affinities, ofsets: 3}]", "Unknown key 'ofsets' in targets[1]; did you mean 'offsets'?"),
        (
            "[{type: affinities, offsets: [[1]]}]",
            "each entry three whole numbers [z, y, x], or two [y, x], found [[1]]",
        ),
        ("[{type: affinities, offsets: [[0,0,0]]}]", "a voxel is always its own object"),
        ("[{type: affinities, offsets: [[0,1],[0,0,1]]}]", "affinities has an offset twice"),
        (
            "[{type: affinities, offsets: [[0,-110,0]]}]",
            "the offset [0, -110, 0], which is longer than a block of training.output_size_voxels [110, 110, 110]",
        ),
        ("[{type: affinities, labels: [2]}]", "reads the labels of class 2, but data.num_classes is 2 with background"),
        ("[{type: affinities, weight: 0}]", "weight must be a number above 0, found 0 in targets[0]"),
        ("[{type: lsd, sigma: 4}]", "sigma of lsd is 4 nm, less than a voxel of 5 nm along z times downsample 1"),
        ("[{type: lsd, sigma: [80, 40]}]", "sigma of lsd has 2 numbers for 3 axes that count: give one number"),
        ("[{type: lsd, sigma: [80,40,40], per_section: true}]", "3 numbers for 2 axes that count (per_section=true)"),
        ("[{type: lsd, components: [10]}]", "lsd has the component 10: give some of 0 to 9"),
        ("[{type: lsd, loss: bce}]", "loss.type is bce, but lsd has continuous values: choose one of mse, sum."),
        ("[affinities, affinities]", "targets has a name twice (affinities, affinities)"),
        ("[{type: affinities, name: prob_maps}]", 'targets has the name "prob_maps"'),
        ("[{type: classes, clipmin: 0.9, clipmax: 0.1}]", "clipmin of classes is 0.9 and above clipmax 0.1"),
        (
            "[{type: affinities, loss: cross_entropy_scaling}]",
            "loss.type is cross_entropy_scaling, but affinities has independent channels of 0 and 1: choose one of",
        ),
        ("[{type: classes, loss: bce}]", "loss.type is bce, but classes has classes that exclude each other: choose"),
        ("[{type: classes, loss: {type: sum, losses: [dice, bce]}}]", "loss.type is bce, but classes has"),
        ("[{type: affinities, loss: {type: sum, losses: [dice], weights: [1,2]}}]", "loss.weights has 2 entries for 1"),
        ("[{type: affinities, loss: bec}]", "loss has the type 'bec'; did you mean 'bce'?"),
        ("[{type: affinities, loss: {type: dice, wieght: 1}}]", "Unknown key 'wieght' in loss"),
        (
            "[{type: classes, loss: {type: cross_entropy_scaling, weight: [1]}}]",
            "loss.weight has 1 entries, but there are 2 classes with background",
        ),
    ],
)
def test_a_wrong_target_is_one_sentence(targets: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        learning(targets)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("update", "sentence"),
    [
        ("model.num_fmaps_out=5", "the network needs a channel for each of what it learns (affinities: 3)"),
        ("model.outputs=[{name: a, channels: 2}]", "model.outputs describes other channels than targets"),
        ("loss.weight=[1,2]", "loss has no effect beside targets"),
        ("training.checkpoints.best_metric=dice_class_1", "is not a validation metric"),
        ("training.checkpoints.best_metric=loss_affinities", "is not a validation metric"),
        ("training.checkpoints={best_metric: affinities_bce, best_mode: max}", "would keep the worst checkpoint"),
    ],
)
def test_keys_that_contradict_targets_are_one_sentence(update: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        learning("[affinities]", update)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(("name", "address"), [*TARGETS.items(), *LOSSES.items()])
def test_the_name_in_the_registry_is_the_type_of_the_class(name: str, address: str) -> None:
    section = load(address)
    assert section.model_fields["type"].default == name
    assert [key for key, field in section.model_fields.items() if key != "type" and not field.description] == []
