"""Lineage: which data and runs a run came from, and which runs and data came from it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from incasem_like.tracking.kinds import RUN_KINDS, singular
from incasem_like.tracking.model.summaries import RunSummary, named_runs, origins

DATA = "data"
MISSING = "MISSING"
_CONTAINER = re.compile(r"^(.*?\.(?:zarr|n5))(?:/(.*))?$", re.IGNORECASE)
_KINDS_BY_TOOL = {tool: kind.name for kind in RUN_KINDS for tool in kind.tools}
# Predictions lie in a group that names both runs, even those that did not get to say where they wrote.
_PREDICTED = re.compile(r"^(.*/predictions/(?:train|ensemble)_[\d_]+/predict_(\d+))(?:/|$)")
_RESUMED = "resumed"
_SHOWN_OF_HASHES = 8


@dataclass(frozen=True)
class Node:
    """A run, a container of data, or one dataset.

    Attributes:
        key: ``trainings/13``, or ``data:`` and the path.
        kind: Kind of run, or ``data``.
        lines: What is worth saying in brief: name, status and day.
        details: What else there is to say, a line each: where it wrote, how datasets were made.
        status: Of a run, else empty; ``MISSING`` where the store does not hold it.
    """

    key: str
    kind: str
    title: str
    lines: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    status: str = ""


@dataclass(frozen=True)
class Link:
    """That ``target`` came from ``source``; ``label`` says by what: datasets, a checkpoint, a tool."""

    source: str
    target: str
    label: str = ""


@dataclass(frozen=True)
class Lineage:
    """Nodes by their keys, and the links between them."""

    nodes: Mapping[str, Node]
    links: Sequence[Link]
    _into: dict[str, list[Link]] = field(default_factory=lambda: defaultdict(list), repr=False, compare=False)
    _out_of: dict[str, list[Link]] = field(default_factory=lambda: defaultdict(list), repr=False, compare=False)

    def __post_init__(self) -> None:
        for link in self.links:
            self._into[link.target].append(link)
            self._out_of[link.source].append(link)

    def sources(self, key: str) -> Sequence[Link]:
        """Links to what a node came from."""
        return self._into.get(key, ())

    def targets(self, key: str) -> Sequence[Link]:
        """Links to what came of a node."""
        return self._out_of.get(key, ())

    def around(self, key: str) -> Lineage:
        """The part that matters to one node: all it came from and all that came of it."""
        import networkx

        graph = networkx.DiGraph([(link.source, link.target) for link in self.links])
        graph.add_node(key)
        kept = {key} | networkx.ancestors(graph, key) | networkx.descendants(graph, key)
        nodes = {name: node for name, node in self.nodes.items() if name in kept}
        return Lineage(nodes, [link for link in self.links if link.source in kept and link.target in kept])


@dataclass(frozen=True)
class Making:
    """How a dataset was made, as it says itself.

    Attributes:
        tool: The script or function.
        run: Key of the tracked run that made it, or None.
        sources: Addresses of the datasets it was made from.
    """

    tool: str
    run: str | None = None
    sources: tuple[str, ...] = ()

    def describe(self, address: str) -> str:
        """Describe the dataset at an address: ``raw_equalized_0.02: equalize_histogram from raw``."""
        container = split_address(address)[0]
        names = [source.removeprefix(f"{container}/").removeprefix("volumes/") for source in self.sources]
        return f"{dataset_name(address)}: {self.tool}{' from ' if names else ''}{', '.join(names)}"


def run_key(kind: str, run_id: int) -> str:
    """The key of a run's node."""
    return f"{kind}/{run_id}"


def data_key(address: str) -> str:
    """The key of the node of a container or dataset."""
    return f"{DATA}:{address.rstrip('/')}"


def split_address(address: str) -> tuple[str, str]:
    """Split a dataset's address into its container (up to ``.zarr`` or ``.n5``) and the path inside it."""
    found = _CONTAINER.match(address.rstrip("/"))
    return (found[1], found[2] or "") if found else (address.rstrip("/"), "")


def dataset_name(address: str) -> str:
    """Name a dataset in its container, without the usual ``volumes/``."""
    return split_address(address)[1].removeprefix("volumes/") or address.rpartition("/")[2]


