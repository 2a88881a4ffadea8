"""The target and the loss that docs/architecture.md adds work as they stand there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from incasem_like.config import load_training_config
from incasem_like.config.reference import reference_page
from incasem_like.config.target_sections import LOSSES, TARGETS
from incasem_like.errors import ConfigError
from incasem_like.targets import LabelBlock, targets_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Write the files of the page and add the lines that it names to the registries."""
    page = PAGE.read_text()
    files = dict(re.findall(r"```python\n# incasem_like/targets/(\w+)\.py\n(.*?)```", page, re.DOTALL))
    assert set(files) == {"foreground", "absolute"}
    for name, text in files.items():
        (tmp_path / f"own_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    lines = re.findall(r'`"(\w+)": "incasem_like\.targets\.(\w+:\w+)"`', page)
    assert [name for name, _ in lines] == ["foreground", "l1"]
    for table, (name, address) in zip((TARGETS, LOSSES), lines, strict=True):
        monkeypatch.setitem(table, name, f"own_{address}")


@pytest.mark.usefixtures("added")
def test_the_target_of_the_page_is_learnt_by_the_loss_of_the_page():
    config = load_training_config([], ["targets=[{type: foreground, background_weight: 0.5, loss: l1}]"])
    (learnt,) = targets_of(config)
    assert (config.model.num_fmaps_out, config.training.checkpoints.best_metric) == (1, "foreground_dice")
    ids = np.arange(8, dtype=np.uint64).reshape(2, 2, 2) // 3
    mask = np.ones((2, 2, 2), np.uint8)
    mask[0, 0, 0] = 0
    block = LabelBlock((ids > 0).astype(np.uint8), {1: ids}, mask, np.ones_like(mask), (5.0, 5.0, 5.0))
    target, weight = learnt.make(block)
    assert target[0].ravel().tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert weight[0].ravel().tolist() == [0, 0.5, 0.5, 1, 1, 1, 1, 1]
    loss = learnt.loss_of(torch.zeros(1, 1, 2, 2, 2), torch.from_numpy(target)[None], torch.from_numpy(weight)[None])
    assert float(loss) == 0.5
    assert "### Target `foreground`" in reference_page()
    with pytest.raises(
        ConfigError, match=r"Unknown key 'background' in targets\[0\]; did you mean 'background_weight'"
    ):
        load_training_config([], ["targets=[{type: foreground, background: 0.5}]"])
