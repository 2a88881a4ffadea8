"""Shared parts of scripts: the parser, exit statuses, one-sentence errors, progress and final messages."""

from __future__ import annotations

import argparse
import difflib
import errno
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NoReturn

from incasem_like.errors import DiskFullError, IncasemError, InputError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 10.0
WORKERS_HELP = "workers.yaml, or the address of a Dask cluster: workers elsewhere instead (docs/blockwise.md)"


def script_parser(purpose: str, **options: object) -> argparse.ArgumentParser:
    """Make the parser of a script: every flag may also come from a ``--config`` file, defaults are shown by ``-h``.

    Args:
        purpose: One line, shown first by ``-h``.
        **options: Passed on to ``configargparse.ArgumentParser``.
    """
    import configargparse

    def error(message: str) -> NoReturn:
        # argparse would print a dozen lines of usage before the one line that matters.
        parser.exit(InputError.exit_status, f"error: {' '.join(message.split())}: see {parser.prog} --help.\n")
        raise AssertionError

    def open_config(path: str) -> IO[str]:
        try:
            return open(path, encoding="utf-8")
        except OSError as problem:
            error(f"{path} cannot be read ({problem.strerror})")

    class YamlOfFlags(configargparse.YAMLConfigFileParser):  # type: ignore[misc]
        def parse(self, stream: IO[str]) -> Any:
            try:
                return super().parse(stream)
            except configargparse.ConfigFileParserException as problem:
                mark = getattr(problem.__context__, "problem_mark", None)  # of the YAML error
                line = "" if mark is None else f" (line {mark.line + 1})"
                error(f"The --config file {stream.name} is not valid YAML{line}, write 'flag: value' lines")

    parser: argparse.ArgumentParser = configargparse.ArgumentParser(
        description=purpose,
        formatter_class=HelpFormatter,
        config_file_parser_class=YamlOfFlags,
        config_file_open_func=open_config,
        add_env_var_help=False,
        add_config_file_help=False,
        allow_abbrev=False,
        **options,
    )
    parser.add_argument("--config", is_config_file=True, metavar="FILE", help="YAML file with values for any flag")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")

    parser.error = error  # type: ignore[method-assign]
    parser.register("type", float, _finite)
    return parser


def _finite(text: str) -> float:
    """Parse the value of a flag of type float; NaN and Inf satisfy or break comparisons silently."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def add_worker_flags(parser: argparse.ArgumentParser, *, short: bool = True) -> None:
    """Add the flags of a script that works on blocks: ``--num_workers``, ``--workers`` and ``--dashboard``.

    Args:
        parser: Parser of the script.
        short: Whether ``-n`` stands for ``--num_workers``; in commands with a configuration it is ``--name``.
    """
    add = parser.add_argument
    add(*(["-n"] if short else []), "--num_workers", type=_count, default=os.cpu_count(), help="processes, at most")
    add("--workers", type=workers_source, metavar="FILE", help=WORKERS_HELP)
    add("--dashboard", action="store_true", help="print the address of a page that shows what workers do")


def workers_source(text: str) -> Path | str:
    """Parse the value of ``--workers``: a file, or the address of a Dask cluster, which is not a path."""
    return text if "://" in text else Path(text)


def at_least(minimum: int) -> Callable[[str], int]:
    """Return the type of a flag whose values are whole numbers from ``minimum``, for ``add_argument``.

    Example:
        >>> at_least(1)("3")
        3
    """

    def parse(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least {minimum}")
        return int(text)

    return parse


def _count(text: str) -> int:
    """Parse a number of processes; 0 and 1 both mean this process alone."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes, give 1 or more")
    return int(text)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except None and the off state of a switch."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS) or action.required:
            return action.help
        return super()._get_help_string(action)


def run_script(main: Callable[[argparse.Namespace], int | None], parser: argparse.ArgumentParser) -> NoReturn:
    """Read the command line, call ``main`` with the parsed arguments, and exit with the resulting status."""
    arguments = parser.parse_args()
    run_guarded(lambda: main(arguments), debug=arguments.debug)


