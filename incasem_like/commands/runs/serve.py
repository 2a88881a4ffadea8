"""``runs serve``: a page in the browser to look through runs, filter and compare them."""

from __future__ import annotations

import io
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import click
from PIL import Image

from incasem_like.commands.links import offer_link
from incasem_like.commands.options import Reference, RunReference, StoreChoice, read_kind, store_options
from incasem_like.commands.runs.finding import FILTERS, read_columns
from incasem_like.commands.runs.lineage import find_lineage
from incasem_like.commands.tables import cell, is_number
from incasem_like.errors import InputError
from incasem_like.tracking import RunRecord, RunStore, RunSummary
from incasem_like.tracking.kinds import KINDS, singular
from incasem_like.tracking.queries.fields import STATUSES, parse_condition
from incasem_like.tracking.queries.select import select_runs
from incasem_like.viewing.lineage_drawing import lineage_svg
from incasem_like.viewing.pages import Answer, Content, serving_pages
from incasem_like.viewing.report import Picture, render_page
from incasem_like.viewing.run_report import pictures_of_run, report_of_run, report_of_runs, slices_of_run

Query = Mapping[str, list[str]]
ROWS = 200  # that a page gets at a time
THUMBNAIL = (320, 180)  # pixels, twice of what is shown
BULKY = {"data", "organelle"}  # columns that need the inputs of all runs
MINUTES = 60  # that a browser may keep a picture
SECONDS_CACHED = 10
MEASURED = ("time", "seconds", "bytes")


@click.command("serve")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="TCP port; by default a free one.")
@click.option("--no_browser", "--no-browser", is_flag=True, help="Only print the link.")
@store_options
def serve_runs(port: int, no_browser: bool, stores: StoreChoice) -> None:
    """Browse, filter and compare runs in the browser, with curves and pictures.

    The page reads and changes nothing. Only this machine can open it, and it asks no other for anything.
    """

    stores.open_all()
    gallery = Gallery(stores)
    with serving_pages(gallery.answers(), port, gallery.pictures()) as link:
        offer_link(link, browser=not no_browser)


class CachedStore:
    """A run store whose summaries are read again after some seconds only, for a user who filters and sorts them."""

    def __init__(self, store: RunStore) -> None:
        self.store, self.kind = store, store.kind
        self.cache: dict[Any, tuple[float, list[RunSummary]]] = {}

    def sibling(self, kind: str) -> RunStore:
        """Open the runs of another kind."""
        return self.store.sibling(kind)

    def summaries(
        self, config_keys: Sequence[str] = (), *, inputs: bool = False, metrics: Sequence[str] = ()
    ) -> Sequence[RunSummary]:
        """Summarize all runs; see ``RunStore``."""
        key, now = (tuple(config_keys), inputs, tuple(metrics)), time.monotonic()
        self.cache = {one: entry for one, entry in self.cache.items() if now - entry[0] < SECONDS_CACHED}
        if key not in self.cache:
            found = self.store.summaries(config_keys, inputs=inputs, metrics=metrics)
            self.cache[key] = time.monotonic(), found  # from now: reading them may have taken as long
        return self.cache[key][1]


