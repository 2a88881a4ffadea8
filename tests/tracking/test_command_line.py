"""Sacred's form of command line, and what is said about one that cannot be read."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from incasem_like.commands.command_line import CommandLine, format_config, parse_command_line
from incasem_like.errors import InputError
from incasem_like.terminal import script_parser


def parse(*argv: str) -> CommandLine:
    parser = script_parser("Train a network.", prog="train.py")
    parser.add_argument("--start_from", nargs="+")
    parser.add_argument("--run_id", type=int)
    return parse_command_line(argv, parser)


def test_flags_files_and_updates_are_told_apart_in_any_order() -> None:
    line = parse("--name", "A", "with", "a.yaml", "lr=1e-4", "b.json", "x.y=[1, -2]", "--run_id", "3", "z=")
    assert (line.command, line.name, line.own.run_id) == ("run", "A", 3)
    assert line.files == (Path("a.yaml"), Path("b.json"))
    assert line.updates == ("lr=1e-4", "x.y=[1, -2]", "z=")


def test_flags_of_sacred_are_known_by_their_short_names() -> None:
    line = parse(
        "-n", "A", "-c", "a remark", "-i", "7", "-p", "-l", "debug", "-u", "-d", "-m", "db:1", "with", "a.yaml"
    )
    assert (line.name, line.comment, line.id, line.print_config) == ("A", "a remark", 7, True)
    assert (line.loglevel, line.unobserved, line.debug, line.store) == (10, True, True, "db:1")
    assert parse("-F", "folder").store == str(Path.cwd() / "folder")  # a folder, whatever it is called
    assert parse("--mongo_db=db:1").store == "db:1"
    assert parse("--debug").debug
    assert not parse().debug


def test_a_flag_with_several_values_ends_where_the_configuration_begins() -> None:
    assert parse("--start_from", "3", "best", "with", "a.yaml").own.start_from == ["3", "best"]
    assert parse("with", "a.yaml", "--start_from", "3", "b=1").own.start_from == ["3"]
    assert parse("--name", "with", "with", "a.yaml").name == "with"


def test_who_else_is_told_and_where_the_record_waits() -> None:
    line = parse("--slack", "--observer", "a.yaml", "--observer", "b.json", "--offline", "with", "c.yaml")
    assert (line.slack, line.observers, line.offline) == (Path("slack.json"), (Path("a.yaml"), Path("b.json")), True)
    assert (parse().slack, parse().observers, parse().offline) == (None, (), False)
    line = parse("--slack", "team.yaml", "print_config", "with", "c.yaml")
    assert (line.slack, line.command, line.files) == (Path("team.yaml"), "print_config", (Path("c.yaml"),))


def test_a_flag_whose_value_may_be_left_out_takes_no_command_and_no_configuration() -> None:
    line = parse("--slack", "print_config", "with", "c.yaml")
    assert (line.slack, line.command) == (Path("slack.json"), "print_config")
    line = parse("with", "--slack", "c.yaml")
    assert (line.slack, line.files) == (Path("slack.json"), (Path("c.yaml"),))
    line = parse("--start_from", "3", "runs/lr=1/model_checkpoint_5", "print_config", "with", "c.yaml")
    assert (line.own.start_from, line.command) == (["3", "runs/lr=1/model_checkpoint_5"], "print_config")


def test_print_config_is_a_command() -> None:
    assert parse("print_config", "with", "a.yaml").command == "print_config"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["a.yaml"], "'a.yaml' must stand behind the word 'with': train.py [flags] with a.yaml."),
        (["lr=1"], "'lr=1' must stand behind the word 'with'"),
        (["--nmae", "x"], "Unknown flag --nmae; did you mean '--name'?"),
        (["--start_form=3"], "Unknown flag --start_form; did you mean '--start_from'?"),
        (["--queue", "with", "a.yaml"], "Sacred's flag --queue is not needed here: nothing is queued"),
        (["-C", "no", "with", "a.yaml"], "Sacred's flag -C is not needed here: output is always captured"),
        (["--offline", "-u"], "--unobserved keeps none: give one of them"),
        (["--offline", "-F", "x"], "leave --offline out"),
        (["print_confg"], "not a command; did you mean 'print_config'?"),
        (["wiht", "a.yaml"], "'wiht' is not a command; did you mean 'with'? Write train.py [flags] with CONFIG.yaml"),
        (["--resume", "3"], "Unknown flag --resume: see train.py --help."),
        (["with", "training.iterations", "5"], "write training.iterations=VALUE"),
        (["with", "a", "=", "1"], "neither a .yaml file nor key=value"),
        (["with", "=1"], "names no key"),
        (["--run_id", "x"], "invalid int value: 'x'"),
        (["--name"], "expected one argument"),
        (["-i", "first"], "--id takes the id of a run, a whole number from 1, found 'first'"),
        (["-l", "verbos"], "Unknown log level 'verbos'"),
        (["-m", "a:1", "-F", "b"], "give --mongodb or --file_storage, not both"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(*argv)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_database_password_is_not_shown_by_what_was_parsed() -> None:
    assert "s3cret" not in repr(parse("-m", "mongodb://ada:s3cret@db"))


def test_help_explains_with_and_gives_an_example_without_importing_sacred() -> None:
    code = (
        "import sys; from incasem_like.terminal import script_parser\n"
        "from incasem_like.commands.command_line import parse_command_line\n"
        "from incasem_like.tracking import run_experiment, open_store\n"
        "try: parse_command_line(['-h'], script_parser('Train a network.', prog='train.py'), example='with c.yaml')\n"
        "finally: sys.exit(10 * bool({'sacred', 'pymongo', 'numpy', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: train.py [flags] [print_config] with CONFIG.yaml [key=value ...]")
    for text in (
        "Train a network.",
        "--name",
        "--mongodb",
        "after the word 'with'",
        "example:\n  train.py with c.yaml",
    ):
        assert text in done.stdout


def test_a_flag_that_the_script_has_itself_is_kept_as_it_is() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="own")
    line = parse_command_line(["-u"], parser)
    assert line.name == "own"
    assert parse_command_line(["-n", "B"], argparse.ArgumentParser()).name == "B"


def test_a_configuration_is_printed_as_yaml_that_reads_back_without_credentials() -> None:
    import yaml

    config = {"training": {"lr": 3e-5, "shape": [1, 2]}, "url": "mongodb://u:p@h"}
    assert yaml.safe_load(format_config(config)) == {"training": {"lr": 3e-5, "shape": [1, 2]}, "url": "mongodb://h"}
