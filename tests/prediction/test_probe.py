"""Workers on other machines are asked what only they can tell: their memory, their speed, how exact they compute.

A stand-in for a machine with a GPU: a worker that takes ``torch.device=0`` for the CPU, which this machine refuses.
"""

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import zarr

from incasem_like.blockwise import list_jobs
from incasem_like.blockwise.launchers import WorkerGroup
from incasem_like.blockwise.workers_file import Workers, load_workers
from incasem_like.errors import ConfigError, InputError
from incasem_like.prediction.experiment import examine_prediction
from incasem_like.prediction.outputs import read_begun
from incasem_like.prediction.planning.planner import plan_prediction
from incasem_like.prediction.planning.probe import ProbeRequest
from incasem_like.prediction.planning.tile_size import MeasurementCache

GPU, BF16 = "torch.device=0", "torch.precision=bf16"
TILES = "prediction.input_size_voxels=[44,44,44]"
STAND_IN = """
import torch
from incasem_like import networks
from incasem_like.networks import devices

def torch_device(config):
    assert config.device_name == "cuda:0"
    return torch.device("cpu")

for module in (networks, devices):
    module.torch_device, module.check_device = torch_device, lambda config: None
"""

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INCASEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INCASEM_JOBS", str(tmp_path / "jobs"))


def workers_file(folder, *set_up):
    lines = json.dumps(["export OMP_NUM_THREADS=1", *set_up])
    (folder / "workers.yaml").write_text(f"{{launcher: command, command: '{{command}}', set_up: {lines}}}")
    return folder / "workers.yaml"


@pytest.fixture
def gpu_node(tmp_path):
    """A workers file of one worker that has a GPU, as it says."""
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "sitecustomize.py").write_text(STAND_IN)
    return workers_file(tmp_path, f'export PYTHONPATH="$PYTHONPATH:{tmp_path / "node"}"')


@pytest.fixture
def asked(monkeypatch):
    """The networks that workers were asked about, by the hash of their checkpoint, a list for each worker."""
    requests = []
    monkeypatch.setattr(
        ProbeRequest,
        "__reduce__",
        lambda request: (
            requests.append([place.checkpoint.sha256 for place in request.networks])
            or (ProbeRequest, (request.networks, request.section, request.regions))
        ),
    )
    return requests


def probabilities(place):
    container = zarr.open(str(place.container), mode="r")
    return np.stack([np.asarray(container[place.probability_map(number)]) for number in (0, 1)])


def planned(laboratory, config, workers=None, networks=1):
    return plan_prediction(config, [laboratory.training] * networks, workers).resolved()


def jobs():
    return [job.name for job in list_jobs()]


@pytest.mark.slow
def test_a_scheduler_without_a_gpu_has_its_workers_predict_on_theirs(laboratory, gpu_node, asked):
    workers = load_workers(gpu_node)
    done = laboratory.predict(laboratory.config(None, GPU), workers=workers)
    place = done.locations["cell_er"]
    assert np.abs(probabilities(place) - laboratory.one_shot((12, -18, 3), (25, 30, 28))).max() < 1e-5
    assert laboratory.store.get(1).config["torch"]["device"] == 0
    assert len(asked) == 1
    assert sorted(jobs()) == ["predict", "probe"]

    again = laboratory.predict(laboratory.config(None, GPU), workers=workers)
    assert np.array_equal(probabilities(again.locations["cell_er"]), probabilities(place))
    assert read_begun(again.locations["cell_er"]).input_size == read_begun(place).input_size
    assert sorted(jobs()) == ["predict", "predict", "probe"]


def test_tiles_and_blocks_are_those_of_the_workers_device(laboratory, gpu_node):
    """A GPU takes many small tiles together, and a block is as many."""
    config = laboratory.config({"wide": laboratory.wide_entry()}, GPU, TILES)
    plan = planned(laboratory, config, load_workers(gpu_node))
    assert plan.on_gpu
    assert plan.lead.profile is None  # with tiles configured, and in fp32, there is nothing to ask
    assert plan.predictor((44, 44, 44)).batch_size == 16
    assert next(plan.lead.module.parameters()).device.type == "cpu"
    assert plan.sources[0].torch.device == 0
    assert jobs() == []


