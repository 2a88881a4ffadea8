"""What the last bits of a training depend on: recorded, and reported where a run is repeated or continued elsewhere."""

import logging
from collections.abc import Callable
from importlib.metadata import version

import pytest
import torch
from sacred.host_info import get_host_info

from incasem_like.config import TorchConfig, TrainingConfig
from incasem_like.networks import describe_arithmetic
from incasem_like.tracking import RunStore
from incasem_like.training.arithmetic import arithmetic_differences
from incasem_like.training.experiment import train

Configure = Callable[..., TrainingConfig]


def test_what_the_numbers_depend_on_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    described = describe_arithmetic(TorchConfig(device="cpu", channels_last=True))
    assert described["processor"].startswith(get_host_info([])["cpu"])
    assert described["cpu_capability"] in torch.__config__.show()
    assert described["threads"] == torch.get_num_threads()
    assert described["numpy"] == version("numpy")
    assert (described["device"], described["channels_last"], described["MKL_CBWR"]) == ("cpu", True, "COMPATIBLE")
    assert describe_arithmetic(TorchConfig(device="cpu", num_threads=7))["threads"] == 7


def test_only_what_differs_is_listed_and_nothing_where_a_run_recorded_nothing() -> None:
    two, four = {"threads": 2, "torch": "2.13"}, {"threads": 4, "torch": "2.13", "MKL_CBWR": "AVX2"}
    assert arithmetic_differences([[two], [two]]) == {}
    assert arithmetic_differences([[two], [four]]) == {"threads": ["2", "4"], "MKL_CBWR": ["unset", "AVX2"]}
    assert arithmetic_differences([[two, four], [four]])["threads"] == ["2 and 4", "4"]
    assert arithmetic_differences([[two], []]) == {}


def test_a_repeated_run_is_compared_with_the_one_before(
    configure: Configure, store_of: Callable[..., RunStore], caplog: pytest.LogCaptureFixture
) -> None:
    config = configure("training.iterations=1", "training.save_every=1", "validation.data=null")
    store = store_of(config)
    train(config, store=lambda: store)
    with caplog.at_level(logging.WARNING):
        train(config, store=lambda: store, repeats=store.get(1))
        assert "bit for bit" not in caplog.text
        other = config.model_copy(update={"torch": config.torch.model_copy(update={"channels_last": True})})
        train(other, store=lambda: store, repeats=store.get(2))
    assert "bit for bit: channels_last False, now True." in caplog.text
    assert [store.get(number).info["arithmetic"][0]["channels_last"] for number in (1, 2, 3)] == [False, False, True]
