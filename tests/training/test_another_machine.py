"""A machine that has but the database predicts with, continues and fine-tunes the training of another machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from incasem_like.tracking import RunStore, missing_uploads, open_store
from incasem_like.tracking.model.cache import file_sha256

pytestmark = [pytest.mark.mongo, pytest.mark.slow]
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


class Machine:
    """A folder of runs and a cache of its own; volumes and the database are shared."""

    def __init__(self, folder: Path, project: Path, url: str) -> None:
        self.runs, self.cache, self.project, self.url = folder / "runs", folder / "cache", project, url

    def run(self, script: str, *flags: str, updates: tuple[str, ...] = ()) -> str:
        words = [*flags, "--mongodb", self.url, "with", *updates, f"directories.runs={self.runs}", "torch.device=cpu"]
        finished = subprocess.run(
            [sys.executable, str(SCRIPTS / script), *words],
            cwd=self.project,
            env={**os.environ, "OMP_NUM_THREADS": "1", "INCASEM_CACHE": str(self.cache)},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def store(self, kind: str = "trainings") -> RunStore:
        return open_store(self.url, kind, self.runs)


@pytest.fixture
def machines(tiny_project: Path, fresh_mongo_url: str, tmp_path: Path) -> tuple[Machine, Machine]:
    """Two machines; when the second gets to work, the first one's files are gone."""
    first, second = (Machine(tmp_path / name, tiny_project, fresh_mongo_url) for name in ("first", "second"))
    data = (f"training.data={tiny_project}/train.json", f"validation.data={tiny_project}/validate.json")
    first.run("02_train/train.py", updates=("tiny.yaml", *data, "training.checkpoints.keep_last=1"))
    (tmp_path / "first").rename(tmp_path / "out of reach")
    return first, second


def test_the_url_is_enough(machines: tuple[Machine, Machine], tiny_project: Path) -> None:
    _, second = machines
    trained = second.store().get(1)
    best = trained.checkpoint("best")

    data = f"prediction.data={tiny_project}/validate.json"
    said = second.run("03_predict/predict.py", "--run_id", "1", updates=("config_prediction.yaml", data))
    assert f"with training run 1, iteration {best.iteration}" in said
    prediction = second.store("predictions").get(1)
    assert prediction.parent["sha256"] == best.sha256
    assert Path(prediction.parent["checkpoint"]).is_relative_to(second.cache)
    assert file_sha256(Path(prediction.parent["checkpoint"])) == best.sha256

    second.run("02_train/train.py", "--start_from", "1", updates=("training.iterations=2",))
    fine_tuned = second.store().get(2)
    assert (fine_tuned.parent["training_run_id"], fine_tuned.parent["sha256"]) == (1, best.sha256)

    second.run("02_train/train.py", "--continue_run", "1", updates=("training.iterations=9",))
    continued = second.store().get(1)
    assert continued.status == "COMPLETED"
    assert continued.metrics["loss_train_0"].steps == tuple(range(1, 10))
    last = continued.checkpoint("last")
    assert (last.iteration, last.fetch()) == (9, second.runs / "models" / "0001" / "model_checkpoint_9")
    assert missing_uploads(continued) == []
    assert {copy.name for copy in second.store().checkpoint_files.of_run(1)} >= {"model_checkpoint_9"}
