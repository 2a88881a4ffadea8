import pytest
import torch

from incasem_like.config import TorchConfig
from incasem_like.networks import autocast_dtype, check_device
from incasem_like.training.optimization import make_fabric


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16)])
def test_precision_of_the_cpu(precision: str, dtype: torch.dtype | None) -> None:
    config = TorchConfig(device="cpu", precision=precision)
    check_device(config)
    assert autocast_dtype(config) == dtype
    fabric, plugin = make_fabric(config)
    assert fabric.device == torch.device("cpu")
    assert plugin.state_dict() == {}
