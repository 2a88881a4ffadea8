import pytest
import torch

from incasem_like.blockwise.launchers import WorkerGroup
from incasem_like.blockwise.workers_file import Workers
from incasem_like.networks.description import ForwardMaps
from incasem_like.prediction.planning import memory as memory_module
from incasem_like.prediction.planning.memory import (
    BYTES_OF_A_PROCESS,
    MOST_HOST_BYTES,
    TileMemory,
    usable_memory,
    worker_count,
)
from incasem_like.processes import available_host_memory, cgroup_memory_left

MIB = 2**20


@pytest.fixture
def groups(tmp_path):
    """Files as the kernel shows control groups."""

    def made(membership, **files):
        for path, text in files.items():
            file = tmp_path / "cgroup" / path.replace("__", "/").replace("_DOT_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "membership").write_text(membership)
        return list(cgroup_memory_left(tmp_path / "cgroup", tmp_path / "membership"))

    return made


def test_memory_of_this_machine_is_found():
    assert 2**20 < usable_memory(torch.device("cpu")) <= MOST_HOST_BYTES
    assert available_host_memory() < 2**50


def test_workers_share_this_machine_or_have_what_their_queue_gives_them(monkeypatch):
    monkeypatch.setattr(memory_module, "available_host_memory", lambda: 8.0 * 2**30)
    cpu = torch.device("cpu")
    assert usable_memory(cpu) == MOST_HOST_BYTES
    assert usable_memory(cpu, Workers.local(8)) == 8 * 2**30 / 2 / 8
    asked = WorkerGroup(launcher="slurm", count=100, memory="2GiB")
    assert usable_memory(cpu, Workers((asked,))) == 2 * 2**30 - BYTES_OF_A_PROCESS
    assert usable_memory(cpu, Workers((WorkerGroup(launcher="slurm", count=100),))) == MOST_HOST_BYTES


def test_workers_are_counted(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    assert worker_count(None) == 1
    assert worker_count(Workers.local(3)) == 3
    assert worker_count(Workers((WorkerGroup(), WorkerGroup(launcher="slurm", count=20)))) == 21
    assert worker_count(Workers((WorkerGroup(gpus=2),))) == 4
    assert worker_count(Workers((WorkerGroup(gpus=2, count=3),))) == 3


def test_a_limit_of_control_groups_counts_at_every_level(groups):
    left = groups(
        "0::/user/job\n",
        user__memory_DOT_max=f"{800 * MIB}",
        user__memory_DOT_current=f"{300 * MIB}",
        user__memory_DOT_stat=f"anon 1\ninactive_file {100 * MIB}\n",
        user__job__memory_DOT_max="max\n",
        user__job__memory_DOT_current="5",
        user__job__memory_DOT_stat="",
    )
    assert left == [600 * MIB]  # files that can be dropped are not used


def test_the_older_kind_of_control_groups_is_read_too(groups):
    left = groups(
        "9:name=systemd:/\n4:cpu,memory:/slurm/job_1\n",
        memory__slurm__job_1__memory_DOT_limit_in_bytes=f"{64 * MIB}",
        memory__slurm__job_1__memory_DOT_usage_in_bytes=f"{80 * MIB}",
        memory__slurm__job_1__memory_DOT_stat="total_inactive_file 0\n",
    )
    assert left == [0]


def test_a_machine_without_control_groups_has_no_such_limit(tmp_path):
    assert list(cgroup_memory_left(tmp_path, tmp_path / "nothing")) == []


def test_slabs_take_memory_by_their_cross_section_and_hardly_by_depth():
    memory = TileMemory(32, 1, 2, 1, forward=None, whole=False, stride=8, lost=94)
    shallow, deep, wide = (float(memory.bytes(*size)) for size in ((200, 300, 300), (400, 300, 300), (200, 600, 300)))
    assert deep == shallow
    averaged = TileMemory(32, 1, 2, 1, forward=None, whole=True, stride=8, lost=94)
    assert float(averaged.bytes(400, 300, 300)) > deep
    assert wide > 1.6 * shallow
    whole = TileMemory(32, 1, 2, 1, forward=ForwardMaps(200, 96), whole=True, stride=8, lost=94)
    assert float(whole.bytes(400, 300, 300)) == 2 * float(whole.bytes(200, 300, 300))
