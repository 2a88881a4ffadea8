"""The commands, flags and configuration keys in README and the docs are ones that the programs accept."""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, get_origin

import click
import pytest
from docs.pages import PAGES, REPOSITORY, Command, as_command, commands, name_of, site_settings, spans
from pydantic import BaseModel

from incasem_like.bootstrapping.settings import RoundConfig
from incasem_like.commands.cli import answer
from incasem_like.commands.command_line import parse_command_line, read_items
from incasem_like.config import PredictionConfig, SeriesConfig, SweepConfig, TrainingConfig
from incasem_like.config.checking import fields_of, section_of, variants_of
from incasem_like.config.loading import Layers, lay_given
from incasem_like.config.section import Document
from incasem_like.errors import IncasemError
from incasem_like.evaluation.search_config import DecodeSearchConfig
from incasem_like.segmentation.settings import SegmentationConfig

DOCUMENTS: dict[str, type[Document]] = {
    "train": TrainingConfig,
    "describe_network": TrainingConfig,
    "sweep": SweepConfig,
    "predict": PredictionConfig,
    "predict_multiple": SeriesConfig,
    "10_segment": SegmentationConfig,
    "11_search_parameters": DecodeSearchConfig,
    "bootstrap": RoundConfig,
}
TRACKED = [
    importlib.import_module(f"incasem_like.commands.{name}")
    for name in ("train", "sweep", "predict", "predict_multiple", "segment", "search", "bootstrap")
]
NO_KEY = ("py", "yaml", "json", "md", "save")  # train.py, torch.save
SECTIONS = {key for document in DOCUMENTS.values() for key in fields_of(document)}


class Parsed(BaseException):
    """The command line was accepted; nothing is run."""


@pytest.fixture
def only_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make scripts and console commands stop when their command line has been read."""

    def stop(*_: Any, **__: Any) -> NoReturn:
        raise Parsed

    def read(parser: Any, example: str, *_: Any, **__: Any) -> NoReturn:
        line = parse_command_line(sys.argv[1:], parser, example=example)
        raise Parsed(line.files, line.typed_updates)

    def call(command: click.Command, _: click.Context) -> None:
        if not isinstance(command, click.Group):
            raise Parsed

    monkeypatch.setattr("incasem_like.terminal.run_guarded", stop)
    monkeypatch.setattr(click.Command, "invoke", call)
    for module in TRACKED:
        monkeypatch.setattr(module, "run_tracked", read)
    monkeypatch.setattr("incasem_like.commands.predict.share_the_cores", lambda: None)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
@pytest.mark.usefixtures("only_parse")
def test_commands_in_blocks_are_accepted(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = []
    for command in commands(page):
        monkeypatch.chdir(command.folder)
        try:
            accept(command, monkeypatch)
        except (IncasemError, SystemExit) as error:
            reason = capsys.readouterr().err if isinstance(error, SystemExit) else error
            faults.append(f"{command.program} {shlex.join(command.words)}: {reason}")
    assert faults == []


@pytest.mark.parametrize(
    "typed",
    [
        "scripts/03_predict/predict.py --run_ids 1",
        "scripts/02_train/train.py with training.iteration=3",
        "scripts/02_train/train.py with config_trainig.yaml",
        "scripts/04_postprocessing/20_convert_zarr_to_image_sequence.py -f cell.zarr",
        "incasem-like runs lst",
        "incasem-like view --prot 8080 cell.zarr",
    ],
)
@pytest.mark.usefixtures("only_parse")
def test_a_wrong_command_is_noticed(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = as_command(typed.split())
    assert command is not None
    with pytest.raises((IncasemError, SystemExit, AssertionError)):
        accept(command, monkeypatch)


def accept(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command line, and check its configuration as far as a reader's own files need not exist."""
    if command.program == "incasem-like":
        with pytest.raises(Parsed):
            answer(command.words)
        return
    script = REPOSITORY / command.program
    if script.name == "import_keras.py":
        with pytest.raises(Parsed):
            answer(["models", "import", *command.words])
        return
    monkeypatch.setattr(sys, "argv", [str(script), *command.words])
    with pytest.raises(Parsed) as parsed:
        runpy.run_path(str(script), run_name="__main__")
    if script.stem in DOCUMENTS:
        behind = command.words[command.words.index("with") + 1 :] if "with" in command.words else ()
        files, updates = parsed.value.args or read_items([word for word in behind if not word.startswith("-")])
        check_configuration(DOCUMENTS[script.stem], files, updates, script.parent)


def check_configuration(document: type[Document], files: Sequence[Path], updates: Sequence[str], folder: Path) -> None:
    """Check files and keys; a reader's own files start with ``my_``."""
    there = [file for file in files if file.exists() or (folder / file).exists()]
    assert [file for file in files if file not in there and not file.name.startswith("my_")] == []
    layers = Layers()
    lay_given(layers, document, there, updates, folder)
    document.from_values(layers.values, layers.source)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_flags_in_sentences_exist(page: Path) -> None:
    faults = []
    for span in spans(page):
        try:
            words = shlex.split(span)
        except ValueError:  # part of a sentence with one quotation mark
            continue
        command = as_command(words)
        if command is None:
            continue
        text = help_of(command.program, command.words[0] if command.words else "")
        flags = [word.partition("=")[0] for word in command.words if re.match(r"--[a-z]", word)]
        faults += [f"{span}: {flag}" for flag in flags if not re.search(rf"{flag}(?![\w-])", text)]
    assert faults == []


@cache
def help_of(program: str, word: str) -> str:
    """Return what a program prints for ``--help``; of one with several commands, that of the named one too."""
    site = site_settings()
    if program == "incasem-like":
        return "\n".join(site.console_help())
    script = REPOSITORY / program
    operation = word if word in site.SUBCOMMANDS.get(script.name, ()) else ""
    return str(site.script_help(script, operation))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_configuration_keys_in_sentences_exist(page: Path) -> None:
    keys = [span.partition("=")[0] for span in spans(page) if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+(=.*)?", span)]
    keys = [key for key in keys if key.split(".")[0] in SECTIONS and key.split(".")[-1] not in NO_KEY]
    assert [key for key in keys if not is_key(key)] == []


def is_key(dotted: str) -> bool:
    """Return whether some configuration has a key, or free keys below a part of it."""
    parts = tuple(dotted.split("."))
    return any(parts == path or (free and parts[: len(path)] == path) for path, free in every_key())


def test_a_wrong_key_is_noticed() -> None:
    assert is_key("training.optimizer.lr")
    assert is_key("search.space.segmentation.watershed.scoring")
    assert not is_key("training.optimizer.learning_rate")


@cache
def every_key() -> frozenset[tuple[tuple[str, ...], bool]]:
    """Return all keys of all configurations, and whether what is below them is free."""
    return frozenset(key for document in DOCUMENTS.values() for key in keys_below(document, ()))


def keys_below(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield the keys of a section and of those in it, with those of all variants."""
    for one in (model, *variants_of(model).values()):
        for key, field in fields_of(one).items():
            section = section_of(field.annotation)
            yield (*prefix, key), get_origin(field.annotation) is dict
            if section is not None:
                yield from keys_below(section, (*prefix, key))