def run_guarded(action: Callable[[], int | None], *, debug: bool = False) -> NoReturn:
    """Call ``action`` and exit: 0 success, 2 bad input, 1 internal or machine error, 130 interrupted.

    Known errors print one sentence; ``debug`` adds the traceback.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    status = 0
    try:
        status = action() or 0
    except KeyboardInterrupt as interruption:  # its text is set if another command resumes
        usual = "Interrupted. The same command resumes or starts again; nothing half-written counts as complete."
        print(str(interruption) or usual, file=sys.stderr)
        status = 130
    except (IncasemError, OSError) as error:
        known = as_known_error(error)
        if known is None or debug:
            raise
        print(f"error: {known}", file=sys.stderr)
        status = known.exit_status
    sys.stdout.flush()
    sys.exit(status)


def as_known_error(error: BaseException) -> IncasemError | None:
    """Return this package's error for an operating-system error that the user can fix; None for any other error."""
    if isinstance(error, IncasemError):
        return error
    if isinstance(error, OSError):
        place = f" {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFullError(f"No space is left on the disk{place}: free some and run the same command again.")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return InputError(f"Not permitted to write or read{place}: change its permissions or choose another place.")
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            return InputError(f"A file stands where a folder is needed{place and ':'}{place}: choose another place.")
        if error.errno == errno.EISDIR:
            return InputError(f"A folder stands where a file is needed{place and ':'}{place}: choose another place.")
        if error.errno == errno.ENOENT and error.filename and not os.path.isdir(os.path.dirname(error.filename) or "."):
            folder = os.path.dirname(error.filename)
            return InputError(f"The folder {folder} does not exist: create it, or choose another place.")
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            what = "has too long a name" if error.errno == errno.ENAMETOOLONG else "is a link that leads to itself"
            return InputError(f"A path {what}{place and ':'}{place}: choose another place.")
    return None


class Progress:
    """Progress of a known amount of work: a bar with rate and time remaining, or periodic lines without a terminal."""

    def __init__(self, description: str, total: float, unit: str, *, already: float = 0.0) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self._already = already  # by earlier calls, so not part of the rate of this one
        self.note = ""
        self._start = self._last_line = time.monotonic()
        self._shown = already
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            self._bar = _rich_bar()
            self._bar.start()
            self._task = self._bar.add_task(
                self.description, total=self.total, completed=int(self.done), rate="", note=""
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif error is None and self.done > self._shown:
            self._print_line()

    def start_clock(self) -> None:
        """Measure rate and time remaining from now on, leaving out preparation."""
        self._start = self._last_line = time.monotonic()

    def advance(self, amount: float = 1.0, note: str | None = None) -> None:
        """Count ``amount`` more units as done; ``note`` (a loss, a file name) is shown after the rate."""
        self.done += amount
        if note is not None:
            self.note = note
        if self._bar is not None:
            self._bar.update(self._task, completed=int(self.done), rate=self._rate(), note=self.note)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._print_line()

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        return f"{_short((self.done - self._already) / seconds)} {self.unit}/s"

    def _print_line(self) -> None:
        self._last_line = now = time.monotonic()
        self._shown = self.done
        seconds = now - self._start
        here = self.done - self._already
        left = seconds * (self.total - self.done) / here if here else float("inf")
        note = f", {self.note}" if self.note else ""
        print(
            f"{self.description}: {_short(self.done)} of {_short(self.total)} {self.unit}, {self._rate()}, "
            f"{duration(seconds)} elapsed, {duration(left)} remaining{note}",
            file=sys.stderr,
            flush=True,
        )


def _rich_bar() -> RichProgress:
    from rich import console, progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("{task.percentage:>3.0f}%"),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
        console=console.Console(stderr=True),
    )


def duration(seconds: float) -> str:
    """Return a number of seconds as text: ``12 s``, ``3 min 20 s``, ``5 h 2 min``."""
    if seconds == float("inf") or seconds != seconds:
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(number: int, noun: str) -> str:
    """Return a number with a noun in singular or plural: ``1 tile``, ``27 tiles``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _short(number: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= limit:
            return f"{number / (1e3 if letter == 'k' else limit):.3g}{letter}"
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def report_written(what: str, where: str, next_command: str | None = None, *, already: bool = False) -> None:
    """Print what was written and where, or that it existed already, and the next useful command."""
    print(f"{'Already there:' if already else 'Wrote'} {what}: {where}")
    if next_command:
        print(f"Next: {next_command}")


def shell_command(*words: object) -> str:
    """Return a command that can be pasted into a shell: words with blanks or special characters are quoted."""
    return shlex.join(map(str, words))


def shown_path(path: Path) -> str:
    """Return a path as text, relative to the current folder if that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def nearest(word: str, known: Sequence[str]) -> str:
    """Return ``; did you mean 'x'?`` for the known word nearest to a mistyped one, or ``""`` if none is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
