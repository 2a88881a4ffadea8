"""What is inconsistent in a database is found and repaired; what is in use or somebody else's is not."""

from datetime import datetime, timedelta

import pytest
from tracking.ailing_stores import WriteRun, findings, mend, write_training
from tracking.moved_runs import write_journal

from incasem_like.tracking import run_experiment
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
    assert findings(database, settled=timedelta(hours=1)) == []
    found = findings(database)
    assert sorted(finding.problem for finding in found) == [
        "GridFS holds 1 sources that no run names.",
        "GridFS holds 2 files of no run.",
    ]
    mend(found)
    assert files.count_documents({}) == before + 1
    assert database.get(1).artifact("data.json") == b"{}"
    assert findings(database) == []


def test_pieces_of_files_that_were_never_finished_are_freed(database: MongoStore, write_run: WriteRun) -> None:
    from bson import ObjectId

    chunks = database.database["fs.chunks"]
    old = ObjectId.from_datetime(datetime(2025, 1, 1))
    chunks.insert_one({"files_id": old, "n": 0, "data": b"x"})
    chunks.insert_one({"files_id": ObjectId(), "n": 0, "data": b"in the making"})
    chunks.insert_one({"files_id": f"checkpoint://runs/9/{'ab' * 32}", "n": 0, "data": b"x"})
    kept = database.files.put(b"whole", filename="somebody's own file")
    found = findings(database, settled=timedelta(hours=1))
    assert sorted(finding.problem for finding in found) == [
        "An upload of checkpoints of training run 9 broke off.",
        "GridFS holds pieces of 1 files that were never finished.",
    ]
    mend(found)
    assert chunks.count_documents({}) == 2
    assert database.files.get(kept).read() == b"whole"


def test_an_upload_that_broke_off_is_finished(database: MongoStore, write_run: WriteRun) -> None:
    write_training(database, write_run)
    last = database.get(1).checkpoints[1]
    half = {"files_id": f"checkpoint://runs/1/{last.sha256}", "n": 0, "data": last.path.read_bytes()}
    database.database["fs.chunks"].insert_one(half)
    mend(findings(database))
    assert last.sha256 in {stored.sha256 for stored in database.checkpoint_files.of_run(1)}
    assert findings(database) == []


def test_files_that_are_gone_are_named(database: MongoStore) -> None:
    run_experiment(name="x", config={}, main=lambda run: run.add_artifact("{}", "data.json"), store=database)
    entry = database.database["runs"].find_one({"_id": 1})["artifacts"][0]  # type: ignore[index]
    database.files.delete(entry["file_id"])
    (finding,) = findings(database)
    assert finding.problem == "Training run 1 names files that are gone: data.json."
    assert finding.mend is None


def test_a_journal_that_was_not_delivered_is_delivered(database: MongoStore) -> None:
    run_experiment(name="x", config={}, main=lambda run: None, store=database)
    (journal,) = database.journals
    write_journal(journal, {**database.database["runs"].find_one({"_id": 1}), "result": 0.75}, database.description)  # type: ignore[dict-item]
    (finding,) = found = findings(database)
    assert "is not all there" in finding.problem
    mend(found)
    assert database.get(1).result == 0.75
    assert findings(database) == []
