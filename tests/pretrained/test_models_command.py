"""``incasem-like models`` and what follows it, typed as incasem's README has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from pretrained import incasem_runs
from pretrained.dumps import archive_bytes
from pretrained.file_server import FileServer
from pretrained.small_models import SMALL_MODEL, checkpoint_bytes, make_network

from incasem_like.errors import InputError
from incasem_like.tracking import file_sha256, open_store, run_experiment
from incasem_like.volumes import create_volume

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
Models = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a person's own, with models and runs in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INCASEM_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("INCASEM_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("INCASEM_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def models(here: Path, capsys: pytest.CaptureFixture[str]) -> Models:
    """Type ``incasem-like models …``; gives what was printed."""
    from incasem_like.commands.cli import answer

    def call(*words: str) -> str:
        assert answer(["models", *words]) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def bucket(server: FileServer, checkpoint_content: bytes) -> FileServer:
    """Two published checkpoints and the database, on this machine."""
    for name in ("model_checkpoint_1841_er_CF.pt", "model_checkpoint_1847_mito_CF.pt"):
        number = 90000 if "1841" in name else 120000
        content = checkpoint_bytes(make_network(), number)
        server.files[f"/models/pretrained_checkpoints/{name}"] = content
    runs = [incasem_runs.run(number, name, incasem_runs.config(**SMALL_MODEL)) for number, name in ((1841, "er"),)]
    server.files["/models/fiborganelle_trainings"] = archive_bytes(incasem_runs.database(*runs))
    return server


def script(here: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / name), *words]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, env={**os.environ})


def write_volume(here: Path, *, labels: bool = False) -> Path:
    """Write a volume of 5 nm voxels and its data configuration."""
    shape = (44, 44, 44)
    values = {"volumes/raw": np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)}
    if labels:
        values["volumes/labels/er"] = (values["volumes/raw"] > 127).astype(np.uint8)
    for dataset, content in values.items():
        volume = create_volume(
            here / "data" / "cell.zarr",
            dataset,
            shape=shape,
            dtype=content.dtype,
            voxel_size=(5, 5, 5),
            offset=(0, 0, 0),
            chunk_shape=(22, 22, 22),
        )
        volume.write(content)
        volume.mark_complete()
    entry = {"file": "cell.zarr", "voxel_size": [5, 5, 5], "raw": "volumes/raw"}
    if labels:
        entry["labels"] = {"volumes/labels/er": 1}
    path = here / "cell.json"
    path.write_text(json.dumps({"cell": entry}))
    return path


def test_the_seven_models_are_listed_with_what_is_here(models: Models, bucket: FileServer) -> None:
    first = models("list")
    for number in (1847, 1837, 1841, 1675, 1669, 1986, 2000):
        assert str(number) in first
    assert "nuclear pores" in first
    models("download", "1841", "--url", bucket.url)
    models("import", "1841")
    er = next(entry for entry in json.loads(models("list", "--json")) if entry["id"] == 1841)
    assert (er["organelle"], er["voxel_size"], er["imported"]) == ("endoplasmic reticulum", [5, 5, 5], True)
    assert er["sha256"] == file_sha256(Path(er["path"]))


def test_the_list_needs_no_server(models: Models) -> None:
    listed = json.loads(models("list", "--json", "--mongodb", "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200"))
    assert [entry["imported"] for entry in listed] == [False] * 7


def test_a_run_that_only_has_the_id_of_a_model_is_not_taken_for_it(models: Models, here: Path) -> None:
    store = open_store(None, "trainings", here / "runs")
    run_experiment(name="train", config={}, main=lambda run: None, store=store, run_id=1841)
    assert not any(entry["imported"] for entry in json.loads(models("list", "--json")))


def test_a_downloaded_model_is_imported_and_the_second_time_there(
    models: Models, bucket: FileServer, here: Path
) -> None:
    printed = models("download", "er_CF", "1847", "--url", bucket.url)
    assert "model_checkpoint_1841_er_CF.pt" in printed
    assert "Next: incasem-like models import 1841 1847" in printed
    assert "Already there" in models("download", "1841", "--url", bucket.url)
    printed = models("import")
    assert "Imported run 1841 (er_CF)" in printed
    assert "Imported run 1847 (mito_CF)" in printed
    assert "predict.py --run_id 1847" in printed
    assert models("import").count("Already there: run") == 2
    record = open_store(None, "trainings", here / "runs").get(1847)
    assert record.checkpoint("best" if record.metrics else "last").iteration == 120000
    url = record.checkpoint("last").url
    assert url == f"{bucket.url}/models/pretrained_checkpoints/model_checkpoint_1847_mito_CF.pt"


def test_a_checkpoint_that_is_gone_here_comes_from_where_it_was_published(
    models: Models, bucket: FileServer, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INCASEM_CACHE", str(here / "cache"))
    models("download", "1841", "--url", bucket.url)
    models("import", "1841")
    checkpoint = open_store(None, "trainings", here / "runs").get(1841).checkpoint("last")
    content = checkpoint.fetch().read_bytes()
    (here / "runs" / "models" / "1841" / "model_checkpoint_90000").unlink()
    again = open_store(None, "trainings", here / "runs").get(1841).checkpoint("last").fetch()
    assert again.is_relative_to(here / "cache")
    assert again.read_bytes() == content


def test_the_database_and_the_checkpoints_are_imported_together(models: Models, bucket: FileServer, here: Path) -> None:
    models("download", "1841", "--database", "--url", bucket.url)
    assert "Imported run 1841 (er): runs/models/1841/model_checkpoint_90000" in models("import")
    record = open_store(None, "trainings", here / "runs").get(1841)
    assert len(record.metrics["loss_train_0"].values) == 3


def test_one_run_of_a_database_may_get_another_id(models: Models, bucket: FileServer, here: Path) -> None:
    models("download", "--database", "--url", bucket.url)
    printed = models("import", "models/fiborganelle_trainings", "--run", "1841", "--id", "12")
    assert "Imported run 12 (er, there run 1841)" in printed
    assert open_store(None, "trainings", here / "runs").ids() == [12]


def test_a_mock_db_is_imported(models: Models, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = here / "mock_db"
    folder.mkdir()
    (folder / "er_1841.json").write_text(json.dumps(incasem_runs.config()))
    prediction = incasem_runs.config() | {"prediction": {"run_id_training": 1841}}
    (folder / "cell_6_1850.json").write_text(json.dumps(prediction))
    ledger = {"1841": "er_1841.json", "1850": "cell_6_1850.json", "1847": "mito_1847.json"}
    (folder / "ledger.json").write_text(json.dumps(ledger))
    printed = models("import", str(folder))
    assert "Imported run 1841 (er): its record; its checkpoint is not here" in printed
    assert "Run 1850 is left out: it is a prediction with run 1841" in caplog.text
    assert "Run 1847 is left out: its file mito_1847.json is missing" in caplog.text
    assert models("import", str(folder / "er_1841.json")).startswith("Already there: run 1841")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("import",), "No model was downloaded"),
        (("import", "1841"), "models download 1841"),
        (("import", "5"), "Unknown published model 5"),
        (("import", "nowhere.pt"), "nowhere.pt does not exist"),
        (("import", "."), "neither a dump with runs nor a ledger"),
        (("import", "mine.pt"), "--voxel_size"),
        (("import", "mine.pt", "er.pt", "--id", "4"), "single run"),
        (("import", "mine.pt", "--run", "4"), "dump or mock_db"),
        (("import", "mine.pt", "er.pt", "--name", "x"), "single checkpoint"),
        (("import", "text.pt"), "is not a checkpoint"),
        (("download", "7"), "Unknown published model 7"),
        (("download", "1841", "--url", "ftp://x"), "not a URL"),
        (("list", "--manifest", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_sentence(
    models: Models, here: Path, checkpoint_content: bytes, words: tuple[str, ...], answer: str
) -> None:
    (here / "mine.pt").write_bytes(checkpoint_content)
    (here / "er.pt").write_bytes(checkpoint_content)
    (here / "text.pt").write_text("no checkpoint")
    with pytest.raises(InputError, match=answer) as mistake:
        models(*words)
    assert "\n" not in str(mistake.value)
    assert not (here / "runs").exists() or open_store(None, "trainings", here / "runs").ids() == []


@pytest.mark.parametrize("explicit", [False, True])
def test_a_published_model_predicts_by_its_id(models: Models, bucket: FileServer, here: Path, explicit: bool) -> None:
    data = write_volume(here)
    models("download", "1841", "--url", bucket.url)
    models("import", "1841")
    file = "models/pretrained_checkpoints/model_checkpoint_1841_er_CF.pt"
    more = [f"prediction.checkpoint={file}"] if explicit else []
    flags = ["--run_id", "1841", "--name", "example"]
    settings = ["with", "config_prediction.yaml", f"prediction.data={data}", "torch.device=cpu", *more]
    done = script(here, "03_predict/predict.py", *flags, *settings)
    assert done.returncode == 0, done.stderr
    assert "with training run 1841, iteration 90000" in done.stdout
    found = zarr.open(str(here / "data" / "cell.zarr"), mode="r")
    assert found["volumes/predictions/train_1841/predict_0001/segmentation"].shape == (44, 44, 44)
    prediction = open_store(None, "predictions", here / "runs").get(1)
    assert prediction.parent["training_run_id"] == 1841
    assert prediction.parent["sha256"] == file_sha256(here / file)


@pytest.mark.slow
@pytest.mark.parametrize("explicit", [False, True])
def test_a_published_model_is_fine_tuned_by_its_id(
    models: Models, bucket: FileServer, here: Path, explicit: bool
) -> None:
    data = write_volume(here, labels=True)
    models("download", "1847", "--url", bucket.url)
    models("import", "1847")
    file = here / "models" / "pretrained_checkpoints" / "model_checkpoint_1847_mito_CF.pt"
    sections = ("training", "validation")
    sizes = [f"{section}.input_size_voxels=[28,28,28]" for section in sections]
    sizes += [f"{section}.output_size_voxels=[10,10,10]" for section in sections]
    settings = [f"training.data={data}", f"validation.data={data}", "torch.device=cpu", "training.iterations=2"]
    quick = ["training.precache.num_workers=0", "training.augmentation.elastic=null", "training.optimizer.lr=1e-12"]
    flags = ["--name", "example_finetune", "--start_from", "1847", *([str(file)] if explicit else [])]
    done = script(here, "02_train/train.py", *flags, "with", *settings, *quick, *sizes)
    assert done.returncode == 0, done.stderr
    record = open_store(None, "trainings", here / "runs").get(1848)
    assert (record.parent["training_run_id"], record.parent["sha256"]) == (1847, file_sha256(file))
    tuned = torch.load(record.checkpoint("last").fetch(), weights_only=True)["model_state_dict"]
    for name, value in make_network().state_dict().items():
        assert torch.allclose(tuned[name], value, atol=1e-6)
