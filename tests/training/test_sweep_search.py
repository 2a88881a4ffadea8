"""The parameters of a sweep's trials: grids, draws, and what is wrong with a search space."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from incasem_like.config.sweep_config import SweepConfig, SweepSection
from incasem_like.errors import ConfigError, InputError
from incasem_like.search import Search, Trial, best_trial, trials_csv
from incasem_like.training.sweep import trial_config

LR = {"low": 1e-5, "high": 1e-3, "log": True}


def asked(section: SweepSection, score: Any = None, mode: str = "max") -> list[Trial]:
    """Ask for all trials one by one, each measured by ``score``."""
    search, trials = Search(section, "dice", mode), []
    while found := search.ask(trials, 1):
        for trial in found:
            trial.status, trial.value = "COMPLETED", None if score is None else score(trial.parameters)
        trials += found
    return trials


def test_a_grid_is_every_combination_once() -> None:
    section = SweepSection(
        space={"a": {"b": [1, 2]}, "c.d": {"low": 0.0, "high": 0.3, "step": 0.1}, "e": [[1], [2, 3]]}
    )
    found = [tuple(trial.parameters.items()) for trial in asked(section)]
    steps = (0.0, 0.1, 0.2, 0.3)
    wanted = list(itertools.product((1, 2), steps, ([1], [2, 3])))
    assert [tuple(key for key, _ in row) for row in found] == [("a.b", "c.d", "e")] * len(wanted)
    assert [tuple(value for _, value in row) for row in found] == [(a, pytest.approx(c), e) for a, c, e in wanted]


def test_trials_limit_a_grid() -> None:
    assert [trial.parameters["a"] for trial in asked(SweepSection(trials=2, space={"a": [5, 6, 7]}))] == [5, 6]


@pytest.mark.parametrize("method", ["random", "optuna"])
def test_draws_lie_in_the_space_and_depend_on_the_seed_alone(method: str) -> None:
    def section(seed: int) -> SweepSection:
        return SweepSection(
            method=method, trials=12, seed=seed,
            space={"lr": LR, "n": {"low": 4, "high": 16, "step": 4}, "size": [[1, 2], [3, 4]]},
        )  # fmt: skip

    def score(parameters: dict[str, Any]) -> float:
        return -abs(parameters["lr"] - 1e-4)

    first, again, other = asked(section(1), score), asked(section(1), score), asked(section(2), score)
    assert [t.parameters for t in first] == [t.parameters for t in again] != [t.parameters for t in other]
    assert len(first) == 12
    for trial in first:
        assert 1e-5 <= trial.parameters["lr"] <= 1e-3
        assert trial.parameters["n"] in (4, 8, 12, 16)
        assert isinstance(trial.parameters["n"], int)
        assert trial.parameters["size"] in ([1, 2], [3, 4])


def test_a_resumed_search_goes_on_as_if_it_had_not_stopped() -> None:
    section = SweepSection(method="optuna", trials=8, space={"lr": LR})
    whole = asked(section, lambda parameters: parameters["lr"])
    assert Search(section, "dice", "max").ask(whole[:5], 1) == [Trial(5, whole[5].parameters)]


def test_random_draws_do_not_depend_on_how_many_run_at_a_time() -> None:
    section = SweepSection(method="random", trials=6, space={"lr": LR})
    assert [t.parameters for t in Search(section, "dice", "max").ask([], 6)] == [t.parameters for t in asked(section)]


def test_optuna_draws_near_the_best_values() -> None:
    section = SweepSection(method="optuna", trials=40, space={"x": {"low": 0.0, "high": 1.0}})
    late = asked(section, lambda parameters: (parameters["x"] - 0.7) ** 2, mode="min")[-15:]
    drawn = asked(SweepSection(method="random", trials=40, space=section.space))[-15:]

    def mean_distance(trials: list[Trial]) -> float:
        return sum(abs(trial.parameters["x"] - 0.7) for trial in trials) / len(trials)

    assert mean_distance(late) < 0.2 < mean_distance(drawn)


@pytest.mark.parametrize(
    ("space", "method", "words"),
    [
        ({"lr": []}, "grid", "sweep.space.lr is empty"),
        ({"lr": 3}, "grid", "give a list of values, or a range"),
        ({"a": {"lr": {"low": 1}}}, "random", r"sweep.space.a.lr is the range .* give both low and high"),
        ({"lr": {"low": 2, "high": 1}}, "random", "low 2 above high 1"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "random", "low must be above 0"),
        ({"lr": {"low": 0, "high": 1}}, "grid", "a range without a step"),
        ({"lr": {"low": "a", "high": 1}}, "random", "low, high and step are numbers"),
        ({"lr": {"low": 1, "high": float("inf")}}, "random", "low, high and step are numbers"),
    ],
)
def test_a_wrong_space_is_one_sentence(space: dict[str, Any], method: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SweepConfig.model_validate({"sweep": {"method": method, "space": space}})


def test_nothing_to_vary_and_too_much_to_try_are_refused() -> None:
    with pytest.raises(InputError, match=r"sweep\.space is empty"):
        Search(SweepSection(), "dice", "max")
    with pytest.raises(InputError, match="1000000 combinations"):
        Search(SweepSection(space={key: list(range(100)) for key in "abc"}), "dice", "max")


def test_a_trial_changes_only_its_keys() -> None:
    config = SweepConfig.model_validate({"seed": 3, "sweep": {"space": {"training.optimizer.lr": [1e-3]}}})
    changed = trial_config(config, Trial(0, {"training.optimizer.lr": 0.5, "model.num_fmaps": 4}))
    assert (changed.training.optimizer.lr, changed.model.num_fmaps) == (0.5, 4)
    same = changed.model_dump(exclude={"training": {"optimizer": {"lr"}}, "model": {"num_fmaps"}})
    assert same == config.model_dump(exclude={"sweep": True, "training": {"optimizer": {"lr"}}, "model": {"num_fmaps"}})


def test_a_section_that_is_off_is_switched_on_by_its_keys() -> None:
    config = SweepConfig.model_validate({"sweep": {"space": {"training.augmentation.blur.sigma": [[0, 1]]}}})
    blur = trial_config(config, Trial(0, {"training.augmentation.blur.sigma": [0, 2]})).training.augmentation.blur
    assert blur is not None
    assert blur.sigma == (0, 2)


def test_targets_are_varied_as_a_whole_and_what_follows_from_them_follows() -> None:
    config = SweepConfig.model_validate({})
    changed = trial_config(config, Trial(0, {"targets": [{"type": "affinities", "offsets": [[0, 0, -1]]}]}))
    assert changed.model.num_fmaps_out == 1
    assert changed.training.checkpoints.best_metric.startswith("affinities_")
    for key in ("targets.0.weight", "training.iterations.x"):
        with pytest.raises(ConfigError, match="not a section"):
            trial_config(SweepConfig.model_validate({"targets": ["boundaries"]}), Trial(0, {key: 2}))


def test_a_wrong_value_names_its_trial() -> None:
    with pytest.raises(ConfigError, match="in trial 2 of the sweep"):
        trial_config(SweepConfig.model_validate({}), Trial(2, {"training.optimizer.lr": "high"}))


def test_the_table_and_the_best_trial() -> None:
    trials = [
        Trial(0, {"lr": 0.1, "size": [1, 2]}, 7, "COMPLETED", 0.5),
        Trial(1, {"lr": 0.2, "size": [3, 4]}, 8, "FAILED"),
        Trial(2, {"lr": 0.3, "size": [1, 2]}, 9, "COMPLETED", 0.25),
    ]
    assert trials_csv(trials, "dice_class_1").splitlines() == [
        "trial,training_run,status,dice_class_1,lr,size",
        '0,7,COMPLETED,0.5,0.1,"[1, 2]"',
        '1,8,FAILED,,0.2,"[3, 4]"',
        '2,9,COMPLETED,0.25,0.3,"[1, 2]"',
    ]
    assert best_trial(trials, "max") is trials[0]
    assert best_trial(trials, "min") is trials[2]
    assert best_trial([trials[1]], "max") is None
