"""The group ``incasem-like runs``: its commands by name, each imported when it is called."""

from __future__ import annotations

import click

from incasem_like.commands.lazy_group import LazyGroup, Member

_HERE = "incasem_like.commands.runs"
COMMANDS = {
    "list": Member(f"{_HERE}.finding", "list_runs", "list runs: filters, columns, sorting, JSON, CSV"),
    "show": Member(f"{_HERE}.showing", "show_run", "all details of one run"),
    "compare": Member(f"{_HERE}.compare", "compare_runs", "how the configurations and metrics of runs differ"),
    "serve": Member(f"{_HERE}.serve", "serve_runs", "a page to browse, filter and compare runs with pictures"),
    "best": Member(f"{_HERE}.finding", "best_runs", "which run is best by a metric, and its checkpoint"),
    "lineage": Member(f"{_HERE}.lineage", "show_lineage", "origins and results of a run or dataset"),
    "checkpoints": Member(f"{_HERE}.showing", "list_checkpoints", "a run's checkpoints: metrics, location, integrity"),
    "note": Member(f"{_HERE}.changing", "note_run", "write a note on a run"),
    "tag": Member(f"{_HERE}.changing", "tag_run", "add and remove tags: tag 12 +good -draft"),
    "delete": Member(f"{_HERE}.changing", "delete_runs", "delete runs and free their disk space"),
    "reap": Member(f"{_HERE}.mending", "reap_runs", "close the records of runs whose process has ended"),
    "sync": Member(f"{_HERE}.mending", "sync_runs", "upload records that the run store has not received"),
    "export": Member(f"{_HERE}.moving", "export_runs", "write a run with its checkpoints into a folder"),
    "import": Member(f"{_HERE}.moving", "import_runs", "take a run from such a folder into the store"),
    "copy": Member(f"{_HERE}.moving", "copy_runs", "copy runs into another store"),
    "doctor": Member(f"{_HERE}.mending", "examine_stores", "find inconsistencies, and repair them"),
}


@click.group(cls=LazyGroup, members=COMMANDS)
def runs() -> None:
    """Find, compare, keep and move tracked runs.

    Runs are searched in the store that --mongodb or --file_storage names, else in that of the environment variable
    INCASEM_TRACKING_URL, else in the files in training_runs/tracking.
    """
