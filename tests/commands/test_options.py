"""One vocabulary of flags for tracked scripts, stage scripts and the console command."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from incasem_like.commands.command_line import CommandLine, parse_command_line
from incasem_like.commands.options import StoreChoice, add_record_flags, record_options
from incasem_like.config import default_runs_directory, load_training_config
from incasem_like.errors import InputError
from incasem_like.terminal import script_parser


def stage(*words: str) -> argparse.Namespace:
    """Parse the flags of a stage script, which uses some short names itself."""
    parser = script_parser("Segment.", prog="segment.py")
    parser.add_argument("-n", "--num_workers")
    parser.add_argument("-c", "--chunk_shape")
    add_record_flags(parser)
    return parser.parse_args(words)


def tracked(*words: str) -> CommandLine:
    return parse_command_line(words, argparse.ArgumentParser(prog="train.py", allow_abbrev=False))


def test_a_script_keeps_its_own_short_names() -> None:
    found = stage("-n", "2", "-c", "64", "--name", "mito", "--comment", "a remark", "-i", "7", "-m", "db:1")
    assert (found.num_workers, found.chunk_shape) == ("2", "64")
    assert (found.name, found.comment, found.id, found.mongodb) == ("mito", "a remark", "7", "db:1")


def test_the_former_name_of_the_runs_directory_is_accepted_and_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--runs", "--runs_directory"):
        assert StoreChoice.from_arguments(stage(flag, str(tmp_path))).runs_directory == tmp_path
    with pytest.raises(SystemExit):
        stage("--help")
    shown = capsys.readouterr().out
    assert "--runs_directory DIR" in shown
    assert "--runs " not in shown


def test_the_runs_directory_of_a_tracked_script_wins_over_its_configuration(tmp_path: Path) -> None:
    line = tracked("--runs_directory", str(tmp_path / "it's: here"), "with", "directories.runs=elsewhere")
    config = load_training_config(line.files, line.updates)
    assert config.directories.runs == tmp_path / "it's: here"
    assert line.typed_updates == ("directories.runs=elsewhere",)
    assert tracked("with", "seed=1").typed_updates == ("seed=1",)


def test_the_record_of_a_stage_script_is_described_by_its_flags(tmp_path: Path) -> None:
    words = ["--name", "a", "--comment", "b", "--id", "3", "--runs_directory", str(tmp_path)]
    record = record_options(stage(*words), "segmentations")
    assert (record["run_name"], record["comment"], record["run_id"]) == ("a", "b", 3)
    assert record["store"].description == str(tmp_path / "tracking" / "incasem_segmentations")
    waiting = record_options(stage(*words, "--offline", "--mongodb", "mongodb://db"), "segmentations")["store"]
    assert waiting.description == str(tmp_path / "tracking" / "offline" / "incasem_segmentations")
    assert record_options(stage("--unobserved"), "segmentations")["store"] is None


def test_the_flags_that_select_the_same_store_again_have_no_password(tmp_path: Path) -> None:
    choice = StoreChoice.from_arguments(stage("-m", "mongodb://ada:s3cret@db", "--runs", str(tmp_path), "--offline"))
    assert choice.flags()[:2] == ["--mongodb", "mongodb://db"]
    assert choice.flags()[2] == "--runs_directory"
    assert choice.flags()[-1] == "--offline"
    assert "s3cret" not in repr(choice)
    assert StoreChoice(None, default_runs_directory()).flags() == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--mongodb", "h:1", "--file_storage", "d"), "give --mongodb or --file_storage, not both"),
        (("--offline", "--unobserved"), "--unobserved keeps none"),
        (("--offline", "--file_storage", "d"), "leave --offline out"),
        (("--id", "first"), "--id takes the id of a run, a whole number from 1, found 'first'"),
        (("--runs", "localhost:27017"), "is the address of a server, but a folder is needed"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        record_options(stage(*words), "segmentations")
