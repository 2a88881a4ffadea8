"""The links between README and the docs lead somewhere; the site shows the help of all commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs.pages import PAGES, REPOSITORY, name_of, scripts, site_settings

LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)#:\s]*)(?:#([^)\s]+))?\)")


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CHANGELOG.md"], ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    faults = []
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            faults.append(f"{target}#{anchor}")
    assert faults == []


def anchors(page: Path) -> set[str]:
    """Return the names that a repository's web page gives to the headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-") for heading in headings}


def test_the_page_on_commands_has_the_help_of_every_script() -> None:
    text = "".join(site_settings().scripts_help())
    answers = dict(re.findall(r"### (.*)\n+```text\n[Uu]sage: (.*)", text))
    assert set(scripts()) <= set(answers)
    assert answers["10_derive_volume.py crop"].startswith("10_derive_volume.py crop [-h]")