def test_an_inexact_precision_gives_way_by_what_a_worker_found(laboratory, gpu_node, caplog, asked):
    updates = ["prediction.probe=worker", BF16, "prediction.precision_tolerance=0.00001", TILES]
    workers = load_workers(workers_file(gpu_node.parent))
    plan = planned(laboratory, laboratory.config(None, *updates), workers)
    here = planned(laboratory, laboratory.config(None, *updates, "prediction.probe=here"))
    assert plan.lead.precision == here.lead.precision
    assert plan.lead.source.torch.precision == "fp32"
    assert caplog.text.count("prediction.precision_tolerance allows 1e-05: predicting in fp32.") == 2
    assert len(asked) == 1
    moved = {"cell_er": laboratory.entry(offset=[13, -18, 3])}
    planned(laboratory, laboratory.config(moved, *updates), workers)
    assert len(asked) == 2  # what was found of one region says nothing of another


def test_one_worker_is_asked_about_all_networks_of_an_ensemble(laboratory, tmp_path, asked):
    config = laboratory.config(None, "prediction.probe=worker", "prediction.checkpoint=[1,2]", BF16)
    workers = load_workers(workers_file(tmp_path))
    plan = planned(laboratory, config, workers, networks=2)
    assert asked == [[laboratory.training.checkpoint(iteration).sha256 for iteration in (1, 2)]]
    assert [member.precision.asked for member in plan.networks] == ["bf16", "bf16"]
    assert plan.speed(most_voxels=0).measured
    assert plan.choose_tiles(plan.regions[0]).tiles >= 1


@pytest.mark.slow
def test_one_worker_is_asked_about_all_checkpoints_of_a_series(series, tmp_path, asked):
    updates, path = [BF16, "prediction.probe=worker"], workers_file(tmp_path)
    done = series.predict(*updates, workers=load_workers(path))
    assert done.predicted == 2
    assert asked == [[series.training.checkpoint(iteration).sha256 for iteration in (1, 2)]]
    assert sorted(jobs()) == ["predict", "predict", "probe"]

    shutil.rmtree(tmp_path / "cache")
    assert series.predict(*updates, workers=load_workers(path)).predicted == 0  # and needs nobody for that
    series.register(3)
    found = series.examine(*updates, workers_file=path)
    assert found.problems == []
    assert "run 1 is resumed, 1 of them are left" in "\n".join(found.lines)
    assert len(asked) == 1


