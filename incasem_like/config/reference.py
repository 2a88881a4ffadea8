"""The reference page ``docs/configuration.md``, generated from the typed models.

``python -m incasem_like.config.reference`` writes it, with ``--check`` it reports whether the page is stale.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from incasem_like.config.checking import expected, fields_of, section_of
from incasem_like.config.data_config import EntryFields
from incasem_like.config.kinds import DefaultWords
from incasem_like.config.prediction_config import PredictionConfig
from incasem_like.config.series_config import SeriesSection
from incasem_like.config.training_config import TrainingConfig
from incasem_like.errors import ConfigError
from incasem_like.terminal import report_written, run_script, script_parser

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

<!-- Made by `make docs` from the typed models in incasem_like/config; change the models, not this page. -->

A training is described by [`config_training.yaml`](../scripts/02_train/config_training.yaml) and one or two data
configurations (JSON), a prediction by [`config_prediction.yaml`](../scripts/03_predict/config_prediction.yaml) and one
data configuration. Everything is checked before any work starts; an unknown key, a wrong type or values that contradict
each other are said in one sentence.

**Values** are taken in this order, later ones win: the defaults below, the YAML files after `with` in the order they
are named, the `key=value` arguments:

    python train.py with config_training.yaml my_changes.yaml training.data=my_data.json training.optimizer.lr=1e-4

A YAML file needs only the keys that differ. On the command line a key has its sections before it, with dots between,
and the value is written as in YAML: `data.voxel_size=[50,4.6,4.6]`, `training.augmentation.elastic=null`. Quote what
the shell would take apart: `'loss.weight=[1.0, 2.0]'`.

**Paths** in a YAML file are relative to that file; on the command line to the current folder, then to the script's own.
`~`, `$NAME`, `${NAME}` and `${NAME:-otherwise}` are replaced. `INCASEM_RUNS` and `INCASEM_DATA` move the default
folders.

**Order of axes** is z, y, x everywhere.
"""

DATA_INTRODUCTION = """\
## Data configuration (JSON)

One object for each region, under a name of its own that becomes a folder name too. The order counts: metrics of the
first entry end in `_ds_0`. The form is incasem's:

```json
{
    "cell_1_er": {
        "file": "cell_1/cell_1.zarr",
        "offset": [150, 120, 1295],
        "shape": [600, 590, 1350],
        "voxel_size": [5, 5, 5],
        "raw": "volumes/raw_equalized_0.02",
        "labels": {
            "volumes/labels/er": 1
        },
        "mask": "volumes/mask",
        "metric_masks": [
            "volumes/metric_masks/er"
        ]
    }
}
```

Class ids run from 1 to n, each once; background is 0. With labels, n is `data.num_classes` - 1. Where datasets of
two classes overlap, the voxel counts as background.
"""


SERIES_INTRODUCTION = """\
All that [`config_prediction.yaml`](../scripts/03_predict/config_prediction.yaml) has, but for `prediction.checkpoint`,
and one section more.
"""


def reference_page() -> str:
    """Return the whole page as Markdown."""
    parts = [INTRODUCTION]
    for name, model in (("config_training.yaml", TrainingConfig), ("config_prediction.yaml", PredictionConfig)):
        parts += [f"## {name}\n", *_sections(model, "")]
    parts += ["## config_prediction_multiple.yaml\n", SERIES_INTRODUCTION, *_sections(SeriesSection, "series")]
    parts += [DATA_INTRODUCTION, _table(EntryFields)]
    return "\n".join(parts)


def _sections(model: type[BaseModel], path: str) -> Iterator[str]:
    if any(section_of(field.annotation) is None for field in fields_of(model).values()):
        yield f"### {path or 'Top level'}\n"
        if path:
            yield f"{(model.__doc__ or '').strip()}\n"
        yield _table(model)
    for key, field in fields_of(model).items():
        section = section_of(field.annotation)
        if section is not None:
            yield from _sections(section, f"{path}.{key}" if path else key)


def _table(model: type[BaseModel]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in fields_of(model).items():
        if section_of(field.annotation) is None:
            cells = (f"`{key}`", _type(field), _default(field), field.description or "")
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _type(field: FieldInfo) -> str:
    words = expected(field.annotation, field.metadata)
    for article in ("a ", "the "):
        words = words.removeprefix(article)
    return words


def _default(field: FieldInfo) -> str:
    words = [item.text for item in field.metadata if isinstance(item, DefaultWords)]
    if words:
        return words[0]
    if field.is_required():
        return "(required)"
    value = field.get_default(call_default_factory=True)
    return "none" if value in ({}, ()) else f"`{_as_yaml(value)}`"


def _as_yaml(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    return f"{value:.10g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def main(arguments: argparse.Namespace) -> int:
    """Write, print or check the page."""
    page = reference_page()
    if arguments.print:
        print(page, end="")
        return 0
    if not PAGE.parent.is_dir():
        raise ConfigError(f"There is no folder {PAGE.parent} to write the page to: use --print.")
    if arguments.check:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
            print(f"{PAGE} is stale: run 'python -m incasem_like.config.reference' and commit it.")
            return 1
        print(f"{PAGE} is up to date.")
        return 0
    PAGE.write_text(page, encoding="utf-8")
    report_written("the configuration reference", str(PAGE))
    return 0


if __name__ == "__main__":
    parser = script_parser("Write docs/configuration.md from the typed configuration models.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    choice.add_argument("--print", action="store_true", help="print the page instead of writing it")
    run_script(main, parser)
