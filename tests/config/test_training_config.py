"""What a training configuration takes, and the one sentence for what it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from incasem_like.config import TrainingConfig, UnetModel, load_training_config
from incasem_like.config.network_sections import StackedHourglassModel
from incasem_like.errors import ConfigError


def load(*updates: str) -> TrainingConfig:
    return load_training_config([], updates)


def test_defaults_are_those_of_incasem() -> None:
    config = TrainingConfig()
    assert config.training.iterations == 200_000
    assert config.training.optimizer.lr == config.training.optimizer.weight_decay == 3e-5
    assert config.training.input_size_voxels == (204, 204, 204)
    assert config.training.output_size_voxels == (110, 110, 110)
    assert (config.training.reject.min_masked, config.training.reject.reject_probability) == (0.05, 0.9)
    assert config.training.augmentation.elastic is not None
    assert config.training.augmentation.elastic.control_point_spacing == (32, 32, 32)
    assert config.model.downsample_factors == ((2, 2, 2),) * 3
    assert (config.loss.balance_labels.clipmin, config.loss.balance_labels.clipmax) == (0.01, 0.99)
    assert (config.validation.validate_every, config.validation.snapshot.every) == (1000, 10)


def test_what_is_tracked_reads_back_as_the_same_configuration() -> None:
    config = load("seed=7", "training.augmentation.intensity=null", "data.voxel_size=[4.6,4.6,4.6]")
    tracked = json.loads(json.dumps(config.model_dump(mode="json")))
    assert tracked["sources"] == {"class": "DataSourcesSemantic"}
    assert TrainingConfig.model_validate(tracked) == config


def test_a_network_has_the_options_of_its_type_and_reads_back() -> None:
    config = load("model.type=StackedHourglass", "model.num_stacks=4", "model.num_fmaps=8")
    assert isinstance(config.model, StackedHourglassModel)
    assert (config.model.num_stacks, config.model.num_fmaps) == (4, 8)
    tracked = json.loads(json.dumps(config.model_dump(mode="json")))
    assert TrainingConfig.model_validate(tracked) == config
    assert "crop_to_factor" not in tracked["model"]
    assert load("model.type=Custom", "model.module=a.b:C", "model.options.depth=3").model.options == {"depth": 3}
    first = load("model.type=AutoContext", "model.first.num_fmaps_out=10").model.first
    assert (type(first), first.num_fmaps_out) == (UnetModel, 10)


def test_a_later_layer_that_names_another_network_drops_the_options_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "unet.yaml").write_text("model: {type: Unet, constant_upsample: false, num_fmaps: 12}")
    (tmp_path / "stacks.yaml").write_text("model: {type: StackedHourglass, num_stacks: 3}")
    files = [tmp_path / "unet.yaml", tmp_path / "stacks.yaml"]
    model = load_training_config(files).model
    assert isinstance(model, StackedHourglassModel)
    assert (model.num_stacks, model.num_fmaps) == (3, 12)  # both networks have num_fmaps
    with pytest.raises(ConfigError, match=r"'model.constant_upsample' on the command line: model.type is Stacked"):
        load_training_config(files, ["model.constant_upsample=true"])
    with pytest.raises(
        ConfigError, match=r"'model.num_stacks' on the command line: model.type is Unet, but .* Stacked"
    ):
        load_training_config(files[::-1], ["model.num_stacks=2"])


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError):
        TrainingConfig().training.iterations = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("update", "value", "read"),
    [
        ("training.optimizer.lr=3e-5", 3e-5, lambda c: c.training.optimizer.lr),
        ("training.optimizer.lr=1E-4", 1e-4, lambda c: c.training.optimizer.lr),
        ("training.optimizer.lr=1", 1.0, lambda c: c.training.optimizer.lr),
        ("training.iterations=2e3", 2000, lambda c: c.training.iterations),
        ("tracking.store_checkpoints=last,best", "best,last", lambda c: c.tracking.store_checkpoints),
        ("tracking.store_checkpoints=[last]", "last", lambda c: c.tracking.store_checkpoints),
        ("tracking.store_checkpoints=None", "none", lambda c: c.tracking.store_checkpoints),
        ("data.voxel_size=[5, 4.6, 4.6]", (5, 4.6, 4.6), lambda c: c.data.voxel_size),
        ("training.augmentation.simple.transpose_only=[]", (), lambda c: c.training.augmentation.simple.transpose_only),
        ("training.augmentation.elastic=null", None, lambda c: c.training.augmentation.elastic),
        ("training.augmentation.elastic=", None, lambda c: c.training.augmentation.elastic),
        ("training.augmentation.elastic={subsample: 1}", 1, lambda c: c.training.augmentation.elastic.subsample),
        ("training.learning_rate_schedule=cosine", "cosine", lambda c: c.training.learning_rate_schedule.type),
        ("torch.device=cuda:1", "cuda:1", lambda c: c.torch.device_name),
        ("torch.device=3", "cuda:3", lambda c: c.torch.device_name),
        ("torch.device='3'", "cuda:3", lambda c: c.torch.device_name),
        ("torch.device=mps", "mps", lambda c: c.torch.device_name),
        ("tracking.url='mongodb://localhost:27017'", "mongodb://localhost:27017", lambda c: c.tracking.url),
        ("tracking.url=mongodb://localhost/?a=b", "mongodb://localhost/?a=b", lambda c: c.tracking.url),
        ("model.kernel_size_up=[[[1,3,3]],[[3,3,3]],[[3,3,3]]]", (1, 3, 3), lambda c: c.model.kernel_size_up[0][0]),
    ],
)
def test_values_of_the_command_line_are_read_as_yaml(update: str, value: object, read: object) -> None:
    extra = ["training.augmentation.simple=null"] if "voxel_size" in update else []
    assert read(load(update, *extra)) == value  # type: ignore[operator]


def test_later_updates_win_and_sections_merge() -> None:
    config = load("training.augmentation.elastic=null", "training.augmentation.elastic.subsample=2", "seed=1", "seed=2")
    assert config.seed == 2
    assert config.training.augmentation.elastic is not None
    assert config.training.augmentation.elastic.subsample == 2
    assert config.training.augmentation.elastic.max_misalign == 2


@pytest.mark.parametrize(
    ("update", "sentence"),
    [
        (
            "training.itertions=3",
            "Unknown key 'training.itertions' on the command line; did you mean 'training.iterations'?",
        ),
        ("num_classes=3", "did you mean 'data.num_classes'?"),
        ("training.reject.probability=1", "did you mean 'training.reject.reject_probability'?"),
        ("training.optimzer.lr=1", "did you mean 'training.optimizer'?"),
        ("elastic=null", "did you mean 'training.augmentation.elastic'?"),
        (
            "tracking.store_checkpoints=bst",
            'tracking.store_checkpoints must be best, last, both with a comma between, all or none, found "bst"',
        ),
        ("tracking.store_checkpoints=all,best", 'all or none, found "all,best"'),
        ("save_evry=1", "did you mean 'training.save_every'?"),
        ("validate_every=1", "did you mean 'validation.validate_every'?"),
        (
            "input_size_voxels=[1,1,1]",
            "did you mean 'training.input_size_voxels' or 'validation.input_size_voxels'?",
        ),
        ("xyzzy=1", "known are seed, directories, training,"),
        ("training.iterations.more=1", "training.iterations must be a whole number of at least 1, found {"),
        ("training.iterations=many", 'training.iterations must be a whole number of at least 1, found "many" on the'),
        ("training.iterations=0", "at least 1, found 0"),
        ("training.iterations=1.5", "at least 1, found 1.5"),
        ("training.iterations=true", "at least 1, found true"),
        ("training.iterations=null", "at least 1, found null"),
        ("training.optimizer.lr='3e-5'", 'must be a number above 0, found "3e-5"'),
        (f"training.optimizer.lr=1{'0' * 400}", "must be a number above 0, found 1000"),
        ("training.optimizer.lr=.nan", "must be a number above 0, found NaN"),
        ("training.reject.min_masked=5", "must be a number from 0 to 1, found 5"),
        ("training.input_size_voxels=204", "must be [z, y, x], each a whole number of at least 1, found 204"),
        ("training.input_size_voxels=[204, 204]", "found [204, 204]"),
        ("training.input_size_voxels=[204, 204, 204, 1]", "found [204, 204, 204, 1]"),
        ("training.pipeline=baseline", "must be 'baseline_with_context', found \"baseline\""),
        ("training.augmentation.elastic.rotation=1", "must be true or false, found 1"),
        ("training.augmentation.simple.mirror_only=[3]", "out of 0 (z), 1 (y), 2 (x), found [3]"),
        ("training.augmentation=null", "must be a section with keys of its own, found null"),
        ("training.augmentation.blur.sigma=[2, 1]", "two numbers [from, to] of at least 0, ascending, found [2, 1]"),
        ("training.augmentation.gamma.gamma=1.5", "two numbers [from, to] above 0, ascending, found 1.5"),
        ("training.augmentation.defects={missing: 0.6, artefact: 0.6}", "sum to 1.23, but a section has one defect"),
        ("training=5", "must be a section with keys of its own, found 5"),
        ("torch.device=gpu", 'must be a GPU index, cuda, cuda:INDEX, cpu or mps, found "gpu"'),
        ("torch.precision=fp64", "must be one of 'fp32', 'bf16', 'fp16', found \"fp64\""),
        ("model.type=MultitaskUnet", "must be one of 'Unet', 'StackedHourglass'"),
        ("model.downsample_factors=[]", "must be a list with one [z, y, x]"),
        ("seed=-1", "seed must be a whole number from 0 to 4294967295 or null, found -1"),
        ("training.iterations", "'training.iterations' on the command line has no '='"),
        ("=5", "has no key before the '='"),
        ("training.iterations=[1", "The value of training.iterations on the command line is not valid YAML in line 1"),
    ],
)
def test_a_wrong_value_is_one_sentence(update: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(update)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("updates", "sentence"),
    [
        (["model.num_fmaps_out=3"], "set model.num_fmaps_out=2"),
        (["data.num_classes=3", "model.num_fmaps_out=3"], "such as loss.weight=[1.0, 1.0, 1.0]"),
        (["training.output_size_voxels=[111,110,110]"], "does not lie centred in training.input_size_voxels"),
        (["validation.output_size_voxels=[210,110,110]"], "does not lie centred in validation.input_size_voxels"),
        (["data.voxel_size=[50,4.6,4.6]"], "(data.voxel_size is [50, 4.6, 4.6] nm): set transpose_only=[1, 2]"),
        (
            ["training.input_size_voxels=[132,204,204]", "training.output_size_voxels=[38,110,110]"],
            "whose sizes differ (training.input_size_voxels is [132, 204, 204]): set transpose_only=[1, 2]",
        ),
        (
            ["training.output_size_voxels=[38,110,110]"],
            "whose output sizes differ (training.output_size_voxels is [38, 110, 110]): set transpose_only=[1, 2]",
        ),
        (
            ["training.input_size_voxels=[132,204,204]", "data.voxel_size=[4,4,8]"],
            "whose voxel sizes differ (data.voxel_size is [4, 4, 8] nm): set transpose_only=[]",
        ),
        (
            ["data.voxel_size=[5,5,4]", "training.augmentation.simple.transpose_only=[0,1]"],
            "set training.augmentation.elastic.rotation=false",
        ),
        (["loss.balance_labels.clipmin=0.995"], "clipmin has to be above 0 and not above clipmax"),
        (["model.downsample_factors=[[2,2,2],[2,2]]"], "mixes 2-D and 3-D factors"),
        (["model.kernel_size_down=[[[3,3,3]]]"], "3 downsample_factors need 4"),
        (["model.kernel_size_up=[[[3,3]],[[3,3]],[[3,3]]]"], "has the kernel [3, 3] on level 0"),
        (["model.kernel_size_up=[[],[[3,3,3]],[[3,3,3]]]"], "has no kernel on level 0"),
        (["training.checkpoints.best_metric=dice_clas_1"], "did you mean 'dice_class_1'?"),
        (["training.checkpoints.best_metric=dice_class_2"], "data.num_classes is 2, so classes run from 0 to 1"),
        (["training.checkpoints.best_metric=accuracy"], "known are dice_class_0, dice_class_1"),
        (["training.checkpoints={best_metric: loss, best_mode: max}"], "set training.checkpoints.best_mode=min"),
    ],
)
def test_values_that_contradict_each_other_are_one_sentence(updates: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(*updates)
    assert sentence in str(caught.value)


def test_three_classes_need_three_keys() -> None:
    config = load("data.num_classes=3", "model.num_fmaps_out=3", "loss.weight=[1,1,2]")
    assert config.loss.weight == (1.0, 1.0, 2.0)


def test_an_error_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("training:\n  iterations: soon\n")
    with pytest.raises(ConfigError, match=rf'found "soon" in {file}\.$'):
        load_training_config([file])
    file.write_text("training:\n  iteration: 5\n")
    with pytest.raises(
        ConfigError, match=rf"Unknown key 'training.iteration' in {file}; did you mean 'training.iterations'"
    ):
        load_training_config([file])


def test_a_wrong_tracked_configuration_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"Unknown key 'training.foo' in the tracked configuration"):
        TrainingConfig.model_validate({"training": {"foo": 1}})
