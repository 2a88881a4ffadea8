from collections.abc import Callable
from typing import Any

import pytest

from incasem_like.config import TrainingConfig
from incasem_like.errors import InputError
from incasem_like.tracking import RunStore
from incasem_like.training.experiment import train

Configure = Callable[..., TrainingConfig]
StoreOf = Callable[..., RunStore]


def test_runs_without_a_record_have_folders_of_their_own(configure: Configure) -> None:
    config = configure("training.iterations=1", "validation.data=null")
    folders = [train(config, store=lambda: None).folders for _ in range(2)]
    assert [found.name for found in folders] == ["unobserved_1", "unobserved_2"]
    assert all((found.models / "training_state_1").is_file() for found in folders)
    assert not (config.directories.runs / "tracking").exists()


def test_an_id_whose_folder_is_taken_is_refused_before_the_run_and_passed_over_where_none_is_wanted(
    configure: Configure, store_of: StoreOf
) -> None:
    config = configure("training.iterations=1", "validation.data=null")
    other = store_of(config, "other")
    train(config, store=lambda: other)
    store = store_of(config)
    with pytest.raises(InputError, match="0001 already holds checkpoints, of a run 1 that is not in this run store"):
        train(config, store=lambda: store, run_id=1)
    assert store.ids() == []
    assert train(config, store=lambda: store).folders.run_id == 2
    assert store.ids() == [2]


def test_a_drawn_seed_is_a_number_and_a_given_one_stays(make_config: Callable[..., Any]) -> None:
    assert make_config(seed=0).with_seed().seed == 0
    drawn = {make_config(seed=None).with_seed().seed for _ in range(3)}
    assert len(drawn) == 3
    assert all(isinstance(seed, int) for seed in drawn)
