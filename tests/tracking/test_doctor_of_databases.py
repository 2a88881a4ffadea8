"""What is inconsistent in a database is found and repaired; what is in use or somebody else's is not."""

from datetime import datetime, timedelta

import pytest
from bson import ObjectId
from tracking.ailing_stores import WriteRun, findings, mend
from tracking.moved_runs import write_journal

from incasem_like.tracking import Run, run_experiment
from incasem_like.tracking.stores.mongo import MongoStore

pytestmark = pytest.mark.usefixtures("small_package")


@pytest.fixture(params=["mongomock", pytest.param("server", marks=pytest.mark.mongo)])
def database(request: pytest.FixtureRequest) -> MongoStore:
    """A store in MongoDB."""
    found: MongoStore = request.getfixturevalue(f"{request.param}_store")
    return found


def test_files_of_no_run_are_freed_and_those_of_runs_kept(database: MongoStore) -> None:
    run_experiment(name="x", config={}, main=lambda run: run.add_artifact("{}", "data.json"), store=database)
    files, put = database.database["fs.files"], database.files.put
    before = files.count_documents({})
    put(b"x", filename="artifact://runs/7/data.json")
    put(b"x", filename="artifact://runs/1/replaced.json")
    put(b"x", filename="/old/source.py", md5="ab")
    put(b"x", filename="somebody's own file")
    put(b"x", filename="checkpoint://runs/1/model_checkpoint_5")
    put(b"x", filename="checkpoint://runs/7/model_checkpoint_5")
    assert findings(database, settled=timedelta(hours=1)) == []
    (finding,) = found = findings(database)
    assert finding.problem == f"{database.description} holds 3 files or parts of files that belong to no run."
    mend(found)
    assert files.count_documents({}) == before + 3
    assert database.get(1).artifact("data.json") == b"{}"
    assert findings(database) == []


def test_pieces_of_files_that_were_never_finished_are_freed(database: MongoStore, write_run: WriteRun) -> None:
    chunks = database.database["fs.chunks"]
    old = ObjectId.from_datetime(datetime(2025, 1, 1))
    write_run(database, 1)
    chunks.insert_one({"files_id": old, "n": 0, "data": b"x"})
    chunks.insert_one({"files_id": ObjectId(), "n": 0, "data": b"in the making"})
    for run_id in (1, 9):
        chunks.insert_one({"files_id": f"checkpoint://runs/{run_id}/{'ab' * 32}", "n": 0, "data": b"x"})
    kept = database.files.put(b"whole", filename="somebody's own file")
    (finding,) = found = findings(database, settled=timedelta(hours=1))
    assert "holds 3 files or parts of files" in finding.problem
    mend(found)
    assert chunks.count_documents({}) == 2
    assert database.files.get(kept).read() == b"whole"


def test_pieces_of_an_upload_in_progress_are_left_alone(database: MongoStore) -> None:
    def work(run: Run) -> None:
        pieces = {"files_id": f"checkpoint://runs/{run.id}/{'ab' * 32}", "n": 0, "data": b"x"}
        database.database["fs.chunks"].insert_one(pieces)
        assert findings(database) == []

    run_experiment(name="x", config={}, main=work, store=database)


def test_a_journal_that_was_not_delivered_is_delivered(database: MongoStore) -> None:
    run_experiment(name="x", config={}, main=lambda run: None, store=database)
    (journal,) = database.journals
    write_journal(journal, {**database.database["runs"].find_one({"_id": 1}), "result": 0.75}, database.description)  # type: ignore[dict-item]
    (finding,) = found = findings(database)
    assert "lacks a part of training run 1" in finding.problem
    mend(found)
    assert database.get(1).result == 0.75
    assert findings(database) == []
