"""What mongodump wrote is read whole, whichever way it was written, and damage is told."""

from __future__ import annotations

import gzip
from datetime import UTC, timedelta
from pathlib import Path

import pytest
from pretrained import dumps, incasem_runs
from pretrained.dumps import archive_bytes, write_folder

from incasem_like.errors import DataError, InputError
from incasem_like.pretrained.databases import ORIGINAL_RECORD, is_archive, is_dump_folder, open_database

DATABASE = incasem_runs.database(
    *(incasem_runs.run(run_id, f"run_{run_id}", incasem_runs.config()) for run_id in (1837, 1841, 1847))
)


def write(path: Path, how: str) -> Path:
    target = path / "dump"
    if how.startswith("folder"):
        write_folder(target, DATABASE, compressed=how == "folder_gz")
        return target / incasem_runs.DATABASE if how == "folder_of_one" else target
    content = archive_bytes(DATABASE, segment=1 if how == "interleaved" else 1000, crcs=how != "archive_old")
    target.write_bytes(gzip.compress(content) if how == "archive_gz" else content)
    return target


@pytest.mark.parametrize(
    "how", ["archive", "archive_gz", "archive_old", "interleaved", "folder", "folder_gz", "folder_of_one"]
)
def test_runs_with_metrics_and_files_are_read(tmp_path: Path, how: str) -> None:
    path = write(tmp_path, how)
    assert is_dump_folder(path) or is_archive(path)
    with open_database(path) as dump:
        found = dump
        assert (dump.database, found.ids()) == ("public_fiborganelle", [1837, 1841, 1847])
        run = next(found.runs([1841]))
        assert (run.id, run.name, run.problem) == (1841, "run_1841", "")
        loss = run.metrics["loss_train_0"]
        assert (loss.steps, loss.values) == ((0, 1000, 2000), (0.7, 0.5, 0.25))
        assert loss.timestamps[1] == (incasem_runs.START + timedelta(minutes=1)).replace(tzinfo=UTC)
        assert run.artifacts["er.json"] == incasem_runs.TRAINING_JSON
        assert b"366151b" in run.artifacts[ORIGINAL_RECORD]
    document = run.document
    assert document["start_time"] == (incasem_runs.START + timedelta(days=41)).replace(tzinfo=UTC)
    assert document["result"] == 0.25
    assert run.sources == {"train.py": b"import incasem\n"}
    assert document["experiment"]["repositories"][0]["commit"] == "366151b"
    assert document["info"]["original_config"]["directories"]["db"] == "/nfs/mock_db"
    assert document["config"]["directories"]["data"] == "~/incasem/data"


@pytest.mark.parametrize("where", [0.05, 0.3, 0.6, 0.95, 1.0])
def test_an_archive_that_breaks_off_is_told_apart_from_a_short_one(tmp_path: Path, where: float) -> None:
    content = archive_bytes(DATABASE, segment=1)
    path = tmp_path / "archive"
    path.write_bytes(content[: int(len(content) * where) - 1])
    with pytest.raises(DataError, match=r"damaged|not an archive"), open_database(path):
        pass


def test_an_archive_cut_between_two_segments_is_incomplete(tmp_path: Path) -> None:
    content = archive_bytes(DATABASE, segment=1)
    end = content.rindex(dumps.TERMINATOR, 0, int(len(content) * 0.6)) + 4
    path = tmp_path / "archive"
    path.write_bytes(content[:end])
    with pytest.raises(DataError, match="ends within"), open_database(path):
        pass


def test_a_changed_bit_in_an_archive_is_noticed(tmp_path: Path) -> None:
    content = bytearray(archive_bytes(DATABASE))
    content[content.index(b"cell_1_er")] ^= 1
    path = tmp_path / "archive"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"checksum of public_fiborganelle\.fs\.chunks"), open_database(path):
        pass


def test_a_compressed_archive_that_breaks_off_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(gzip.compress(archive_bytes(DATABASE))[:-200])
    with pytest.raises(DataError, match="damaged"), open_database(path):
        pass


def test_something_else_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(b"PK\x03\x04 something else")
    assert not is_archive(path)
    with pytest.raises(DataError, match="not an archive"), open_database(path):
        pass


def test_a_file_in_a_folder_that_breaks_off_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path, "folder")
    runs = path / incasem_runs.DATABASE / "runs.bson"
    runs.write_bytes(runs.read_bytes()[:-10])
    with open_database(path) as dump, pytest.raises(DataError, match="damaged"):
        dump.ids()


def test_of_several_databases_one_has_to_be_named(tmp_path: Path) -> None:
    two = {**DATABASE, ("incasem_predictions", "runs"): [incasem_runs.run(7, "other", incasem_runs.config())]}
    path = tmp_path / "archive"
    path.write_bytes(archive_bytes(two))
    with pytest.raises(InputError, match=r"incasem_predictions, public_fiborganelle: choose one"), open_database(path):
        pass
    with open_database(path, "incasem_predictions") as dump:
        assert dump.ids() == [7]
    with pytest.raises(InputError, match="no runs in a database lab"), open_database(path, "lab"):
        pass


def test_a_database_without_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(archive_bytes({("lab", "cells"): [{"_id": 1}]}))
    with pytest.raises(InputError, match="no database with runs"), open_database(path):
        pass


def test_a_run_that_never_ended_was_killed_when_last_heard_of(tmp_path: Path) -> None:
    run = incasem_runs.run(1900, "lost", incasem_runs.config(), status="RUNNING")
    del run["stop_time"]
    path = tmp_path / "archive"
    path.write_bytes(archive_bytes(incasem_runs.database(run)))
    with open_database(path) as dump:
        document = next(dump.runs()).document
    assert (document["status"], document["stop_time"]) == ("KILLED", document["heartbeat"])


def test_a_run_whose_network_is_unknown_here_is_read_with_the_reason(tmp_path: Path) -> None:
    run = incasem_runs.run(1700, "two_tasks", incasem_runs.config(type="MultitaskUnet"))
    path = tmp_path / "archive"
    path.write_bytes(archive_bytes(incasem_runs.database(run)))
    with open_database(path) as dump:
        found = next(dump.runs())
    assert "MultitaskUnet" in found.problem
    assert found.document["config"]["model"]["type"] == "MultitaskUnet"


@pytest.mark.parametrize("collection", ["fs.files", "fs.chunks"])
def test_a_file_that_the_database_lost_a_part_of_is_named(tmp_path: Path, collection: str) -> None:
    lost = DATABASE[incasem_runs.DATABASE, collection][1:]
    path = tmp_path / "archive"
    path.write_bytes(archive_bytes({**DATABASE, (incasem_runs.DATABASE, collection): lost}))
    with open_database(path) as dump:
        run = next(dump.runs([1837]))
    assert run.missing == ("er.json",)
    assert run.document["info"]["imported"]["files_not_in_dump"] == ["er.json"]
    assert list(run.artifacts) == [ORIGINAL_RECORD]


def test_the_name_of_a_file_does_not_lead_out_of_its_run(tmp_path: Path) -> None:
    run = incasem_runs.run(1841, "er", incasem_runs.config())
    run["artifacts"][0]["name"] = "../../.ssh/keys"
    path = tmp_path / "archive"
    path.write_bytes(archive_bytes(incasem_runs.database(run)))
    with open_database(path) as dump:
        assert sorted(next(dump.runs()).artifacts) == ["_.._.ssh_keys", ORIGINAL_RECORD]
