"""A server with users, before which a gate of ours stands: who comes in, and that the password stays outside."""

import logging
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from mongo_server.guard import Guard

from incasem_like.errors import InputError, StoreError
from incasem_like.tracking import Continuation, Run, RunStore, delete_run, open_store, run_experiment
from incasem_like.tracking.moving.sync import sync_journals
from incasem_like.tracking.stores.mongo import MongoStore

pytestmark = [pytest.mark.mongo, pytest.mark.usefixtures("small_package")]


def address(guard: Guard, fresh: str, password: str | None, more: str = "") -> str:
    """The URL of a fresh database behind the gate, as ``ada`` would type it."""
    user = "" if password is None else f"ada:{quote(password, safe='')}@"
    return f"mongodb://{user}127.0.0.1:{guard.port}{urlsplit(fresh).path}?authSource=admin{more}"


def everything_written(store: RunStore, folder: Path) -> str:
    assert isinstance(store, MongoStore)
    documents = [str(document) for name in ("runs", "metrics", "fs.files") for document in store.database[name].find()]
    return "".join([*documents, *(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())])


@pytest.mark.parametrize("mechanism", [None, "SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_a_user_with_the_password_does_all_and_it_is_written_nowhere(
    guarded_server: Guard,
    fresh_mongo_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    mechanism: str | None,
) -> None:
    more = "" if mechanism is None else f"&authMechanism={mechanism}"
    url = address(guarded_server, fresh_mongo_url, guarded_server.password, more)
    store = open_store(url, "trainings", tmp_path)

    def main(run: Run) -> None:
        model = tmp_path / "models" / "0001" / "model_checkpoint_5"
        model.parent.mkdir(parents=True)
        model.write_text("weights")
        run.log_scalar("loss", 0.5, 1)
        run.register_checkpoint(model, 5)

    with caplog.at_level(logging.DEBUG):
        run_experiment(name="train", config={"tracking": {"url": url}}, main=main, store=store)
        run_experiment(name="train", config={}, main=lambda run: None, store=store, continues=Continuation(1, 5))
        sync_journals(store)
        record = store.get(1)
    assert (record.status, record.metrics["loss"].values) == ("COMPLETED", (0.5,))
    assert store.checkpoint_files is not None
    assert len(store.checkpoint_files.of_run(1)) == 1
    assert guarded_server.mechanisms == [mechanism or "SCRAM-SHA-1"]
    said = "".join([everything_written(store, tmp_path), caplog.text, *capfd.readouterr(), repr(store.description)])
    assert "s3cret" not in said
    delete_run(store, 1)


def test_a_wrong_password_is_said_so_and_not_quoted(
    guarded_server: Guard, fresh_mongo_url: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="refuses the user name or password") as refused:
        open_store(address(guarded_server, fresh_mongo_url, "wr0ng"), "trainings", tmp_path / "runs")
    assert "wr0ng" not in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_a_server_that_wants_a_user_says_so_to_who_names_none(
    guarded_server: Guard, fresh_mongo_url: str, tmp_path: Path
) -> None:
    store = open_store(address(guarded_server, fresh_mongo_url, None), "trainings", tmp_path)
    with pytest.raises(StoreError, match=r"without a user name and password .* mongodb://USER:PASSWORD@HOST:PORT"):
        store.summaries()
    with pytest.raises(StoreError, match=r"without a user name and password"):
        run_experiment(name="train", config={}, main=lambda run: None, store=store)
