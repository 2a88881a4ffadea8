"""The flags of every tracked script, and the advice for flags of Sacred that are not supported."""

from __future__ import annotations

import argparse
from typing import Any

from incasem_like.terminal import HelpFormatter

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
DEFAULT_SLACK_FILE = "slack.json"
_HOW_TO = """\
after the word 'with':
  CONFIG.yaml          a configuration file; a later one overrides an earlier one
  key=value            one configuration value: training.iterations=2000, model.num_fmaps=12

instead of running:
  %(prog)s print_config with CONFIG.yaml    print the whole configuration and stop
"""
_SWITCH: dict[str, Any] = {"action": "store_true"}
_FLAGS: tuple[tuple[tuple[str, ...], dict[str, Any], str], ...] = (
    (("-n", "--name"), {"metavar": "NAME"}, "a name for the run"),
    (("-c", "--comment"), {"metavar": "TEXT"}, "a remark on the run"),
    (("-i", "--id"), {"metavar": "ID"}, "id for the run; otherwise the store's next one"),
    (
        ("-m", "--mongodb", "--mongo_db"),
        {"metavar": "URL"},
        "keep the run in MongoDB: URL, host:port[:database] or a JSON file with url, db_name; otherwise "
        "tracking.url or the environment variable INCASEM_TRACKING_URL",
    ),
    (
        ("-F", "--file_storage"),
        {"metavar": "DIR"},
        "keep the run as files below this folder; without any store named, below the runs directory",
    ),
    (
        ("--offline",),
        _SWITCH,
        "the database cannot be reached: keep the run on disk until 'incasem-like runs sync' uploads it",
    ),
    (("-u", "--unobserved"), _SWITCH, "keep no record of the run"),
    (
        ("--slack",),
        {"metavar": "FILE", "nargs": "?", "const": DEFAULT_SLACK_FILE},
        f"notify Slack when the run ends; FILE is JSON or YAML with webhook_url, {DEFAULT_SLACK_FILE} if not named",
    ),
    (
        ("--observer",),
        {"metavar": "FILE", "action": "append"},
        "add another of Sacred's observers; FILE is JSON or YAML with 'observer', the name of its "
        "class, and its settings; may be given several times",
    ),
    (("-p", "--print_config", "--print-config"), _SWITCH, "print the whole configuration before running"),
    (("-l", "--loglevel"), {"metavar": "LEVEL"}, f"how much is reported: {', '.join(LEVELS)} or a number"),
    (("-d", "--debug"), _SWITCH, "show the traceback of an error"),
)
_OTHER_OBSERVERS = "describe that observer in a file and give it with --observer FILE"
_NOT_NEEDED = {
    ("-C", "--capture"): "output is always captured, without that of child processes: leave it out",
    ("-b", "--beat_interval", "--beat-interval"): "the record is updated every ten seconds: leave it out",
    ("-f", "--force"): "a key that no configuration knows would have no effect: correct the key and leave the flag out",
    ("-D", "--pdb"): "start python -m pdb with the script and --debug instead",
    ("-e", "--enforce_clean", "--enforce-clean"): "commit, stash or see 'git status' before the run; each run records "
    "its commit and whether files differed, and --check_commit compares with those of a tracked run",
    ("-P", "--priority"): "nothing is queued here: leave it out",
    ("-q", "--queue"): "nothing is queued here: start the run when it is to run",
    ("-s", "--sql"): _OTHER_OBSERVERS,
    ("-t", "--tiny_db", "--tiny-db"): _OTHER_OBSERVERS,
    ("-S", "--s3"): _OTHER_OBSERVERS,
}


def add_run_flags(parser: argparse.ArgumentParser, example: str) -> None:
    """Add the flags of every tracked script, except where the script has its own of that name.

    Args:
        parser: Parser with the script's own flags.
        example: Arguments of the example that ``--help`` shows.
    """
    parser.usage = "%(prog)s [flags] [print_config] with CONFIG.yaml [key=value ...]"
    parser.epilog = f"{_HOW_TO}\nexample:\n  %(prog)s {example}\n"
    parser.formatter_class = _HelpFormatter
    group = parser.add_argument_group("the run and its record")
    for names, options, meaning in _FLAGS:
        owner = next((action for name in names if (action := parser._option_string_actions.get(name))), None)
        free = [name for name in names if name not in parser._option_string_actions]
        if owner is None:
            group.add_argument(*free, help=meaning, **options)
        elif free:
            same = f"same as {owner.option_strings[0]}"
            group.add_argument(*free, dest=owner.dest, default=argparse.SUPPRESS, help=same, **options)


def about_sacred_flag(name: str) -> str | None:
    """Return the advice for a flag of Sacred that these scripts do not support; None for any other flag."""
    return next((advice for names, advice in _NOT_NEEDED.items() if name in names), None)


class _HelpFormatter(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults and keeps the lines of the explanation as they are."""