def making_of(provenance: Mapping[str, Any] | None) -> Making | None:
    """Read the provenance that a dataset carries; None where it says nothing."""
    if not provenance or not provenance.get("tool"):
        return None
    tool, run_id = str(provenance["tool"]), provenance.get("run_id")
    kind = _KINDS_BY_TOOL.get(tool)
    made_by = run_key(kind, run_id) if kind and isinstance(run_id, int) and run_id > 0 else None
    entries = [entry for entry in provenance.get("inputs") or () if isinstance(entry, Mapping)]
    return Making(tool, made_by, tuple(str(entry["address"]) for entry in entries if entry.get("address")))


def input_hashes(run: RunSummary) -> dict[str, str]:
    """The datasets that a run read: content hash by address, empty where none is on record."""
    found: dict[str, str] = {}
    for entry in run.inputs:
        hashes = entry.get("content_hashes")
        if isinstance(hashes, Mapping) and hashes:
            found |= {str(address): str(content_hash or "") for address, content_hash in hashes.items()}
        elif place := entry.get("address") or entry.get("file"):
            found[str(place)] = str(entry.get("content_hash") or "")
    return found


def gather(
    summaries: Iterable[RunSummary], makings: Mapping[str, Making] | None = None, apart: Collection[str] = ()
) -> Lineage:
    """Build the lineage of runs.

    A run links to the runs it names as parents, to the run whose output it reads, and to the other data it reads: to
    their container, or to a dataset of its own that was made from what a run wrote, or is to stand ``apart``, with what
    was made from it. ``makings`` are what datasets on disk say of their making, by address.
    """
    return _Gathering(summaries, makings or {}, apart).lineage()


def written_by(address: str, summaries: Iterable[RunSummary], made: Making | None = None) -> str | None:
    """The key of the run that wrote a dataset; None where nothing tells.

    What runs noted goes before what the dataset says of its making, for a run may have got another id since: one that
    was begun offline, or copied.
    """
    written = _Outputs(summaries)
    if found := written.noted(address):
        return found[0]
    if made is not None and made.run is not None:
        return made.run
    return found[0] if (found := written.find(address)) else None


class _Outputs:
    """Which run wrote what."""

    def __init__(self, summaries: Iterable[RunSummary]) -> None:
        self._runs = {place: run_key(run.kind, run.id) for run in summaries for place in outputs(run)}

    def noted(self, address: str) -> tuple[str, str] | None:
        """The run that says it wrote a dataset, and the dataset's name in what it wrote."""
        place = PurePosixPath(address)
        for candidate in (place, *place.parents):
            if key := self._runs.get(str(candidate)):
                return key, place.relative_to(candidate).as_posix() if candidate != place else place.name
        return None

    def find(self, address: str) -> tuple[str, str] | None:
        """As ``noted``; where no run says so, as the name of a prediction's group tells."""
        if found := self.noted(address):
            return found
        predicted = _PREDICTED.match(address)
        if predicted is None:
            return None
        return run_key("predictions", int(predicted[2])), address.removeprefix(predicted[1]).strip("/")


