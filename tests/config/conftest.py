"""A small data folder with containers that exist, and a data configuration to vary."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ENTRY: dict[str, Any] = {
    "file": "cell_1/cell_1.zarr",
    "offset": [150, 120, 1295],
    "shape": [600, 590, 1350],
    "voxel_size": [5, 5, 5],
    "raw": "volumes/raw",
    "labels": {"volumes/labels/er": 1},
}


@pytest.fixture
def entry() -> dict[str, Any]:
    return copy.deepcopy(ENTRY)


@pytest.fixture
def data_directory(tmp_path: Path) -> Path:
    for cell in ("cell_1", "cell_2"):
        (tmp_path / "data" / cell / f"{cell}.zarr").mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[[object], Path]:
    """Write entries, or text as it is, to a data configuration."""

    def write(document: object) -> Path:
        path = tmp_path / "my_data.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def _no_directories_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INCASEM_RUNS", raising=False)
    monkeypatch.delenv("INCASEM_DATA", raising=False)