@pytest.mark.slow
def test_what_cannot_be_kept_is_asked_once_all_the_same(series, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(MeasurementCache, "write", lambda kept, value: None)
    done = series.predict(BF16, "prediction.probe=worker", workers=load_workers(workers_file(tmp_path)))
    assert done.predicted == 2
    assert len(asked) == 1


def test_what_says_nothing_of_speed_asks_nobody_again(laboratory, tmp_path, asked):
    updates = ["prediction.probe=worker", "prediction.test_time_augmentation=mirrors"]
    planned(laboratory, laboratory.config(None, updates[0]), load_workers(workers_file(tmp_path)))
    workers = load_workers(workers_file(tmp_path))
    (group,) = workers.groups
    longer = Workers((group.model_copy(update={"time": 7200.0, "count": 5}),), workers.scheduler)
    moved = laboratory.config({"cell_er": laboratory.entry(offset=[13, -18, 3])}, *updates)
    assert planned(laboratory, moved, longer).lead.profile.measured
    assert len(asked) == 1
    more = Workers((group.model_copy(update={"cores": 2}),), workers.scheduler)
    planned(laboratory, moved, more)
    assert len(asked) == 2


def test_what_two_ask_at_once_is_measured_once(laboratory, tmp_path, asked):
    config = laboratory.config(None, "prediction.probe=worker")
    workers = load_workers(workers_file(tmp_path))
    with ThreadPoolExecutor(2) as pool:
        plans = list(pool.map(lambda _: planned(laboratory, config, workers), range(2)))
    assert all(plan.lead.profile.measured for plan in plans)
    assert [(job.name, job.state) for job in list_jobs()] == [("probe", "finished")]
    assert len(asked) == 1
    assert not list((tmp_path / "jobs" / "ledgers").rglob("*.npy"))


@pytest.mark.slow
def test_a_probe_that_was_killed_is_the_same_job_when_it_is_repeated(laboratory, gpu_node, start_predict, tmp_path):
    laboratory.config()
    waiting = gpu_node.with_name("waiting.yaml")
    waiting.write_text(gpu_node.read_text().replace("'{command}'", f"'{tmp_path}/queue {{command}}'"))
    (tmp_path / "queue").write_text('#!/bin/bash\n[ -e "$0.open" ] || sleep 1000\nexec "$@"\n')
    (tmp_path / "queue").chmod(0o755)
    first = start_predict("--run_id", "1", "--workers", str(waiting), updates=[GPU])
    while "probe" not in jobs():
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.communicate()
    assert [job.state for job in list_jobs()] == ["died"]
    (tmp_path / "queue.open").touch()
    again = start_predict("--run_id", "1", "--workers", str(waiting), updates=[GPU])
    assert again.communicate()[0]
    assert again.returncode == 0
    assert sorted((job.name, job.state) for job in list_jobs()) == [("predict", "finished"), ("probe", "finished")]


def test_a_dry_run_starts_no_worker_and_knows_what_one_has_said(laboratory, gpu_node):
    config = laboratory.config(None, GPU)

    def examine():
        return examine_prediction(
            config, lambda: [laboratory.training], lambda: laboratory.store, workers_file=gpu_node
        )

    before = examine()
    assert before.problems == []
    said = "\n".join(before.lines)
    assert "cell_er: 25 x 30 x 28 voxels; a worker that is started first finds out what tiles are good" in said
    assert "at most" in said
    assert "Memory" not in said
    assert jobs() == []

    planned(laboratory, config, load_workers(gpu_node))
    said = "\n".join(examine().lines)
    assert "a tile reads " in said
    assert "of its GPU" in said
    assert "on 1 worker, if they are all as fast as the one that was measured, on " in said


def test_a_dry_run_does_not_take_a_precision_that_is_not_settled_for_another_one(laboratory, tmp_path, asked):
    path = workers_file(tmp_path)
    config = laboratory.config(None, BF16, "prediction.probe=worker", "prediction.precision_tolerance=0.00001", TILES)
    laboratory.predict(config, workers=load_workers(path))
    assert read_begun(plan_prediction(config, [laboratory.training], load_workers(path)).locations(1)[0]).done
    shutil.rmtree(tmp_path / "cache")
    found = examine_prediction(
        config, lambda: [laboratory.training], lambda: laboratory.store, resume=1, workers_file=path
    )
    assert found.problems == []
    assert "Precision: a worker that is started first compares torch.precision=bf16 with fp32." in found.lines
    assert len(asked) == 1


def test_what_is_quickly_checked_is_checked_before_a_worker_is_asked(laboratory, tmp_path, asked):
    config = laboratory.config(None, "prediction.probe=worker")
    workers = load_workers(workers_file(tmp_path))
    with pytest.raises(InputError, match="predict_0099 holds no prediction that was begun"):
        laboratory.predict(config, workers=workers, resume=99)
    with pytest.raises(ConfigError, match=r"fp16 needs a CUDA GPU, but torch\.device is cpu"):
        laboratory.predict(laboratory.config(None, "prediction.probe=worker", "torch.precision=fp16"), workers=workers)
    assert asked == []


def test_a_dry_run_with_a_wrong_workers_file_speaks_of_nothing_else(laboratory, tmp_path):
    (tmp_path / "workers.yaml").write_text("launcher: cloud")
    found = examine_prediction(
        laboratory.config(None, GPU),
        lambda: [laboratory.training],
        lambda: laboratory.store,
        workers_file=tmp_path / "workers.yaml",
    )
    assert len(found.problems) == 1
    assert "launcher" in found.problems[0]


@pytest.mark.slow
def test_a_worker_that_cannot_predict_says_why_and_nothing_is_begun(laboratory, tmp_path, run_predict):
    laboratory.config()
    refused = run_predict("--run_id", "1", "--workers", str(workers_file(tmp_path)), updates=[GPU])
    assert refused.returncode == 2
    (sentence,) = [line for line in refused.stderr.splitlines() if "GPU" in line]
    assert re.search(r"The worker on \S+, asked how it would predict, cannot: torch.device=0 asks for a GPU", sentence)
    assert laboratory.store.ids() == []
    assert not (laboratory.container / "volumes/predictions").exists()
    assert sentence.endswith("The workers file asks for no GPU: add gpus: 1 there.")
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.parametrize("updates", [[GPU], [GPU, "prediction.probe=here"]])
def test_without_workers_elsewhere_the_gpu_has_to_be_here(laboratory, updates):
    with pytest.raises(ConfigError, match="this machine has none that CUDA can use"):
        plan_prediction(laboratory.config(None, *updates), [laboratory.training], Workers.local(2))
    both = Workers((WorkerGroup(), WorkerGroup(launcher="slurm")))
    with pytest.raises(ConfigError, match="this machine has none that CUDA can use"):
        plan_prediction(laboratory.config(None, *updates), [laboratory.training], both)
    with pytest.raises(ConfigError, match=r"start this where there is one, or have workers .* \(--workers\)\.$"):
        plan_prediction(laboratory.config(None, *updates), [laboratory.training])


def test_a_worker_is_asked_only_where_there_is_one(laboratory):
    with pytest.raises(InputError, match=r"probe=worker .* there are none: give them by --workers, or set"):
        plan_prediction(laboratory.config(None, "prediction.probe=worker"), [laboratory.training])
