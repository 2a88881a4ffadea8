"""The group ``incasem-like models``: published models, each command imported when it is called."""

from __future__ import annotations

import click

from incasem_like.commands.lazy_group import LazyGroup, Member

_HERE = "incasem_like.commands.models"
COMMANDS = {
    "list": Member(f"{_HERE}.listing", "list_models", "the published models, and which of them are here"),
    "download": Member(f"{_HERE}.download", "download_models", "download checkpoints or the database of trainings"),
    "import": Member(f"{_HERE}.importing", "import_models", "make tracked runs of checkpoints, dumps or mock_db"),
}


@click.group(cls=LazyGroup, members=COMMANDS)
def models() -> None:
    """List, download and import the models that incasem published.

    After 'models download 1841' and 'models import 1841', the scripts take the model by its id:
    predict.py --run_id 1841, train.py --start_from 1841.
    """