@dataclass(frozen=True)
class Gallery:
    """Pages on the runs of a store."""

    stores: StoreChoice

    @cached_property
    def by_kind(self) -> dict[str, RunStore]:
        """The stores by kind of run."""
        return {kind: cast("RunStore", CachedStore(store)) for kind, store in self.stores.open_all().items()}

    def answers(self) -> Mapping[str, Answer]:
        """Return what answers requests of pages."""
        return {"": self.start, "list": self.list, "run": self.run, "compare": self.compare}

    def pictures(self) -> Mapping[str, Answer]:
        """Return what answers requests of pictures."""
        return {"thumbnail": self.thumbnail, "slices": self.slices}

    def start(self, rest: str, query: Query) -> Content:
        """Return the page with the list of runs, which asks for the rows itself."""
        store = self.stores.open("trainings").description.removesuffix("incasem_trainings").rstrip("/")
        text = FILTERS.removeprefix("\b\n")
        return page("gallery.html", store=store, kinds=KINDS, states=STATUSES, filters=text)

    def list(self, rest: str, query: Query) -> Content:
        """Return rows of the list of runs as JSON."""
        kind, words, sort = (query.get(name, [""])[0] for name in ("kind", "filter", "sort"))
        offset = int(query.get("offset", ["0"])[0])
        chosen = [self.by_kind[read_kind(kind)]] if kind else list(self.by_kind.values())
        try:
            conditions = [parse_condition(word) for word in shlex.split(words)]
        except ValueError as error:
            raise InputError(f"The filter cannot be read ({error}): close the quotes.") from None
        usual = [name for name in read_columns(None, chosen)[1] if name not in BULKY]
        selection = select_runs(chosen, conditions, optional=usual, sort=[sort] if sort else [])
        known = [selection.fields[name] for name in usual if name in selection.fields]
        fields = [field for field in known if any(field.read(run) not in (None, ()) for run in selection.runs[:ROWS])]
        runs = selection.runs[offset : offset + ROWS]
        columns = [[field.read(run) for run in runs] for field in fields]
        cells = [
            [cell(value, field.quantity) for value in column] for field, column in zip(fields, columns, strict=True)
        ]
        found = {
            "total": selection.total,
            "found": len(selection.runs),
            "columns": [
                {"name": field.name, "number": field.quantity in MEASURED or any(map(is_number, column))}
                for field, column in zip(fields, columns, strict=True)
            ],
            "rows": [
                {"run": f"{run.kind}/{run.id}", "cells": values}
                for run, values in zip(runs, zip(*cells, strict=True), strict=True)
            ],
        }
        return content("application/json", json.dumps(found).encode())

    def run(self, rest: str, query: Query) -> Content:
        """Return the page of one run: ``trainings/12``."""

        record = self.record(rest)
        everything = [run for store in self.by_kind.values() for run in store.summaries(inputs=True)]
        lineage, focus = find_lineage(rest, record.kind, everything, record.store.description)
        report = report_of_run(record, lineage_svg(lineage, focus).encode())
        return page("report.html", report=report, menu=[("", [("All runs", "../../")])])

    def compare(self, rest: str, query: Query) -> Content:
        """Return the page that compares the runs of a query: ``run=trainings/12&run=trainings/13&metric=loss``."""

        names = list(dict.fromkeys(query.get("run", [])))
        if len(names) < 2:
            raise InputError("A comparison takes two runs or more: go back and select another.")
        records = [self.record(name) for name in names]

        def picture(record: RunRecord) -> Picture:
            return Picture("", "", f"slices/{record.kind}/{record.id}")

        report = report_of_runs(records, query.get("metric", []), picture)
        runs = [(f"{singular(record.kind)} {record.id}", f"run/{record.kind}/{record.id}") for record in records]
        here = "compare?" + "&".join(f"run={record.kind}/{record.id}" for record in records)
        metrics = sorted({name for record in records for name in record.metric_summaries})
        curves = [(name, f"{here}&metric={name}") for name in metrics]
        return page("report.html", report=report, menu=[("", [("All runs", "./"), *runs]), ("Curves of", curves)])

    def thumbnail(self, rest: str, query: Query) -> Content:
        """Return the first picture of a run, small; nothing where it has none."""

        found = next(pictures_of_run(self.record(rest)), None)
        if found is None or isinstance(found.image, str):
            return content("image/png", b"", MINUTES)
        small, image = io.BytesIO(), Image.open(io.BytesIO(found.image)).convert("RGB")
        image.thumbnail(THUMBNAIL)
        image.save(small, "PNG")
        return content("image/png", small.getvalue(), MINUTES)

    def slices(self, rest: str, query: Query) -> Content:
        """Return raw, labels and what a run wrote, as a picture; nothing where the volumes are gone."""

        found = slices_of_run(self.record(rest))
        return content("image/png", found.image if found and isinstance(found.image, bytes) else b"", MINUTES)

    def record(self, name: str) -> RunRecord:
        """Return the record of a run, ``trainings/12``.

        Raises:
            InputError: It is not the name of a run.
        """
        reference: Reference = RunReference().convert(name, None, None)
        return reference.get(self.stores, "trainings")


def page(template: str, **values: Any) -> Content:
    """Return an HTML page made of a template of ``viewing``."""

    return content("text/html; charset=utf-8", render_page(template, **values))


def content(kind: str, body: bytes, minutes: float = 0) -> Content:
    """Return an answer of a MIME type, and for how long a browser may keep it."""
    return Content(kind, body, round(60 * minutes))
