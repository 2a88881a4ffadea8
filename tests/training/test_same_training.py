"""What may change when a run is continued, and what would make it another training."""

from collections.abc import Callable

import pytest

from incasem_like.config import TrainingConfig
from incasem_like.errors import ConfigError
from incasem_like.training.continuing import check_same_training, same_data

Configure = Callable[..., TrainingConfig]


def test_what_makes_no_other_training_may_change(configure: Configure) -> None:
    wanted = configure(
        *("training.iterations=9", "training.save_every=7", "training.precache.num_workers=3", "torch.device=0"),
        *("directories.runs=elsewhere", "tracking.url=mongodb://db", "sacred.log_every=5", "training.data=null"),
        *("training.checkpoints.keep_last=9", "validation.validate_every=5", "training.snapshot.every=0"),
    )
    check_same_training(configure(), wanted, lambda key: "here", 5)


@pytest.mark.parametrize(
    ("update", "key"),
    [
        ("training.optimizer.lr=0.5", "training.optimizer.lr=3e-05, but 0.5 is asked for"),
        ("model.num_fmaps=4", "model.num_fmaps=2, but 4"),
        ("seed=8", "seed=3, but 8"),
        ("torch.precision=bf16", 'torch.precision="fp32", but "bf16"'),
        ("training.augmentation.elastic=null", "training.augmentation.elastic.control_point_spacing=[32, 32, 32]"),
        ("training.batch_size=3", "training.batch_size=1, but 3"),
        ("training.start_from.run_id=3", "training.start_from.run_id=null, but 3"),
        ("training.checkpoints.best_metric=jaccard_class_1", 'best_metric="dice_class_1", but "jaccard_class_1"'),
    ],
)
def test_what_makes_another_training_is_named_with_the_way_to_it(configure: Configure, update: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_same_training(configure(), configure(update), lambda key: "on the command line", 5)
    assert str(caught.value).startswith("Run 5 was trained with ")
    assert key in str(caught.value)
    assert "is asked for on the command line: leave that out" in str(caught.value)
    assert "--start_from 5" in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": {"file": "c.zarr", "raw": "x"}}', '{"a":{"raw":"x","file":"c.zarr"}}', True),
        ('{"a": {"file": "b/c.zarr", "raw": "x"}}', '{"a": {"file": "/data/b/c.zarr", "raw": "x"}}', True),
        ('{"a": {"file": "b/c.zarr", "raw": "x"}}', '{"a": {"file": "/data/d/c.zarr", "raw": "x"}}', False),
        ('{"a": {"file": "c.zarr", "raw": "x"}}', '{"a": {"file": "c.zarr", "raw": "y"}}', False),
        ('{"a": {"file": "c"}, "b": {"file": "d"}}', '{"b": {"file": "d"}, "a": {"file": "c"}}', False),
        ("{}", "no JSON", False),
        ('{"a": 1}', '{"a": 1}', False),
    ],
)
def test_data_configurations_are_the_same_wherever_their_volumes_lie(one: str, other: str, same: bool) -> None:
    assert same_data(one, other) is same
    assert same_data(other, one) is same
