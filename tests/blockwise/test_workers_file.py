"""``workers.yaml`` is read as people write it, and what is wrong in it is said in a sentence that names the key."""

from pathlib import Path
from typing import Any

import dask.config
import pytest

from incasem_like.blockwise.workers_file import Workers, load_workers
from incasem_like.errors import ConfigError


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def load(text: str) -> Workers:
        (tmp_path / "workers.yaml").write_text(text)
        return load_workers(tmp_path / "workers.yaml")

    return load


def test_an_empty_file_is_one_worker_here(read: Any) -> None:
    (group,) = read("").groups
    assert (group.launcher, group.count, group.cores, group.gpus) == ("local", None, 1, 0)


def test_a_file_for_a_cluster(read: Any) -> None:
    workers = read(
        """
        launcher: slurm
        count: 20
        cores: 4
        memory: 16 GiB
        queue: gpu
        gpus: 1
        time: 24:00:00
        set_up: |
          module load cuda
          source ~/venv/bin/activate
        options: [--account=lab, --exclusive]
        scheduler:
          listen: 10.0.0.5
          port: 40000
          block_time_limit: 30min
        """
    )
    (group,) = workers.groups
    assert (group.launcher, group.count, group.cores, group.queue, group.gpus) == ("slurm", 20, 4, "gpu", 1)
    assert (group.memory, group.time) == (16 * 2**30, 86400)
    assert group.set_up == ("module load cuda", "source ~/venv/bin/activate")
    assert group.options == ("--account=lab", "--exclusive")
    settings = workers.scheduler
    assert (settings.listen, settings.port, settings.block_time_limit) == ("10.0.0.5", 40000, 1800)


def test_several_groups_side_by_side(read: Any) -> None:
    workers = read("workers:\n- {count: 2}\n- {launcher: command, command: 'ssh node7 {command}', count: 3}\n")
    assert [(group.launcher, group.count) for group in workers.groups] == [("local", 2), ("command", 3)]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 90), ("90s", 90), ("30 min", 1800), ("1.5h", 5400), ("'24:00:00'", 86400), ("2-12:00:00", 216000)],
)
def test_times_are_read_as_people_write_them(read: Any, written: str, seconds: float) -> None:
    (group,) = read(f"{{launcher: slurm, time: {written}, scheduler: {{listen: 127.0.0.1}}}}").groups
    assert group.time == seconds


@pytest.mark.parametrize(
    ("written", "mebibytes"), [("8000", 8000), ("16GB", 16384), ("16g", 16384), ("512MiB", 512), ("1.5T", 1.5 * 2**20)]
)
def test_memory_is_read_as_people_write_it(read: Any, written: str, mebibytes: float) -> None:
    (group,) = read(f"{{launcher: slurm, memory: {written}, scheduler: {{listen: 127.0.0.1}}}}").groups
    assert group.memory == mebibytes * 2**20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cuont: 3", r"Unknown key 'cuont' in .*workers.yaml; did you mean 'count'\?"),
        ("count: 0", "count must be a whole number of at least 1.*found 0 in"),
        ("count: many", "count must be a whole number"),
        ("launcher: torque", "launcher must be one of 'local', 'slurm', .*'oar', 'command', found \"torque\""),
        ("{adaptive: {minimum: 3, maximum: 2}}", "adaptive.minimum is 3, but maximum is 2"),
        ("{count: 3, adaptive: {maximum: 2}}", "count is 3, but adaptive says how many workers there are"),
        (
            "{launcher: oar, memory: 2g, scheduler: {listen: a}}",
            'memory means nothing to launcher "oar": drop it, or ask for it by options',
        ),
        ("{launcher: slurm}", r"must say where the scheduler listens .* scheduler: \{listen: ADDRESS\}"),
        ("{launcher: lsf, scheduler: {port: 5}}", "must say where the scheduler listens"),
        ("{launcher: slurm, memory: lots, scheduler: {listen: a}}", 'memory must be .* such as 16GiB.*found "lots"'),
        ("{launcher: slurm, time: soon, scheduler: {listen: a}}", "time must be a time such as 90s"),
        ("launcher: command", r'launcher "command" needs a command, such as command: ssh node7 \{command\}'),
        ("{launcher: command, command: ssh node7}", r"command is \"ssh node7\", but must hold \{command\}"),
        ("{launcher: command, command: 'ssh {node} {command}'}", "and nothing else in braces"),
        ("{launcher: command, command: '{command'}", "nothing else in braces"),
        ("{command: 'ssh x {command}'}", 'command is for launcher "command", but launcher is "local"'),
        ("{queue: gpu}", 'queue means nothing to launcher "local": drop it'),
        ("{memory: 3GB}", 'memory means nothing to launcher "local": drop it.'),
        ("scheduler: 5", "scheduler must be a mapping of keys, found 5"),
        ("scheduler: {lisen: a}", "Unknown key 'lisen' under scheduler in .*; did you mean 'listen'"),
        ("scheduler: {port: 70000}", "port must be a port number from 0 to 65535, found 70000 under scheduler"),
        ("{workers: [{count: 1}, {cores: 0}]}", "cores must be .* found 0 in entry 2 of workers in"),
        ("{workers: [{queue: a}]}", "queue means nothing to launcher"),
        ("{workers: [{}], count: 2}", "has the key 'count' beside the list workers"),
        ("{workers: {count: 2}}", "must be a list of groups"),
        ("workers:", "must be a list of groups"),
        ("[1, 2]", "holds no keys"),
        ("{a: b: c}", "not valid YAML in line 1"),
    ],
)
def test_mistakes_are_said_in_a_sentence(read: Any, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        read(text)
    assert str(error.value).count("\n") == 0
    assert error.value.exit_status == 2


def test_what_the_dask_jobqueue_configuration_says_of_the_queue_is_the_default(read: Any) -> None:
    said = {
        "cores": 8, "memory": "16GB", "queue": "normal", "walltime": "02:00:00", "account": "lab",
        "job-extra-directives": ["--exclusive", "--comment='two words'"], "job-script-prologue": ["module load cuda"],
    }  # fmt: skip
    with dask.config.set({"jobqueue.slurm": said}):
        (group,) = read("{launcher: slurm, queue: long, scheduler: {listen: 127.0.0.1}}").groups
        (other,) = read("{launcher: lsf, scheduler: {listen: 127.0.0.1}}").groups
    assert (group.cores, group.memory, group.queue, group.time) == (8, 15259 * 2**20, "long", 7200)
    assert group.options == ("--account=lab", "--exclusive", "--comment=two words")
    assert group.set_up == ("module load cuda",)
    assert (other.cores, other.queue, other.options) == (1, None, ())


def test_adaptive_workers_have_a_fewest_and_a_most(read: Any) -> None:
    (group,) = read("{adaptive: {minimum: 1, maximum: 8}}").groups
    assert (group.adaptive.minimum, group.number) == (1, 8)


def test_a_cluster_that_stands_is_named_by_its_address_or_its_file(read: Any, tmp_path: Path) -> None:
    assert load_workers("tls://10.0.0.5:8786").cluster == "tls://10.0.0.5:8786"
    (tmp_path / "scheduler.json").write_text('{"type": "Scheduler", "address": "tcp://10.0.0.5:8786", "workers": {}}')
    assert load_workers(tmp_path / "scheduler.json").cluster == "tcp://10.0.0.5:8786"
    assert read("count: 2").cluster is None


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"workers\.yaml does not exist"):
        load_workers(tmp_path / "workers.yaml")
