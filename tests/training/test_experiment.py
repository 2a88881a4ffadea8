from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incasem_like.config import TrainingConfig, load_training_config
from incasem_like.errors import InputError
from incasem_like.tracking import RunStore, open_store
from incasem_like.training.experiment import train, with_seed

Configure = Callable[..., TrainingConfig]


@pytest.fixture
def configure(tiny_project: Path, tmp_path: Path) -> Configure:
    def configure(*updates: str) -> TrainingConfig:
        data = [f"training.data={tiny_project}/train.json", f"validation.data={tiny_project}/validate.json"]
        return load_training_config(
            [tiny_project / "tiny.yaml"], [*data, f"directories.runs={tmp_path}", "torch.num_threads=null", *updates]
        )

    return configure


def store_of(config: TrainingConfig) -> Callable[[], RunStore]:
    return lambda: open_store(None, "trainings", config.directories.runs)


def test_a_run_resumed_from_its_checkpoint_equals_the_uninterrupted_one(configure: Configure) -> None:
    config = configure("training.batch_size=2")
    whole = train(config, store=store_of(config))
    rest = train(config, store=store_of(config), resume=whole.folders.models / "model_checkpoint_3")
    assert rest.result == whole.result
    last = "model_checkpoint_6"
    assert (rest.folders.models / last).read_bytes() == (whole.folders.models / last).read_bytes()
    runs = [store_of(config)().get(run_id).metrics for run_id in (1, 2)]
    for name, metric in runs[1].items():
        assert (name == "num_params") or set(zip(metric.steps, metric.values, strict=True)) == {
            (step, value) for step, value in zip(runs[0][name].steps, runs[0][name].values, strict=True) if step > 3
        }


def test_checkpoints_of_a_run_that_the_store_does_not_know_are_left_alone(configure: Configure) -> None:
    config = configure("training.iterations=1", "validation.data=null")
    train(config, store=lambda: None)
    with pytest.raises(InputError, match="0000 already holds checkpoints, of an earlier run without a record"):
        train(config, store=lambda: None)


def test_a_drawn_seed_is_a_number_and_a_given_one_stays(make_config: Callable[..., Any]) -> None:
    assert with_seed(make_config(seed=0)).seed == 0
    drawn = {with_seed(make_config(seed=None)).seed for _ in range(3)}
    assert len(drawn) == 3
    assert all(isinstance(seed, int) for seed in drawn)
