"""Which store an address means, and what a store says when asked for what it does not have."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from socket import gethostname

import pytest

from incasem_like.errors import IncasemError, InputError, RunNotFoundError, StoreError
from incasem_like.tracking import RunStore, open_store, run_experiment
from incasem_like.tracking.address import FolderAddress, MongoAddress, as_folder, parse_address
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore


@pytest.fixture(autouse=True)
def _no_address_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INCASEM_TRACKING_URL", raising=False)


@pytest.mark.parametrize(
    ("url", "shown", "trainings", "predictions"),
    [
        ("localhost:27017", "mongodb://localhost:27017", "incasem_trainings", "incasem_predictions"),
        ("mongodb://db", "mongodb://db", "incasem_trainings", "incasem_predictions"),
        ("mongodb://u:p@db/admin", "mongodb://db/admin", "incasem_trainings", "incasem_predictions"),
        (
            "mongodb+srv://u:p@db/lab_trainings?x=1",
            "mongodb+srv://db/lab_trainings?x=1",
            "lab_trainings",
            "lab_predictions",
        ),
        ("mongodb://db/lab", "mongodb://db/lab", "lab", "lab_predictions"),
    ],
)
def test_a_url_names_a_server_and_a_database_for_each_kind(
    url: str, shown: str, trainings: str, predictions: str, tmp_path: Path
) -> None:
    address = parse_address(url, tmp_path)
    assert isinstance(address, MongoAddress)
    assert (address.described, address.database("trainings"), address.database("predictions")) == (
        shown,
        trainings,
        predictions,
    )
    assert "u:p" not in repr(address)


@pytest.mark.parametrize("name", ["incasem_trainings", "incasem_predictions"])
def test_the_json_file_of_incasem_names_server_and_databases(name: str, tmp_path: Path) -> None:
    file = tmp_path / "trainings_db.json"
    file.write_text(json.dumps({"url": "localhost:27017", "db_name": name}))
    address = parse_address(str(file), tmp_path)
    assert address == MongoAddress("mongodb://localhost:27017", "incasem")


def test_the_json_file_may_hold_a_whole_url(tmp_path: Path) -> None:
    file = tmp_path / "db.json"
    file.write_text(json.dumps({"url": "mongodb://u:p@db/admin", "db_name": "lab"}))
    address = parse_address(file, tmp_path)
    assert isinstance(address, MongoAddress)
    assert (address.url, address.database("trainings")) == ("mongodb://u:p@db/admin", "lab")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"url": 3}', '{"url": "h:1", "db_name": 5}', '{"url": "ftp://h"}']
)
def test_a_json_file_that_names_no_server_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "db.json").write_text(content)
    with pytest.raises(InputError, match=r"db\.json"):
        parse_address(tmp_path / "db.json", tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        parse_address(tmp_path / "other.json", tmp_path)


def test_runs_are_files_below_the_runs_directory_unless_an_address_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_address(None, tmp_path) == FolderAddress(tmp_path / "tracking")
    assert parse_address(tmp_path / "shared", tmp_path) == FolderAddress(tmp_path / "shared")
    monkeypatch.setenv("INCASEM_TRACKING_URL", "db:1")
    assert parse_address(None, tmp_path) == MongoAddress("mongodb://db:1")
    assert parse_address("~/runs", tmp_path) == FolderAddress(Path.home() / "runs")


def test_a_scheme_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot start with postgres://"):
        parse_address("postgres://u:p@h", tmp_path)


@pytest.mark.parametrize(
    ("text", "url", "trainings", "predictions"),
    [
        ("localhost", "mongodb://localhost", "incasem_trainings", "incasem_predictions"),
        ("127.0.0.1", "mongodb://127.0.0.1", "incasem_trainings", "incasem_predictions"),
        ("[::1]", "mongodb://[::1]", "incasem_trainings", "incasem_predictions"),
        ("[::1]:27018:lab", "mongodb://[::1]:27018", "lab", "lab_predictions"),
        ("localhost:27017:incasem_trainings", "mongodb://localhost:27017", "incasem_trainings", "incasem_predictions"),
        ("db.example.org:27017:lab", "mongodb://db.example.org:27017", "lab", "lab_predictions"),
        ("db:27017:lab.runs", "mongodb://db:27017", "lab", "lab_predictions"),
        ("db:27017/lab", "mongodb://db:27017", "lab", "lab_predictions"),
        ("localhost/lab", "mongodb://localhost", "lab", "lab_predictions"),
        ("db:27017/lab?replicaSet=x", "mongodb://db:27017/?replicaSet=x", "lab", "lab_predictions"),
        ("mongodb:27017", "mongodb://mongodb:27017", "incasem_trainings", "incasem_predictions"),
        ("MongoDB://db/lab", "mongodb://db/lab", "lab", "lab_predictions"),
    ],
)
def test_the_forms_of_sacred_and_omniboard_mean_a_server(
    text: str, url: str, trainings: str, predictions: str, tmp_path: Path
) -> None:
    address = parse_address(text, tmp_path)
    assert isinstance(address, MongoAddress)
    assert (address.url, address.database("trainings"), address.database("predictions")) == (
        url,
        trainings,
        predictions,
    )
    (tmp_path / "db.json").write_text(json.dumps({"url": text}))
    assert parse_address(tmp_path / "db.json", tmp_path) == address


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("my_runs", "my_runs is neither a MongoDB server nor an existing folder: give .*[.]/NAME"),
        ("db.example.org", "neither a MongoDB server"),
        ("mongodb:/localhost:27017", "neither a MongoDB server"),
        ("mongodb//localhost", "neither a MongoDB server"),
        ("mongodb:localhost", "neither a MongoDB server nor an existing folder"),
        ("localhost:lab", "neither a MongoDB server"),
        ("::1", "neither a MongoDB server"),
        ("db.example.org/lab", "neither a MongoDB server"),
        ("db:27017:lab:7", "neither a MongoDB server"),
        ("my runs", "neither a MongoDB server"),
        ("db:27017:lab.metrics", "write db:27017:lab[.]"),
        ("db:70000", "between 1 and 65535"),
        ("db:0:lab", "between 1 and 65535"),
        ("mongodb:/ada:s3cret@db", "The tracking URL is neither .*USER:PASSWORD@"),
        ("ada:s3cret@db:27017:lab", "The tracking URL is neither .*USER:PASSWORD@"),
    ],
)
def test_what_is_not_recognised_is_an_error_and_makes_no_folder(
    text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence) as error:
        open_store(text, "trainings", tmp_path)
    assert "s3cret" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["./localhost", "../x", "a/b", ".", "there", "localhost:1", "v1.2/runs", "{}/new", "new/"]
)
def test_a_folder_is_a_path_or_exists(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("there", "localhost:1", "v1.2"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    text = text.format(tmp_path)
    assert parse_address(text, tmp_path) == FolderAddress(Path(text).absolute())
    assert parse_address(Path("localhost"), tmp_path) == FolderAddress(tmp_path / "localhost")
    assert parse_address(as_folder("localhost"), tmp_path) == FolderAddress(tmp_path / "localhost")


@pytest.mark.parametrize(
    "text", ["mongodb://u:secret@h", "mongodb:/h", "localhost:27017", "h:1:db", "h:1/db", "s3://b"]
)
def test_a_server_is_no_folder_of_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is the address of a server, but a folder is needed") as error:
        as_folder(text)
    assert "secret" not in str(error.value)
    assert as_folder(f"./{text}") == os.path.abspath(text)
    assert as_folder("data//runs") == str(tmp_path / "data/runs")


def test_each_kind_has_its_own_folder_and_its_own_ids(tmp_path: Path) -> None:
    for kind in ("trainings", "predictions", "segmentations", "evaluations"):
        run_experiment(name="x", config={}, main=lambda run: None, store=open_store(None, kind, tmp_path))
        assert (tmp_path / "tracking" / f"incasem_{kind}" / "1" / "run.json").is_file()
    with pytest.raises(InputError, match="Unknown kind of runs 'training'; did you mean 'trainings'"):
        open_store(None, "training", tmp_path)


def test_an_unknown_id_names_the_runs_there_are_and_where_was_looked(store: RunStore) -> None:
    place = "incasem_trainings|test_"
    with pytest.raises(RunNotFoundError, match=rf"no training run 7: .*({place}).* holds no runs yet"):
        store.get(7)
    for run_id in (3, 5):
        run_experiment(name="x", config={}, main=lambda run: None, store=store, run_id=run_id)
    with pytest.raises(RunNotFoundError, match=rf"no training run 7: .*({place}).* holds runs 3, 5; did you mean 5"):
        store.get(7)
    for run_id in range(10, 20):
        run_experiment(name="x", config={}, main=lambda run: None, store=store, run_id=run_id)
    with pytest.raises(RunNotFoundError, match=r"runs 3, 5, 10, … 17, 18, 19; did you mean 5"):
        store.get(7)


def test_a_damaged_record_says_which_file_it_is(tmp_path: Path) -> None:
    store = open_store(None, "trainings", tmp_path)
    run_experiment(name="x", config={}, main=lambda run: None, store=store)
    (tmp_path / "tracking" / "incasem_trainings" / "1" / "config.json").write_text('{"a": ')
    with pytest.raises(StoreError, match=r"config\.json is damaged"):
        store.get(1)


def test_a_document_of_odd_parts_can_be_looked_at(store: RunStore, write_run: Callable[..., None]) -> None:
    odd = {"host": "here", "meta": None, "experiment": [], "status": None, "info": 3, "config": [1], "omniboard": 2}
    write_run(store, 1, **odd, artifacts=[7] if isinstance(store, MongoStore) else [])
    write_run(store, 2, status="RUNNING", host={"hostname": gethostname(), "pid": "x"})
    record = store.get(1)
    assert (record.status, record.name, record.tags, record.notes) == ("UNKNOWN", "", (), "")
    assert (record.config, record.info, record.host, record.artifacts) == ({}, {}, {}, ())
    assert store.get(2).status == "KILLED"


def test_records_written_by_sacred_itself_can_be_read(tmp_path: Path) -> None:
    from sacred import Experiment
    from sacred.observers import FileStorageObserver

    experiment = Experiment("theirs", interactive=True, save_git_info=False)
    experiment.observers.append(FileStorageObserver(tmp_path / "tracking" / "incasem_trainings"))
    experiment.add_config({"training": {"iterations": 3}})

    def main(_run) -> float:  # type: ignore[no-untyped-def]
        _run.log_scalar("loss", 0.5, 1)
        return 0.25

    experiment.main(main)
    experiment.run(options={"--capture": "no", "--loglevel": "ERROR"})
    record = open_store(None, "trainings", tmp_path).get(1)
    assert (record.status, record.result, record.name) == ("COMPLETED", 0.25, "theirs")
    assert record.config["training"] == {"iterations": 3}
    assert record.metrics["loss"].values == (0.5,)


def test_files_have_the_layout_of_sacred(tmp_path: Path) -> None:
    store = open_store(None, "trainings", tmp_path)
    assert isinstance(store, FileStore)
    run_experiment(name="x", config={"seed": 1}, main=lambda run: run.log_scalar("loss", 0.5, 4), store=store)
    folder = store.folder / "1"
    assert json.loads((folder / "config.json").read_text()) == {"seed": 1}
    assert json.loads((folder / "metrics.json").read_text())["loss"]["steps"] == [4]
    document = json.loads((folder / "run.json").read_text())
    assert {"status", "experiment", "host", "meta", "artifacts", "resources", "result", "heartbeat"} <= set(document)
    for _, stored in document["experiment"]["sources"]:
        assert (store.folder / stored).is_file()
    assert not list(folder.glob(".*"))


def test_a_file_is_no_folder_of_runs(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("a: 1")
    with pytest.raises(InputError, match=r"small\.yaml is a file, but runs are kept in a folder"):
        open_store(tmp_path / "small.yaml", "trainings", tmp_path)


def test_a_record_that_is_no_mapping_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "incasem_trainings" / "1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("[]")
    with pytest.raises(StoreError, match=r"run\.json is damaged \(it holds no mapping\)"):
        FileStore(folder.parent, "trainings", tmp_path).get(1)


def test_a_server_that_does_not_answer_is_said_in_one_sentence_soon(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(StoreError) as caught:
        open_store("mongodb://ada:s3cret@127.0.0.1:9/?serverSelectionTimeoutMS=300", "trainings", tmp_path)
    assert time.monotonic() - start < 25  # the driver's own patience is 30 s
    assert "No MongoDB server answers at mongodb://127.0.0.1:9/" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["mongodb://ada:s3/cret@db:27017", "mongodb://ada:s3cret@db:port", "mongodb://ada:s3%cret@db", "mongodb://"]
)
def test_a_malformed_url_is_refused_without_quoting_it(url: str, tmp_path: Path) -> None:
    with pytest.raises(IncasemError) as caught:
        open_store(url, "trainings", tmp_path)
    assert isinstance(caught.value, InputError)
    assert "s3" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    ["mongodb://ada:s3 cret@db:27017", "mongodb://ada:'s3cret'@db:27017", "ada:s3cret@db:27017", "ada:s3cret@db"],
)
def test_credentials_that_could_not_be_told_from_other_words_are_refused_unquoted(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_store(url, "trainings", tmp_path)
    assert "s3" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_refused_credentials_are_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pymongo
    from pymongo.errors import OperationFailure

    class Refusing:
        def __init__(self, *arguments: object, **options: object) -> None:
            self.admin = self

        def command(self, name: str) -> None:
            raise OperationFailure("Authentication failed.", code=18)

    monkeypatch.setattr(pymongo, "MongoClient", Refusing)
    with pytest.raises(InputError, match="mongodb://db:1 refuses the user name or password"):
        open_store("mongodb://ada:s3cret@db:1", "trainings", tmp_path)
