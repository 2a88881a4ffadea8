"""Checkpoints that a database lacks, has damaged or has too many of, mended after the run."""

from datetime import datetime
from pathlib import Path

import pytest
from tracking.checkpoint_runs import pieces, stored, train

from incasem_like.tracking import liveness as watching
from incasem_like.tracking.mirror.checkpoints import runs_lacking_uploads, upload_missing
from incasem_like.tracking.stores.mongo import MongoStore


def test_runs_that_lack_uploads_are_found_where_their_files_are(database: MongoStore, tmp_path: Path) -> None:
    for _ in range(2):
        train(database)
    train(database, "none")
    assert runs_lacking_uploads(database) == []
    files = database.checkpoint_files
    files.remove([copy.id for copy in files.of_run(2) if copy.name == "training_state_20"])
    files.remove([copy.id for copy in files.of_run(1) if "40" in copy.name])
    assert [record.id for record in runs_lacking_uploads(database)] == [1, 2]
    assert [one.iteration for record in runs_lacking_uploads(database) for one in upload_missing(record)] == [40, 20]
    assert runs_lacking_uploads(database) == []
    files.remove_run(1)
    elsewhere = MongoStore(database.database, database.kind, tmp_path / "elsewhere")
    (tmp_path / "runs").rename(tmp_path / "gone")
    assert runs_lacking_uploads(elsewhere) == []


def test_a_run_that_lives_by_a_clock_that_is_behind_uploads_itself(
    database: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(database)
    database.checkpoint_files.remove_run(1)
    change = {"status": "RUNNING", "host": {"hostname": "elsewhere"}, "heartbeat": datetime(2026, 1, 1)}
    database.database["runs"].update_one({"_id": 1}, {"$set": change})
    with monkeypatch.context() as patched:
        patched.setattr(watching, "watch", lambda look, who: {1})
        assert upload_missing(database.get(1)) == []
    assert [one.iteration for one in upload_missing(database.get(1))] == [40, 20]


def test_the_pieces_of_a_run_can_be_taken_out(database: MongoStore, tmp_path: Path) -> None:
    train(database)
    train(database)
    files = database.checkpoint_files
    database.database["fs.chunks"].insert_one({"files_id": "checkpoint://runs/1/broken", "n": 0, "data": b"x"})
    assert files.remove_partial(1) == 1
    length = sum(copy.bytes for copy in files.of_run(1))
    assert files.remove_run(1) == length > 0
    assert stored(database, 1) == []
    assert len(stored(database, 2)) == 4
    assert pieces(database) == {copy.id for copy in files.of_run(None)}
