"""The notebooks run from their first cell to their last, with few iterations."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PICTURES = {"bootstrapping": 2, "evaluation": 1, "neurons": 4, "organelles": 3}


def test_each_user_story_has_a_notebook() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(PICTURES)


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_is_stored_with_its_pictures_and_without_errors(name: str) -> None:
    outputs = [one for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4).cells for one in cell.get("outputs", [])]
    assert sum("image/png" in one.get("data", {}) for one in outputs) == PICTURES[name]
    assert not [one for one in outputs if one.output_type == "error"]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PICTURES))
def test_runs_on_small_data(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("execute_notebooks", NOTEBOOKS / "execute.py")
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setenv("INCASEM_NOTEBOOK_ITERATIONS", "12")
    monkeypatch.delenv("INCASEM_TRACKING_URL", raising=False)
    book = script.execute(NOTEBOOKS / f"{name}.ipynb", tmp_path / f"{name}.ipynb", tmp_path / "work")
    outputs = [one for cell in book.cells for one in cell.get("outputs", [])]
    assert sum("image/png" in one.get("data", {}) for one in outputs) == PICTURES[name]
    assert str(tmp_path) not in (tmp_path / f"{name}.ipynb").read_text(encoding="utf-8")
