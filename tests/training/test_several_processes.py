"""Two processes train as one does with the same batches, and only one of them writes."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from incasem_like.networks import read_checkpoint

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "02_train" / "train.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.slow


def torchrun(laboratory: Any, argv: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT), *argv]
    return subprocess.run(command, cwd=laboratory.project, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def srun(laboratory: Any, argv: list[str]) -> list[tuple[int, str, str]]:
    """Start two tasks with the variables that Slurm sets for them; return their status and what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    slurm = {
        "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "4711", "SLURM_STEP_NODELIST": "localhost",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    tasks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *argv], cwd=laboratory.project, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**ENVIRONMENT, **slurm, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
        )
        for task in range(2)
    ]  # fmt: skip
    printed = [task.communicate(timeout=600) for task in tasks]
    return [(task.returncode, *texts) for task, texts in zip(tasks, printed, strict=True)]


def test_two_processes_equal_one_at_the_same_total_batch(laboratory: Any) -> None:
    options = (
        *("training.batch_size=4", "training.accumulate=2", "training.iterations=4", "training.save_every=2"),
        *("training.optimizer.type=sgd", "training.optimizer.lr=0.1", "training.clip_gradient_norm=1"),
        "targets=[classes,{type: boundaries,loss: {type: sum,losses: [dice,weighted_bce]}},{type: distance}]",
    )
    argv = laboratory.new(*options)
    assert laboratory.train(argv) == 0, laboratory.output.read_text()
    together = torchrun(laboratory, argv)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("Trained 4 iterations") == 1
    assert laboratory.store.ids() == [1, 2]
    one, two = laboratory.store.get(1), laboratory.store.get(2)
    for name in ("loss_train_0", "loss_boundaries_train", "loss"):
        assert two.metrics[name].steps == one.metrics[name].steps
        assert two.metrics[name].values == pytest.approx(one.metrics[name].values, rel=1e-4), name
    states = [read_checkpoint(laboratory.runs / f"models/{run}/model_checkpoint_4") for run in ("0001", "0002")]
    first = read_checkpoint(laboratory.runs / "models/0001/model_checkpoint_2").network_state
    for name, value in states[0].network_state.items():
        assert torch.allclose(value, states[1].network_state[name], rtol=1e-4, atol=1e-6), name
        assert not torch.equal(value, first[name])

    resumed = torchrun(laboratory, laboratory.going_on(2, "training.iterations=6"))
    assert resumed.returncode == 0, resumed.stderr
    assert laboratory.train(laboratory.going_on(1, "training.iterations=6")) == 0
    last = [read_checkpoint(laboratory.runs / f"models/{run}/model_checkpoint_6") for run in ("0001", "0002")]
    for name, value in last[0].network_state.items():
        assert torch.allclose(value, last[1].network_state[name], rtol=1e-4, atol=1e-6), name


def test_a_batch_that_does_not_divide_among_the_tasks_of_slurm_is_one_sentence(laboratory: Any) -> None:
    (leader, _, complaint), (other, *printed) = srun(laboratory, laboratory.new("training.batch_size=3"))
    assert leader == 2, complaint
    assert "training.batch_size 3 does not divide among 2 processes: set it to a multiple of 2" in complaint
    assert other == 0
    assert printed == ["", ""]
    assert laboratory.store.ids() == []
