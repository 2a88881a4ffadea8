"""Workers by command, Slurm and LSF: stand-ins for the queues' programs on PATH, real workers behind them."""

import contextlib
import json
import os
import signal
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
from distributed import Client, Security
from killing import works
from queue_programs import asked, install_queues

from incasem_like.blockwise import BlockTask, run_blockwise, try_blockwise
from incasem_like.blockwise.fleet import Fleet
from incasem_like.blockwise.launchers import WorkerGroup
from incasem_like.blockwise.workers_file import Workers, check_workers, load_workers
from incasem_like.errors import ConfigError, IncasemError, InputError
from incasem_like.volumes import open_volume

Smoothing = Callable[..., BlockTask]
BLOCKS = 27


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a stand-in queue on PATH and return its folder."""
    folder = tmp_path / "queue"
    install_queues(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def workers(tmp_path: Path, text: str) -> Workers:
    (tmp_path / "workers.yaml").write_text(text)
    return load_workers(tmp_path / "workers.yaml")


SLURM = (
    "{launcher: slurm, count: 2, cores: 3, memory: 1GiB, queue: short, gpus: 1, time: 2h, options: [--account=lab],"
    " set_up: 'export LOCAL_GPU=seven', scheduler: {listen: 127.0.0.1}}"
)
LSF = (
    "{launcher: lsf, count: 2, cores: 3, memory: 1GiB, queue: short, gpus: 1, time: 2h, options: [-P, lab],"
    " scheduler: {listen: '::1'}}"
)


def test_slurm_is_asked_for_what_the_file_says(
    smoothing: Smoothing, smoothed: np.ndarray, queue: Path, tmp_path: Path
) -> None:
    task = smoothing()
    assert run_blockwise(task, workers=workers(tmp_path, SLURM)).done == BLOCKS
    assert np.array_equal(open_volume(task.output.address).read(), smoothed)
    words = asked(queue)[0]
    assert words[:2] == ["sbatch", "--wait"]
    for pair in (["--cpus-per-task", "3"], ["--mem", "1024M"], ["--partition", "short"], ["--gres", "gpu:1"],
                 ["--time", "120"]):  # fmt: skip
        assert words[words.index(pair[0]) + 1] == pair[1]
    assert "--account=lab" in words


def test_lsf_is_asked_for_what_the_file_says(
    smoothing: Smoothing, smoothed: np.ndarray, queue: Path, tmp_path: Path
) -> None:
    task = smoothing()
    assert run_blockwise(task, workers=workers(tmp_path, LSF)).done == BLOCKS
    assert np.array_equal(open_volume(task.output.address).read(), smoothed)
    words = asked(queue)[0]
    assert words[:2] == ["bsub", "-K"]
    for pair in (["-n", "3"], ["-M", "1024MB"], ["-q", "short"], ["-gpu", "num=1"], ["-W", "120"]):
        assert words[words.index(pair[0]) + 1] == pair[1]
    assert "rusage[mem=1024MB]" in words
    assert words[words.index("-P") + 1] == "lab"


OTHERS = {
    "pbs": ["-W", "block=true", "-l", "select=1:ncpus=3:mem=1024mb:ngpus=1", "-l", "walltime=02:00:00", "-q", "short"],
    "sge": ["-sync", "y", "-pe", "smp", "3", "-l", "h_rt=02:00:00", "-l", "h_vmem=342M", "-l", "gpu=1", "-q", "short"],
    "htcondor": ["request_cpus=3", "request_memory=1024", "request_gpus=1", "+MaxRuntime=7200"],
    "oar": ["-l", "/nodes=1/gpu=1,walltime=02:00:00", "-q", "short"],
}


@pytest.mark.parametrize("launcher", OTHERS)
def test_other_queues_are_asked_for_what_the_file_says_and_run_the_blocks(
    smoothing: Smoothing, smoothed: np.ndarray, queue: Path, tmp_path: Path, launcher: str
) -> None:
    text = SLURM.replace("slurm", launcher).replace("[--account=lab]", "[]")
    text = text.replace("memory: 1GiB, ", "") if launcher == "oar" else text
    task = smoothing()
    assert run_blockwise(task, workers=workers(tmp_path, text)).done == BLOCKS
    assert np.array_equal(open_volume(task.output.address).read(), smoothed)
    words = [word for call in asked(queue) for word in call]
    assert not [word for word in OTHERS[launcher] if word not in words]


@pytest.mark.parametrize("launcher", ["slurm", "lsf", "pbs", "sge", "htcondor", "oar"])
def test_ctrl_c_ends_the_jobs_of_every_queue(
    script: Callable[..., Any], accident: Callable[[str], None], queue: Path, tmp_path: Path, launcher: str
) -> None:
    accident("wait:5")
    path = tmp_path / "workers.yaml"
    path.write_text(f"{{launcher: {launcher}, count: 2, scheduler: {{listen: 127.0.0.1}}}}")
    running = script("stopped", path)
    assert within(120, (tmp_path / "happened").exists)
    running.send_signal(signal.SIGTERM if launcher == "pbs" else signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == (-signal.SIGTERM if launcher == "pbs" else 130), said
    assert "Traceback" not in said
    pids = [int(pid) for pid in (queue / "pids").read_text().split()]
    assert within(30, lambda: not any(map(alive, pids)))
    (cancel,) = {call[0] for call in asked(queue)} & {"scancel", "bkill", "qdel", "condor_rm", "oardel"}
    named = {"pbs": "7.server", "oar": ""}.get(launcher, f"-{launcher}-1")
    assert any(named in word for call in asked(queue) if call[0] == cancel for word in call[1:])


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("launcher", ["lsf", "pbs", "sge", "htcondor", "oar"])
def test_a_queue_that_refuses_is_quoted(smoothing: Smoothing, queue: Path, tmp_path: Path, launcher: str) -> None:
    (queue / "closed").touch()
    text = f"{{launcher: {launcher}, scheduler: {{listen: 127.0.0.1}}}}"
    with pytest.raises(InputError, match=r"status 1, .*the queue is closed") as error:
        run_blockwise(smoothing(), workers=workers(tmp_path, text))
    assert error.value.exit_status == 2


def test_a_job_that_the_queue_kills_is_submitted_again(
    smoothing: Smoothing, functions: ModuleType, smoothed: np.ndarray, queue: Path, tmp_path: Path
) -> None:
    text = "{launcher: htcondor, scheduler: {listen: 127.0.0.1}}"
    task = smoothing(function=functions.die_once)
    assert run_blockwise(task, workers=workers(tmp_path, text))
    assert np.array_equal(open_volume(task.output.address).read(), smoothed)
    assert len([call for call in asked(queue) if call[0] == "condor_submit"]) == 3


@pytest.mark.slow
def test_workers_that_no_block_waits_for_leave_where_that_is_asked(
    smoothing: Smoothing,
    functions: ModuleType,
    queue: Path,
    tmp_path: Path,
    accident: Callable[[str], None],
    jobs: Path,
) -> None:
    text = "{launcher: slurm, adaptive: {minimum: 0, maximum: 3}, scheduler: {listen: 127.0.0.1, block_time_limit: 6s}}"
    accident("wait:26")  # the last one, for as long as it may
    summary = try_blockwise(smoothing(retries=0), workers=workers(tmp_path, text))
    assert [block.number for block in summary.failed] == [26]
    calls = [call for call in asked(queue) if call[0] in ("sbatch", "scancel")]
    started = [call for call in calls if call[0] == "sbatch"]
    assert len({word for call in started for word in call if "-slurm-" in word}) >= 3
    first_end = next(index for index, call in enumerate(calls) if call[0] == "scancel")
    assert any(call[0] == "sbatch" for call in calls[first_end:])  # for another try of the last block


def test_the_set_up_lines_and_thread_limits_reach_the_worker(
    smoothing: Smoothing, functions: ModuleType, queue: Path, tmp_path: Path
) -> None:
    task = smoothing(function=functions.serve, set_up=functions.lay_table)
    run_blockwise(task, workers=workers(tmp_path, SLURM))
    assert (open_volume(task.output.address).read() == 3).all()
    script = next((tmp_path / "jobs").glob("*/slurm-1.sh")).read_text()
    assert "export LOCAL_GPU=seven\n" in script
    assert 'export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"\n' in script
    assert "KEY" not in script


def test_a_queue_that_takes_no_jobs_is_said(smoothing: Smoothing, queue: Path, tmp_path: Path) -> None:
    (queue / "closed").touch()
    with pytest.raises(IncasemError, match=r"status 1, .*the queue is closed"):
        run_blockwise(smoothing(), workers=workers(tmp_path, SLURM))


def test_a_missing_queue_is_said(smoothing: Smoothing, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"started by slurm, but the program sbatch is missing here: run this on"):
        run_blockwise(smoothing(), workers=workers(tmp_path, SLURM))


@pytest.mark.slow
def test_a_job_that_hangs_is_cancelled_and_replaced(
    smoothing: Smoothing, functions: ModuleType, smoothed: np.ndarray, queue: Path, tmp_path: Path
) -> None:
    text = SLURM.replace("{listen: 127.0.0.1}", "{listen: 127.0.0.1, block_time_limit: 2s}")
    task = smoothing(function=functions.thaw)
    assert run_blockwise(task, workers=workers(tmp_path, text))
    assert np.array_equal(open_volume(task.output.address).read(), smoothed)
    assert "scancel" in [call[0] for call in asked(queue)]
    assert len([call for call in asked(queue) if call[0] == "sbatch"]) >= 3


@pytest.mark.slow
def test_a_command_whose_worker_is_frozen_is_killed_and_replaced(
    smoothing: Smoothing, functions: ModuleType, smoothed: np.ndarray, tmp_path: Path
) -> None:
    text = "{launcher: command, count: 1, command: '{command}', scheduler: {block_time_limit: 2s}}"
    task = smoothing(function=functions.thaw)
    assert run_blockwise(task, workers=workers(tmp_path, text))
    assert np.array_equal(open_volume(task.output.address).read(), smoothed)
    words = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    assert not [line for line in words if "worker_process" in line and str(tmp_path) in line]


def test_a_preempted_worker_finishes_its_block_and_hands_back_the_others(
    script: Callable[..., Any], accident: Callable[[str], None], smoothed: np.ndarray, tmp_path: Path
) -> None:
    accident("slow")
    running = script("preempted", 2)
    log = tmp_path / "cell.zarr/preempted/.blocks.jsonl"
    deadline = time.monotonic() + 90
    while not log.exists() or len(log.read_text().splitlines()) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for worker in psutil.Process(running.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.terminate()
    accident("")
    told, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert told.startswith("done 27")
    noted = [json.loads(line)["done"] for line in log.read_text().splitlines()[1:]]
    assert sorted(noted) == list(range(BLOCKS))
    assert np.array_equal(open_volume(str(tmp_path / "cell.zarr"), "preempted").read(), smoothed)


def test_a_task_that_cannot_be_sent_is_said(smoothing: Smoothing) -> None:
    with pytest.raises(IncasemError, match=r"cannot be sent to workers .* top level of a module"):
        run_blockwise(smoothing(function=lambda block, parameters: None), num_workers=2)


def test_any_command_starts_workers(smoothing: Smoothing, smoothed: np.ndarray, tmp_path: Path) -> None:
    text = "{launcher: command, count: 2, command: 'env NODE={name} {command}'}"
    task = smoothing()
    summary = try_blockwise(task, workers=workers(tmp_path, text))
    assert summary
    assert np.array_equal(open_volume(task.output.address).read(), smoothed)
    assert not list((tmp_path / "jobs").glob("*/connection.json"))


def connection_of(jobs: Path) -> dict[str, Any]:
    """Return what workers are told once the scheduler listens."""
    assert within(90, lambda: any(path.stat().st_size for path in jobs.glob("*/connection.json")))
    (found,) = jobs.glob("*/connection.json")
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    return dict(json.loads(found.read_text()))


def test_strangers_are_not_heard_and_do_not_disturb(
    script: Callable[..., Any], accident: Callable[[str], None], tmp_path: Path, jobs: Path
) -> None:
    accident("slow")
    path = tmp_path / "workers.yaml"
    path.write_text("{launcher: command, count: 2, cores: 1, command: '{command}'}")
    running = script("public", path)
    place = connection_of(jobs)
    listening = [one.laddr for one in psutil.Process(running.pid).net_connections() if one.status == "LISTEN"]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert place["port"] in {address.port for address in listening}
    for address in listening:  # Dask's own server for HTTP among them, which knows no page
        with socket.create_connection((address.ip, address.port)) as stranger:
            stranger.sendall(b"GET /info/main/workers.html HTTP/1.1\r\nHost: x\r\n\r\n")
            stranger.settimeout(30)
            with contextlib.suppress(ConnectionError):
                assert b"200 OK" not in stranger.recv(1000)
    silent = [socket.create_connection((place["host"], place["port"])) for _ in range(100)]
    for address, security in ((place["address"], Security.temporary()), (f"tcp://127.0.0.1:{place['port']}", None)):
        with pytest.raises(OSError, match=r"Timed out|Connection|handshake|certificate"):
            Client(address, security=security, timeout=5, set_as_default=False)
    with socket.create_connection((place["host"], place["port"])) as stranger:
        stranger.sendall(bytes(1000))
    accident("")
    told, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    assert told.strip() == f"done {BLOCKS} skipped 0 already False"
    for one in silent:
        one.close()


def test_workers_elsewhere_end_with_a_killed_scheduler_and_the_same_command_starts_others(
    script: Callable[..., Any], accident: Callable[[str], None], tmp_path: Path
) -> None:
    accident("slow")
    path = tmp_path / "workers.yaml"
    path.write_text("{launcher: command, count: 1, command: '{command}'}")
    first = script("passed_on", path)
    log = tmp_path / "cell.zarr/passed_on/.blocks.jsonl"
    assert within(90, lambda: log.exists() and len(log.read_text().splitlines()) >= 4)
    (survivor,) = filter(works, psutil.Process(first.pid).children(recursive=True))
    first.kill()
    first.wait(60)
    survivor.wait(60)
    accident("")
    told, said = script("passed_on", path).communicate(timeout=120)
    assert "done" in told, said
    assert "skipped 0" not in told


def test_each_local_worker_gets_its_own_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    fleet = Fleet([WorkerGroup(gpus=2, set_up=("echo GPUS=$CUDA_VISIBLE_DEVICES; exit",))], tmp_path)
    fleet.tend(2, 2)
    assert list(fleet.slots) == ["local-1", "local-2"]
    for slot, gpus in zip(fleet.slots.values(), ["4,5", "6,7"], strict=True):
        assert slot.process is not None
        slot.process.wait(60)
        assert slot.last_words() == f"GPUS={gpus}"
    with pytest.raises(InputError, match="3 workers with 2 GPUs each are asked for, but this machine shows 4"):
        check_workers(Workers((WorkerGroup(count=3, gpus=2),)))


def test_a_command_on_an_address_that_is_not_here_is_said(smoothing: Smoothing, tmp_path: Path) -> None:
    text = "{launcher: command, command: '{command}', scheduler: {listen: 203.0.113.9}}"
    with pytest.raises(InputError, match=r"cannot listen on 203\.0\.113\.9 .*set scheduler\.listen"):
        run_blockwise(smoothing(), workers=workers(tmp_path, text))


def test_options_may_be_a_text_with_quotes(smoothing: Smoothing, queue: Path, tmp_path: Path) -> None:
    text = SLURM.replace("[--account=lab]", "\"--account=lab --comment='two words'\"")
    assert run_blockwise(smoothing(), workers=workers(tmp_path, text)).done == BLOCKS
    words = asked(queue)[0]
    assert "--account=lab" in words
    assert "--comment=two words" in words
    with pytest.raises(ConfigError, match=r"options must be words .*their quotes closed"):
        workers(tmp_path, SLURM.replace("[--account=lab]", '"--comment=\'two words"'))
