import errno
import io
import subprocess
import sys
from pathlib import Path

import pytest

from incasem_like import terminal
from incasem_like.errors import DiskFullError, InputError, StoreError


def exit_status_of(action, **options) -> int:
    with pytest.raises(SystemExit) as stopped:
        terminal.run_guarded(action, **options)
    return stopped.value.code


def raising(error):
    def action():
        raise error

    return action


def test_success_exits_with_zero():
    assert exit_status_of(lambda: None) == 0


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("No such folder."), 2),
        (StoreError("The store is gone."), 1),
        (OSError(errno.ENOSPC, "No space left", "/data/x"), 1),
        (PermissionError(errno.EACCES, "denied", "/data/x"), 2),
        (FileExistsError(errno.EEXIST, "exists", "/data/x"), 2),
        (IsADirectoryError(errno.EISDIR, "is a directory", "/data/x"), 2),
        (OSError(errno.ELOOP, "too many links", "/data/x"), 2),
        (OSError(errno.ENAMETOOLONG, "too long", "/data/x"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_a_person_can_cause_is_one_line_without_traceback(error, status, capsys):
    assert exit_status_of(raising(error)) == status
    shown = capsys.readouterr().err
    assert len(shown.strip().splitlines()) == 1
    assert "Traceback" not in shown


def test_debug_lets_the_traceback_through():
    with pytest.raises(InputError):
        terminal.run_guarded(raising(InputError("No such folder.")), debug=True)


def test_an_error_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        terminal.run_guarded(lambda: 1 // 0)


def test_a_full_disk_is_named_as_such():
    known = terminal.as_known_error(OSError(errno.ENOSPC, "No space left on device", "/data/out"))
    assert isinstance(known, DiskFullError)
    assert "/data/out" in str(known)


def test_a_missing_folder_is_bad_input_and_a_file_missing_in_its_folder_an_error_of_ours(tmp_path):
    known = terminal.as_known_error(FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "absent/out.csv")))
    assert isinstance(known, InputError)
    assert str(tmp_path / "absent") in str(known)
    assert terminal.as_known_error(FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "out.csv"))) is None


@pytest.mark.parametrize(
    "line", [["--size", "3"], ["--size", "1", "2", "x"], ["--sise", "1", "2", "3"], ["--config", "broken.yaml"], []]
)
def test_a_mistyped_command_line_is_one_sentence_that_names_the_help(line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_text("size: [\n")
    parser = terminal.script_parser("Measure.")
    parser.add_argument("--size", nargs=3, type=int, required=True)
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(line)
    shown = capsys.readouterr().err
    assert stopped.value.code == 2
    assert shown.startswith("error: ")
    assert shown.endswith(" --help.\n")
    assert len(shown.splitlines()) == 1


@pytest.mark.parametrize("value", ["0", "-3", "1.5", "x", ""])
def test_a_number_below_the_least_one_is_refused_by_the_parser(value, capsys):
    parser = terminal.script_parser("Measure.")
    parser.add_argument("--chunks", nargs=2, type=terminal.at_least(1))
    assert parser.parse_args(["--chunks", "1", "20"]).chunks == [1, 20]
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--chunks", "5", value])
    assert stopped.value.code == 2
    assert f"{value} is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
def test_a_flag_that_is_a_number_is_finite(value, capsys):
    parser = terminal.script_parser("Measure.")
    parser.add_argument("--limits", nargs=2, type=float)
    assert parser.parse_args(["--limits", "-1", "2.5e3"]).limits == [-1, 2500]
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--limits", "1", value])
    assert stopped.value.code == 2
    assert f"{value} is not a finite number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.2, "3 s"), (200, "3 min 20 s"), (18120, "5 h 2 min"), (float("inf"), "unknown time")]
)
def test_durations_read_as_a_person_would_say_them(seconds, words):
    assert terminal.duration(seconds) == words


def test_progress_without_a_terminal_prints_a_closing_line_with_rate(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with terminal.Progress("Reading", total=4, unit="sections") as progress:
        for _ in range(4):
            progress.advance(note="last.tif")
    assert "4 of 4 sections" in shown.getvalue()
    assert "last.tif" in shown.getvalue()


def test_nearest_word_is_suggested_only_when_near():
    assert terminal.nearest("iteration", ["iterations", "seed"]) == "; did you mean 'iterations'?"
    assert terminal.nearest("zzz", ["iterations", "seed"]) == ""


def test_paths_are_shown_relative_only_where_that_is_shorter(tmp_path, monkeypatch):
    folder = tmp_path / "repository" / "scripts"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert terminal.shown_path(tmp_path / "repository" / "runs") == "../runs"
    assert terminal.shown_path(Path("/x")) == "/x"


def test_an_interruption_says_which_command_goes_on_or_leaves_that_to_who_knows(capsys):
    assert exit_status_of(raising(KeyboardInterrupt())) == 130
    assert "The same command resumes" in capsys.readouterr().err
    exit_status_of(raising(KeyboardInterrupt("Interrupted.")))
    assert capsys.readouterr().err == "Interrupted.\n"


def test_a_command_that_is_pasted_into_a_shell_arrives_as_it_was(tmp_path):
    words = ["my cell.zarr", "it's", '"quoted"', "$HOME", "a;b", "*", "", "~", "back\\slash", Path("a b/c"), 7]
    said = terminal.shell_command(sys.executable, "-c", "import sys; print(sys.argv[1:])", *words)
    done = subprocess.run(["/bin/sh", "-c", said], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([str(word) for word in words])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "wrong.yaml cannot be read (No such file or directory): see"), ("a: [1", "not valid YAML (line 2)")],
)
def test_a_config_file_that_cannot_be_read_is_one_sentence(content, sentence, tmp_path, monkeypatch, capsys):
    if content is not None:
        (tmp_path / "wrong.yaml").write_text(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        terminal.script_parser("Do it.").parse_args(["--config", "wrong.yaml"])
    [said] = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert sentence in said
    assert "Errno" not in said
