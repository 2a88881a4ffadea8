"""The console command itself: help at once, mistakes in one sentence, pipes."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from incasem_like.commands.cli import answer
from incasem_like.commands.lazy_group import LazyGroup, Member
from incasem_like.commands.runs import COMMANDS
from incasem_like.errors import InputError


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "incasem_like", *words], capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize("words", [["--help"], ["runs", "--help"], ["runs", "list", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from incasem_like.commands.cli import answer; answer(sys.argv[1:]);"
        "heavy = {'torch', 'pymongo', 'sacred', 'matplotlib', 'pydantic', 'tensorstore', 'rich', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert shown.stderr.strip() == "[]"
    assert "Usage: incasem-like" in shown.stdout


def test_the_console_command_runs_as_a_module_from_any_folder(tmp_path: Path) -> None:
    shown = run("runs", cwd=tmp_path)
    assert shown.returncode == 0
    for command in COMMANDS.values():
        assert not command.exists or command.purpose.split(",")[0] in shown.stdout
    assert run("--version", cwd=tmp_path).stdout.startswith("incasem-like, version")


@pytest.mark.parametrize("word", sorted(COMMANDS))
def test_every_command_explains_itself(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS[word].exists
    assert answer(["runs", word, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: incasem-like runs {word}" in shown
    assert "--mongodb" in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rusn"], "'rusn' is not a command of incasem-like; did you mean 'runs'?"),
        (["runs", "lits"], "did you mean 'list'?"),
        (["runs", "list", "--colums", "x"], "Unknown flag --colums; did you mean '--columns'?"),
        (["runs", "list", "--limit"], "requires an argument"),
        (["runs", "list", "--limit", "some"], "Invalid value for '--limit': 'some' is not a valid whole number: see"),
        (["runs", "list", "--limit", "0"], "Invalid value for '--limit': 0 is not in the range x>=1: see"),
        (["models", "import", "a.pt", "--id", "x"], "Invalid value for '--id': 'x' is not a valid whole number: see"),
        (
            ["models", "import", "a.pt", "--voxel_size", "5", "5", "a"],
            "'a' is not a valid float: see",
        ),
        (["models", "import", "a.pt", "--voxel_size", "5"], "Option '--voxel_size' requires 3 arguments: see"),
        (["runs", "show"], "Missing argument 'ID': see incasem-like runs show --help."),
        (["runs", "show", "twelve"], "'twelve' is not a run: write its id, such as 12"),
        (["runs", "show", "foo/12"], "Unknown kind of run 'foo'"),
        (["runs", "show", "1", "2"], "unexpected extra argument (2)"),
        (["runs", "list", "--kind", "predicitons"], "did you mean 'predictions'?"),
        (["runs", "list", "--mongodb", "h:1", "-F", "d"], "give --mongodb or --file_storage, not both"),
    ],
)
def test_a_mistyped_command_line_is_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        answer(words)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_mistake_ends_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    shown = run("runs", "show", "1", "--runs_directory", str(tmp_path))
    assert shown.returncode == 2
    assert len(shown.stderr.strip().splitlines()) == 1
    assert shown.stderr.startswith("error: There is no training run 1")


def test_a_reader_that_has_read_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m incasem_like runs list --help --runs_directory {tmp_path} | head -n 1; sleep 0.1"
    shown = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=60)
    assert shown.stdout.startswith("Usage")
    assert shown.stderr == ""


def test_a_command_whose_module_is_missing_is_not_offered() -> None:
    group = LazyGroup(
        members={"there": Member("json", "x", ""), "not": Member("incasem_like.commands.nowhere", "x", "")}
    )
    assert list(group.members) == ["there"]


def test_help_answers_at_once() -> None:
    """No stopwatch: of the modules that come with Python and click alone, nothing else is imported."""
    code = (
        "import sys; from incasem_like.commands.cli import answer; answer(['--help']);"
        "print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names), file=sys.stderr)"
    )
    began = time.monotonic()
    shown = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 30
    foreign = {name for name in shown.stderr.split() if not name.startswith(("_", "sitecustomize"))}
    assert foreign <= {"click", "incasem_like", "typing_extensions"}
