"""The settings of the demo: volumes, folders and values of the full and the short form."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOXEL_SIZE = (500.0, 500.0, 500.0)
RAW, EQUALIZED, LABELS, METRIC_MASK = (
    "volumes/raw",
    "volumes/raw_equalized_0.02",
    "volumes/labels/columns",
    "volumes/metric_masks/columns",
)


@dataclass(frozen=True)
class DemoSize:
    """The size of the demo.

    Attributes:
        shape: Voxels of each volume, z, y, x.
        seeds: Seed of the synthetic volume by name; names begin with the volume's role (train, validation, test).
        updates: ``key=value`` for the training beyond ``config_demo.yaml``.
        dice_floor: The demo fails if the dice on the unseen volume is below this.
    """

    shape: tuple[int, int, int]
    seeds: dict[str, int]
    updates: tuple[str, ...]
    dice_floor: float


FULL = DemoSize((128, 128, 128), {"train_1": 1, "train_2": 2, "train_3": 3, "validation": 8, "test": 9}, (), 0.80)
SHORT = DemoSize(
    (96, 96, 96),
    {"train_1": 1, "validation": 8, "test": 9},
    ("training.iterations=20", "validation.validate_every=20", "training.save_every=20"),
    0.0,
)


@dataclass(frozen=True)
class DemoPlaces:
    """The folders that the demo reads from and writes to.

    Attributes:
        repository: Root of the checkout.
        runs: Folder of checkpoints, logs and tracked runs.
        data: Folder of the demo's volumes.
    """

    repository: Path
    runs: Path
    data: Path

    @property
    def work(self) -> Path:
        """The folder of the report, the result and the log."""
        return self.runs / "demo"

    def sections(self, name: str) -> Path:
        """The folder of TIFF sections of a volume."""
        return self.data / "sections" / name

    def container(self, name: str) -> Path:
        """The Zarr container of a volume."""
        return self.data / f"{name}.zarr"

    def data_config(self, role: str) -> Path:
        """The data-config JSON of all volumes of a role."""
        return self.data / f"{role}.json"


def write_data_configs(size: DemoSize, places: DemoPlaces) -> None:
    """Write one data-config JSON per role (train, validation, test), as a user would by hand."""
    roles: dict[str, dict[str, Any]] = {}
    for name in size.seeds:
        roles.setdefault(name.split("_")[0], {})[name] = {
            "file": places.container(name).name,
            "offset": [0, 0, 0],
            "shape": list(size.shape),
            "voxel_size": list(VOXEL_SIZE),
            "raw": EQUALIZED,
            "labels": {LABELS: 1},
            "metric_masks": [METRIC_MASK],
        }
    for role, entries in roles.items():
        places.data_config(role).write_text(json.dumps(entries, indent=4) + "\n", encoding="utf-8")
