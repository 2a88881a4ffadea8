"""``runs lineage``: the origins and results of a run or dataset, as a tree and as SVG."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from incasem_like.commands.options import StoreChoice, kind_option, read_reference, store_options
from incasem_like.commands.tables import at_terminal
from incasem_like.disk import write_whole
from incasem_like.errors import IncasemError, InputError, RunNotFoundError
from incasem_like.terminal import report_written, shown_path
from incasem_like.tracking.kinds import singular
from incasem_like.tracking.lineage import (
    Lineage,
    Link,
    Making,
    Node,
    data_key,
    gather,
    input_hashes,
    making_of,
    outputs,
    run_key,
    split_address,
    written_by,
)
from incasem_like.tracking.model.checkpoints import listed
from incasem_like.tracking.model.summaries import RunSummary
from incasem_like.viewing.lineage_drawing import lineage_svg
from incasem_like.volumes import list_datasets, open_volume, parse_address


@click.command("lineage")
@click.argument("subject", metavar="ID_OR_DATASET")
@click.option("--svg", metavar="FILE.svg", type=click.Path(path_type=Path), help="Draw it too.")
@click.option("--json", "as_json", is_flag=True, help="Print nodes and links as JSON.")
@kind_option
@store_options
def show_lineage(subject: str, svg: Path | None, as_json: bool, kind: str, stores: StoreChoice) -> None:
    """Show the origins and results of a run: data, trainings, fine-tunings, predictions, evaluations.

    ID_OR_DATASET is a run's id, 12, kind and id, predictions/12, or a dataset, cell.zarr/volumes/raw: then the run that
    made it, according to runs or the dataset's own provenance, and those that read it. The provenance of local datasets
    is shown too.
    """
    if svg is not None and svg.suffix.lower() != ".svg":
        raise InputError(f"The drawing is written as SVG: name a file that ends in .svg, not '{svg}'.")
    opened = stores.open_all()
    runs = [run for store in opened.values() for run in store.summaries(inputs=True)]
    where = next(iter(opened.values())).description.removesuffix("/incasem_trainings")
    lineage, focus = find_lineage(subject, kind, runs, where)
    if as_json:
        texts = ("key", "kind", "title", "status", "lines", "details")
        nodes = [{name: getattr(node, name) for name in texts} for node in lineage.nodes.values()]
        for node in nodes:
            node["status"] = node["status"] or None
        links = [{"source": link.source, "target": link.target, "label": link.label} for link in lineage.links]
        print(json.dumps({"focus": focus, "nodes": nodes, "links": links}, indent=2))
    else:
        print("\n".join(tree(lineage, focus, drawn=at_terminal())))
    if svg is not None:
        text, path = lineage_svg(lineage, focus), svg.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: file.write(text.encode()))
        print()
        report_written("the drawing", shown_path(path))


def find_lineage(subject: str, kind: str, runs: Sequence[RunSummary], where: str) -> tuple[Lineage, str]:
    """Find the lineage of a run or dataset.

    Args:
        subject: A run, or the address of a dataset or container.
        kind: Kind of run if only an id is given.
        runs: All runs of all kinds, with their inputs.
        where: The store, for messages.

    Returns:
        The lineage, and the key of the requested node.

    Raises:
        RunNotFoundError: The run does not exist.
        InputError: The dataset does not exist, and no run reads or made it.
    """

    reference = read_reference(subject)
    if reference is not None:
        of = reference.kind or kind
        ids = sorted(run.id for run in runs if run.kind == of)
        if reference.id not in ids:
            there = f"there are {listed(ids)}" if ids else "there are none"
            raise RunNotFoundError(f"There is no {singular(of)} run {reference.id} in {where}: {there}.")
        focus = run_key(of, reference.id)
        return _around(focus, runs, ()), focus
    address = str(parse_address(subject)) if "://" in subject else str(Path(subject).expanduser().absolute())
    provenance = read_provenance(address)
    made_by = written_by(address, runs, making_of(provenance))
    if made_by is not None:
        known = made_by in {run_key(run.kind, run.id) for run in runs}
        return _around(made_by, runs, () if known else (address,)), made_by
    read = {one for run in runs for one in input_hashes(run)}
    known = address in read or any(split_address(one)[0] == address for one in read)
    is_container = bool(_datasets_beside(address)) and address.lower().endswith((".zarr", ".n5"))
    if not known and provenance is None and not is_container:
        raise InputError(
            f"No run in {where} read or made {subject}, and this dataset does not exist: write CONTAINER.zarr/DATASET "
            "or a run's id."
        )
    return _around(data_key(address), runs, (address,)), data_key(address)


def _around(focus: str, runs: Sequence[RunSummary], apart: Sequence[str]) -> Lineage:
    """Collect the lineage of a node, reading the provenance of each dataset in it."""
    by_key = {run_key(run.kind, run.id): run for run in runs}
    read = {key: set(input_hashes(run)) for key, run in by_key.items()}
    everything = set().union(*read.values())
    makings: dict[str, Making] = {}
    asked: set[str] = set()
    wanted = {*apart, *(neighbour for address in apart for neighbour in _datasets_beside(address))}
    while True:
        for address in wanted - asked:
            made = making_of(read_provenance(address))
            makings |= {address: made} if made else {}
        asked |= wanted
        lineage = gather(runs, makings, apart).around(focus)
        near = [by_key[key] for key in lineage.nodes if key in by_key]
        wanted = set().union(*(input_hashes(run) for run in near))
        wanted |= {source for made in makings.values() for source in made.sources}
        # Datasets made from a run's output usually lie beside it, and another run may have read them.
        containers = {split_address(place)[0] for run in near for place in outputs(run)}
        wanted |= {address for address in everything if split_address(address)[0] in containers}
        if wanted <= asked:
            return lineage


def _datasets_beside(address: str) -> list[str]:
    """Return the datasets in the container of a local dataset, which may have been made from it."""

    container = split_address(address)[0]
    if "://" in container or not Path(container).is_dir():
        return []
    return [f"{container}/{name}" if name else container for name in list_datasets(container)]


def tree(lineage: Lineage, focus: str, *, drawn: bool) -> list[str]:
    """Return a lineage as lines: the node, its origins, its results; ``drawn`` adds branches."""
    node = lineage.nodes[focus]
    lines = [_line(node, ""), *(f"  {line}" for line in node.details)]
    for heading, links, end in (
        ("comes from", lineage.sources, lambda link: link.source),
        ("led to", lineage.targets, lambda link: link.target),
    ):
        lines.append(f"{heading}{'' if links(focus) else ': nothing on record'}")
        lines += _Branches(lineage, links, end, drawn).below(focus, "" if drawn else "  ")
    return lines


class _Branches:
    """One direction of a lineage as indented lines; nodes shown before are only named."""

    def __init__(
        self,
        lineage: Lineage,
        links: Callable[[str], Sequence[Link]],
        end: Callable[[Link], str],
        drawn: bool,
    ) -> None:
        self.lineage, self.links, self.end, self.drawn = lineage, links, end, drawn
        self.seen: set[str] = set()

    def below(self, key: str, indent: str) -> Iterator[str]:
        following = self.links(key)
        for number, link in enumerate(following):
            last = number == len(following) - 1
            branch, under = (("└─ ", "   ") if last else ("├─ ", "│  ")) if self.drawn else ("", "  ")
            other = self.end(link)
            node, more = self.lineage.nodes[other], self.links(other)
            if other in self.seen:
                yield f"{indent}{branch}{_line(node, link.label)}{' (see above)' if more or node.details else ''}"
                continue
            self.seen.add(other)
            yield f"{indent}{branch}{_line(node, link.label)}"
            stem = "│  " if self.drawn and more else "   " if self.drawn else "  "
            yield from (f"{indent}{under}{stem}{line}" for line in node.details)
            yield from self.below(other, indent + under)


def _line(node: Node, label: str) -> str:
    said = ", ".join(node.lines)
    return " ".join(filter(None, [node.title, f"[{label}]" if label else "", said]))


def read_provenance(address: str) -> Mapping[str, Any] | None:
    """Return the provenance of a dataset; None if it does not exist, cannot be read, or has none."""

    try:
        provenance = open_volume(address, allow_incomplete=True).provenance
    except (IncasemError, OSError, ValueError):
        return None
    return provenance if isinstance(provenance, Mapping) else None
