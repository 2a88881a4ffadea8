"""Settings of the documentation site: ``make site`` builds it with Sphinx from the Markdown pages beside this file."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
sys.path.insert(0, str(REPOSITORY))

import incasem_like  # noqa: E402
from incasem_like.commands.cli import NAME, cli  # noqa: E402
from incasem_like.formatting.commands import COMMANDS  # noqa: E402

project = html_title = "incasem-like"
release = version = incasem_like.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

# Every heading is a target, as on a repository's web page, so that links such as runs.md#list work in both.
myst_heading_anchors = 5
myst_enable_extensions = ["deflist"]
# A heading may skip a level; attributes named as a built-in type are found twice.
suppress_warnings = ["myst.header", "ref.python"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"  # its fonts and scripts are in the theme, none is fetched
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

# Pages of the site for files outside this folder.
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "benchmarks/README.md": "benchmarks.md"}
SUBCOMMANDS = {"10_derive_volume.py": list(COMMANDS)}
HELP_PLACE = "<!-- help of all commands -->"
STAGES = {
    "01_data_formatting": "Data",
    "02_train": "Training",
    "03_predict": "Prediction",
    "04_postprocessing": "Segmentation and evaluation",
    "05_bootstrapping": "Bootstrapping",
    "05_visualization": "Visualisation",
}


def setup(app: Sphinx) -> None:
    """Connect the changes of the pages' text."""
    os.environ["COLUMNS"] = "88"  # width of the help of scripts
    app.connect("source-read", adapt_page)


def adapt_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Point links outside this folder to pages of the site, and insert the help of all commands into its page."""
    source[0] = re.sub(r"\[([^]]+)\]\(\.\./([^)#]+)\)", _outside_link, source[0])
    if HELP_PLACE in source[0]:
        source[0] = source[0].replace(HELP_PLACE, "\n".join([*scripts_help(), *console_help()]))


def _outside_link(link: re.Match[str]) -> str:
    text, target = link.groups()
    if target in PAGES:
        return f"[{text}]({PAGES[target]})"
    return text if (REPOSITORY / target).is_dir() else link[0]  # a folder cannot be shown


def scripts_help() -> Iterator[str]:
    """Yield the lines of the page on commands about the scripts, from their ``--help``."""
    calls = [
        (script, operation)
        for stage in STAGES
        for script in sorted((REPOSITORY / "scripts" / stage).glob("*.py"))
        for operation in ("", *SUBCOMMANDS.get(script.name, ()))
    ]
    stage = ""
    for script, operation in calls:
        if script.parent.name != stage:
            stage = script.parent.name
            yield f"\n## {STAGES[stage]}: scripts/{stage}\n"
        yield f"\n### {script.name} {operation}".rstrip()
        yield f"\n\n```text\n{script_help(script, operation)}\n```\n"


def script_help(script: Path, *words: str) -> str:
    """Return what a script prints for ``--help``; within this process, since fifty interpreters would take a minute."""
    typed, printed = sys.argv, io.StringIO()
    sys.argv = [script.name, *filter(None, words), "--help"]
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    sys.argv = typed
    return printed.getvalue().rstrip()


def console_help() -> Iterator[str]:
    """Yield the lines of the page on commands about ``incasem-like``, from its commands."""
    root = click.Context(cli, info_name=NAME, max_content_width=88, terminal_width=88)
    yield f"\n## {NAME}\n\n```text\n{cli.get_help(root)}\n```\n"
    for group_name in cli.list_commands(root):
        group = cli.get_command(root, group_name)
        assert group is not None
        context = click.Context(group, parent=root, info_name=group_name)
        yield f"\n### {NAME} {group_name}\n\n```text\n{group.get_help(context)}\n```\n"
        for name in group.list_commands(context) if isinstance(group, click.Group) else ():
            command = group.get_command(context, name)
            assert command is not None
            answer = command.get_help(click.Context(command, parent=context, info_name=name))
            yield f"\n#### {NAME} {group_name} {name}\n\n```text\n{answer}\n```\n"
