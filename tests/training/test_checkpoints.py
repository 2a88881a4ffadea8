import errno
import math
from pathlib import Path

import pytest
import torch

from incasem_like.errors import CheckpointError, DiskFullError
from incasem_like.training.checkpoints import CheckpointFolder, CheckpointPolicy, is_sound, iteration_of
from incasem_like.training.state import BestMemory, TrainingState


def write(folder: CheckpointFolder, iteration: int) -> None:
    state = TrainingState(iteration, seed=1, batch_size=1, best=BestMemory("dice_class_1"))
    folder.write(state, lambda path: torch.save({"weights": torch.arange(1000)}, path))


def newest_whole(folder: CheckpointFolder) -> int:
    sound = [
        number for number in folder.iterations() if is_sound(folder.model(number)) and is_sound(folder.state(number))
    ]
    return sound[-1]


def simulate(policy: CheckpointPolicy, events: list[tuple[int, int | None]]) -> set[int]:
    """Write a checkpoint per (iteration, best iteration so far) and prune after each."""
    there: set[int] = set()
    for iteration, best in events:
        there |= {iteration}
        there = policy.kept(there, best)
    return there


def test_the_last_few_regular_checkpoints_stay() -> None:
    assert simulate(CheckpointPolicy(10, keep_last=3), [(i, None) for i in range(10, 101, 10)]) == {80, 90, 100}


def test_the_best_stays_however_old() -> None:
    assert simulate(CheckpointPolicy(10, keep_last=2), [(i, 10) for i in range(10, 101, 10)]) == {10, 90, 100}


def test_multiples_of_keep_every_stay() -> None:
    kept = simulate(CheckpointPolicy(10, keep_last=1, keep_every=40), [(i, None) for i in range(10, 111, 10)])
    assert kept == {40, 80, 110}


def test_a_checkpoint_that_is_no_longer_best_goes_if_it_is_irregular() -> None:
    assert simulate(CheckpointPolicy(10, keep_last=3), [(10, None), (15, 15), (20, 15), (25, 25), (30, 25)]) == {
        10,
        20,
        25,
        30,
    }


def test_an_interruption_leaves_no_trace_once_the_run_goes_on() -> None:
    policy = CheckpointPolicy(10, keep_last=3)
    regular = [(i, None) for i in range(10, 101, 10)]
    interrupted = [*regular[:4], (47, None), *regular[4:]]
    assert simulate(policy, interrupted[:5]) == {20, 30, 40, 47}
    assert simulate(policy, interrupted) == simulate(policy, regular)


def test_best_memory_ignores_nan_and_prefers_the_later_of_equals() -> None:
    best = BestMemory("dice", "max")
    answers = [best.offer(value, i) for i, value in enumerate([math.nan, 0.2, 0.2, 0.1, math.nan, 0.3])]
    assert answers == [False, True, True, False, False, True]
    assert (best.value, best.iteration) == (0.3, 5)


def test_best_memory_minimises_a_loss() -> None:
    best = BestMemory("loss_val", "min")
    assert [best.offer(value, 0) for value in (2.0, 3.0, 1.0)] == [True, False, True]


def test_a_pair_without_state_does_not_count(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    write(folder, 10)
    write(folder, 20)
    folder.state(20).unlink()
    (tmp_path / "model_checkpoint_best.pt").touch()
    assert folder.iterations() == [10]


@pytest.mark.parametrize("which", ["model", "state"])
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, which: str) -> None:
    folder = CheckpointFolder(tmp_path)
    for iteration in (10, 20, 100):
        write(folder, iteration)
    assert newest_whole(folder) == 100
    damaged = getattr(folder, which)(100)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    assert newest_whole(folder) == 20
    folder.model(20).write_bytes(folder.model(20).read_bytes()[:500])
    assert newest_whole(folder) == 10


def full_disk(path: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_full_disk_is_one_sentence_and_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    with pytest.raises(DiskFullError, match="there is none before it"):
        folder.write(TrainingState(10, 1, 1, BestMemory("dice")), full_disk)
    write(folder, 10)
    with pytest.raises(DiskFullError, match=r"iteration 20 \(that of iteration 10 is kept\): free some"):
        folder.write(TrainingState(20, 1, 1, BestMemory("dice")), full_disk)
    assert folder.iterations() == [10]
    assert newest_whole(folder) == 10


def test_a_disk_that_fills_between_both_files_leaves_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path)
    write(folder, 10)
    monkeypatch.setattr(Path, "open", lambda self, mode: open("/dev/full", mode))  # noqa: SIM115
    for iteration in (10, 20):
        with pytest.raises(DiskFullError):
            write(folder, iteration)
    monkeypatch.undo()
    assert newest_whole(folder) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_checkpoint_10", "training_state_10"]


def test_other_errors_of_writing_stay_what_they_are(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with pytest.raises(PermissionError):
        CheckpointFolder(tmp_path).write(TrainingState(20, 1, 1, BestMemory("dice")), fail)


def test_tidying_removes_later_checkpoints_halves_and_what_was_never_finished(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for iteration in (5, 10, 15, 20):
        write(folder, iteration)
    folder.state(15).unlink()  # later, and without its state
    folder.model(5).unlink()
    folder.model(3).touch()
    folder.model(4).touch()
    for name in (".model_checkpoint_10.x7_k", ".training_state_12.411.part", "notes.txt", "model_checkpoint_best.pt"):
        (tmp_path / name).touch()
    folder.tidy(10, keep=[4])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model_checkpoint_10", "model_checkpoint_4", "model_checkpoint_best.pt", "notes.txt", "training_state_10",
    ]  # fmt: skip
    CheckpointFolder(tmp_path / "missing").tidy(0)


def test_state_survives_a_round_trip(tmp_path: Path) -> None:
    state = TrainingState(7, seed=2**63, batch_size=2, best=BestMemory("dice_class_1", "max", 0.5, 3), pending=True)
    state.metrics, state.scaler, state.schedule = {"loss_val": 0.25}, {"scale": 65536.0}, {"type": "cosine"}
    state.random = {"cpu": torch.get_rng_state()}
    state.save(tmp_path / "training_state_7")
    found = TrainingState.load(tmp_path / "training_state_7")
    assert torch.equal(found.random.pop("cpu"), state.random.pop("cpu"))
    assert found == state
    assert [path.name for path in tmp_path.iterdir()] == ["training_state_7"]


def test_damaged_or_foreign_states_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        TrainingState.load(tmp_path / "training_state_1")
    (tmp_path / "training_state_2").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        TrainingState.load(tmp_path / "training_state_2")
    torch.save({"format": 99}, tmp_path / "training_state_3")
    with pytest.raises(CheckpointError, match="is not a training state that this version can read"):
        TrainingState.load(tmp_path / "training_state_3")


def test_iteration_is_read_from_the_name() -> None:
    assert iteration_of(Path("a/model_checkpoint_120")) == 120
    with pytest.raises(CheckpointError, match="not named"):
        iteration_of(Path("model_checkpoint_1841_er_CF.pt"))