class _Gathering:
    """Links and nodes in the making."""

    def __init__(self, summaries: Iterable[RunSummary], makings: Mapping[str, Making], apart: Collection[str]) -> None:
        self.runs = {run_key(run.kind, run.id): run for run in summaries}
        self.read = {key: input_hashes(run) for key, run in self.runs.items()}
        self.outputs, self.makings, self.apart = _Outputs(self.runs.values()), makings, apart
        self.labels: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
        self.details: dict[str, dict[str, None]] = defaultdict(dict)

    def lineage(self) -> Lineage:
        versions: dict[str, set[str]] = defaultdict(set)
        for hashes in self.read.values():
            for address, content_hash in hashes.items():
                versions[address].add(content_hash)
        for key, run in self.runs.items():
            for source, label in self._parents(run):
                self.labels[source, key][label] = None
            for address, content_hash in self.read[key].items():
                version = f" @{content_hash[:_SHOWN_OF_HASHES]}" if len(versions[address]) > 1 else ""
                source, name = self._source(address)
                if source != key:
                    self.labels[source, key][(name + version).strip()] = None
        asked = [self._source(address)[0] for address in self.apart]
        nodes = {}
        for key, run in self.runs.items():
            day = run.start_time.astimezone().strftime("%Y-%m-%d") if run.start_time else ""
            brief = tuple(filter(None, (run.name, f"{run.status} {day}".strip())))
            written = tuple(f"wrote {place}" for place in outputs(run))
            nodes[key] = Node(key, run.kind, f"{singular(run.kind)} {run.id}", brief, written, run.status)
        for key in dict.fromkeys([*(source for source, _ in self.labels), *self.details, *asked]):
            kind, _, place = key.partition(":")
            if key in nodes:
                continue
            if kind == DATA:
                container, dataset = split_address(place)
                name = PurePosixPath(container).name or container
                title = f"{name}/{dataset}" if dataset else name
                nodes[key] = Node(key, DATA, title, (str(PurePosixPath(container).parent),))
            else:  # a run that this store does not hold
                kind, _, run_id = key.partition("/")
                nodes[key] = Node(key, kind, f"{singular(kind)} {run_id}", ("not in this store",), status=MISSING)
        for key, lines in self.details.items():
            nodes[key] = replace(nodes[key], details=(*nodes[key].details, *lines))
        links = [Link(*ends, ", ".join(filter(None, words))) for ends, words in self.labels.items()]
        return Lineage(nodes, links)

    def _source(self, address: str) -> tuple[str, str]:
        """Find the node that a dataset belongs to, with its links, and the dataset's name in it."""
        if found := self.outputs.find(address):
            return found
        made = self.makings.get(address)
        if made is not None and made.run is not None:
            return made.run, dataset_name(address)
        if not self._stands_apart(address, ()):
            key = data_key(split_address(address)[0])
            self.details[key] |= dict.fromkeys(self._steps(address, ()))
            return key, dataset_name(address)
        key = data_key(address)
        if key not in self.details:
            self.details[key] = {made.describe(address): None} if made else {}
            for source in made.sources if made else ():
                self.labels[self._source(source)[0], key][made.tool if made else ""] = None
        return key, ""

    def _stands_apart(self, address: str, seen: tuple[str, ...]) -> bool:
        """Whether a dataset gets a node of its own: it, or one it was made from, is to, or was written by a run.

        Containers hold what runs wrote beside what they read; one node for both would be its own ancestor.
        """
        if address in self.apart or self.outputs.find(address):
            return True
        made = self.makings.get(address)
        if made is None or address in seen:
            return False
        return made.run is not None or any(self._stands_apart(one, (*seen, address)) for one in made.sources)

    def _steps(self, address: str, seen: tuple[str, ...]) -> Iterator[str]:
        made = self.makings.get(address)
        if made is not None and address not in seen:
            yield made.describe(address)
            for source in made.sources:
                yield from self._steps(source, (*seen, address))

    def _parents(self, run: RunSummary) -> Iterable[tuple[str, str]]:
        parent = run.parent if isinstance(run.parent, Mapping) else {}
        for kind, run_id in run.parents:
            if kind == run.kind == "predictions":
                yield run_key(kind, run_id), _RESUMED
                continue
            labels = []
            for origin in [one for one in origins(parent) if (kind, run_id) in named_runs(one)] or [parent]:
                sha256, iteration = str(origin.get("sha256") or "")[:_SHOWN_OF_HASHES], origin.get("iteration")
                checkpoint = "" if iteration is None else f"checkpoint {iteration}"
                words = (str(origin.get("role") or ""), checkpoint, f"sha256 {sha256}" if sha256 else "")
                labels.append(", ".join(filter(None, words)))
            yield run_key(kind, run_id), " and ".join(filter(None, labels))
        resumed = run.result.get("prediction_id") if isinstance(run.result, Mapping) else None
        # what a run that noted no parent of this kind says by its result
        if run.kind == "predictions" and isinstance(resumed, int) and resumed != run.id:
            before = self.runs.get(run_key(run.kind, resumed))
            theirs, mine = set(outputs(before)) if before is not None else set(), set(outputs(run))
            # else it is the id that the run itself had before it was delivered or copied
            if not theirs or not mine or theirs & mine:
                yield run_key(run.kind, resumed), _RESUMED


def outputs(run: RunSummary) -> list[str]:
    """Where a run wrote: the group of a prediction, the dataset of a segmentation."""
    result = run.result if isinstance(run.result, Mapping) else {}
    written = result.get("outputs")
    places = [str(PurePosixPath(str(place)).parent) for place in written.values()] if isinstance(written, dict) else []
    return [*places, str(result["address"])] if result.get("address") else places
