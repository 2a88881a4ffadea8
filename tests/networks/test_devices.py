import pytest
import torch

from incasem_like.config import TorchConfig
from incasem_like.errors import ConfigError
from incasem_like.networks import check_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", [0, "cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_names_the_cpu(device: int | str) -> None:
    with pytest.raises(ConfigError, match=r"set torch\.device=cpu"):
        check_device(TorchConfig(device=device))


def test_a_gpu_beyond_the_last_names_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="GPU 2, but there are GPUs 0 to 1"):
        check_device(TorchConfig(device=2))


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="needs a machine without an Apple GPU")
def test_mps_elsewhere_than_on_a_mac() -> None:
    with pytest.raises(ConfigError, match=r"set torch\.device=cpu"):
        check_device(TorchConfig(device="mps"))


def test_half_precision_on_the_cpu_names_what_works() -> None:
    with pytest.raises(ConfigError, match=r"set torch\.precision to bf16 or fp32"):
        check_device(TorchConfig(device="cpu", precision="fp16"))


def test_compiling_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        check_device(TorchConfig(device="cpu", compile=True))
