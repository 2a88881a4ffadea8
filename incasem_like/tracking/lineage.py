"""Lineage: which data and runs a run came from, and what came of it, gathered from all kinds of runs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from incasem_like.tracking.address import singular

if TYPE_CHECKING:
    from incasem_like.tracking.summaries import RunSummary

DATA = "data"
_CONTAINER = re.compile(r"^(.*?\.(?:zarr|n5))(?:/(.*))?$", re.IGNORECASE)
# Predictions lie in a group that names both runs, even those that did not get to say where they wrote.
_PREDICTED = re.compile(r"/predictions/train_\d+/predict_(\d+)(?:/|$)")
_MAKERS = {"predict.py": "predictions", "extract_segmentation_with_threshold": "segmentations"}
_HASH_LENGTH = 8
Provenance = Callable[[str], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Node:
    """A run, or a container of data.

    Attributes:
        key: ``trainings/13``, or ``data:`` and the container's path.
        kind: Kind of run, or ``data``.
        title: ``training 13``, ``cell_6.zarr``.
        lines: What else is worth saying, a line each.
        status: Of a run, else empty; ``MISSING`` where the store does not hold it.
    """

    key: str
    kind: str
    title: str
    lines: tuple[str, ...] = ()
    status: str = ""


@dataclass(frozen=True)
class Link:
    """That ``target`` came from ``source``; ``label`` says by what: datasets, or a checkpoint."""

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
        kept = {key}
        for step in (self._origins_of, self._outcome_of):
            front = [key]
            while front:
                front = [found for one in front for found in step(one) if found not in kept]
                kept.update(front)
        nodes = {name: node for name, node in self.nodes.items() if name in kept}
        return Lineage(nodes, [link for link in self.links if link.source in kept and link.target in kept])

    def _origins_of(self, key: str) -> list[str]:
        return [link.source for link in self.sources(key)]

    def _outcome_of(self, key: str) -> list[str]:
        return [link.target for link in self.targets(key)]


def run_key(kind: str, run_id: int) -> str:
    """The key of a run's node."""
    return f"{kind}/{run_id}"


def data_key(address: str) -> str:
    """The key of the node of the container that a dataset lies in."""
    return f"{DATA}:{split_address(address)[0]}"


def split_address(address: str) -> tuple[str, str]:
    """Split a dataset's address into container and path inside it."""
    found = _CONTAINER.match(address.rstrip("/"))
    return (found[1], found[2] or "") if found else (address.rstrip("/"), "")


def maker(provenance: Mapping[str, Any] | None) -> str | None:
    """The key of the run that made a dataset, from the provenance that the dataset carries; None where none did."""
    run_id = (provenance or {}).get("run_id")
    kind = _MAKERS.get(str((provenance or {}).get("tool")))
    return run_key(kind, run_id) if kind and isinstance(run_id, int) and run_id > 0 else None


def gather(summaries: Iterable[RunSummary]) -> Lineage:
    """Put the lineage of runs together.

    A run links to the runs it names as parents, to the run whose output it reads, and to the containers of the other
    data it reads.

    Args:
        summaries: Of all kinds of runs, with their inputs.
    """
    runs = {run_key(run.kind, run.id): run for run in summaries}
    outputs = {place: key for key, run in runs.items() for place in _outputs(run)}
    read = {key: _inputs(run) for key, run in runs.items()}
    versions = _versions(read.values())
    nodes = {key: _run_node(key, run) for key, run in runs.items()}
    labels: dict[tuple[str, str], list[str]] = {}
    for key, run in runs.items():
        for source, label in _parents(run):
            labels.setdefault((source, key), []).append(label)
        for address, content_hash in read[key].items():
            made_by = _made_by(address, outputs)
            source = made_by if made_by and made_by != key else data_key(address)
            dataset = split_address(address)[1].removeprefix("volumes/") or address
            version = f" @{content_hash[:_HASH_LENGTH]}" if len(versions[address]) > 1 else ""
            labels.setdefault((source, key), []).append(dataset + version)
    for source, _ in labels:
        nodes.setdefault(source, _other_node(source))
    links = [Link(source, target, ", ".join(filter(None, words))) for (source, target), words in labels.items()]
    return Lineage(nodes, links)


def with_origins(lineage: Lineage, provenance: Provenance, addresses: Mapping[str, Sequence[str]]) -> Lineage:
    """Add what datasets on disk say of their making: links to the runs that made them, and the steps between.

    Args:
        lineage: What the runs say.
        provenance: Gives the provenance of the dataset at an address; None where there is none.
        addresses: Datasets to ask, by the key of their container's node.
    """
    nodes, links = dict(lineage.nodes), list(lineage.links)
    for key, datasets in addresses.items():
        lines: list[str] = []
        for address in datasets:
            for made_by, line in _origin(address, provenance, ()):
                lines += [line] if line else []
                if (
                    made_by is not None
                    and made_by != key
                    and all((x.source, x.target) != (made_by, key) for x in links)
                ):
                    links.append(Link(made_by, key, split_address(address)[1].removeprefix("volumes/")))
                    nodes.setdefault(made_by, _other_node(made_by))
        node = nodes.get(key) or _other_node(key)
        nodes[key] = replace(node, lines=tuple(dict.fromkeys([*node.lines, *lines])))
    return Lineage(nodes, links)


def datasets_read(summaries: Iterable[RunSummary]) -> dict[str, list[str]]:
    """The datasets that runs read, by the key of their container's node."""
    found: dict[str, list[str]] = {}
    for run in summaries:
        for address in _inputs(run):
            known = found.setdefault(data_key(address), [])
            if address not in known:
                known.append(address)
    return found


def _origin(address: str, provenance: Provenance, seen: tuple[str, ...]) -> Iterable[tuple[str | None, str]]:
    """Follow a dataset's provenance to its beginnings: the run that made it, and a line on the step."""
    known = provenance(address) if address not in seen else None
    if not known:
        return
    made_by = maker(known)
    sources = [str(entry.get("address")) for entry in known.get("inputs") or () if entry.get("address")]
    tool = str(known.get("tool") or "")
    inside, container = split_address(address)[1], split_address(address)[0]
    names = [s.removeprefix(f"{container}/").removeprefix("volumes/") for s in sources]
    source = f" from {', '.join(names)}" if names else ""
    yield made_by, "" if made_by else f"{inside.removeprefix('volumes/')}: {tool}{source}"
    if made_by is None:
        for one in sources:
            yield from _origin(one, provenance, (*seen, address))


def _inputs(run: RunSummary) -> dict[str, str]:
    """What a run read: content hash by address."""
    found: dict[str, str] = {}
    for entry in run.inputs:
        hashes = entry.get("content_hashes")
        if isinstance(hashes, Mapping) and hashes:
            found |= {str(address): str(content_hash or "") for address, content_hash in hashes.items()}
        elif place := entry.get("address") or entry.get("file"):
            found[str(place)] = str(entry.get("content_hash") or "")
    return found


def _versions(read: Iterable[Mapping[str, str]]) -> dict[str, set[str]]:
    versions: dict[str, set[str]] = defaultdict(set)
    for hashes in read:
        for address, content_hash in hashes.items():
            versions[address].add(content_hash)
    return versions


def _outputs(run: RunSummary) -> list[str]:
    """Where a run wrote: the group of a prediction, the dataset of a segmentation."""
    result = run.result if isinstance(run.result, Mapping) else {}
    outputs = result.get("outputs")
    places = [str(PurePosixPath(str(place)).parent) for place in outputs.values()] if isinstance(outputs, dict) else []
    return [*places, str(result["address"])] if result.get("address") else places


def _made_by(address: str, outputs: Mapping[str, str]) -> str | None:
    place = PurePosixPath(address)
    for candidate in (place, *place.parents):
        if found := outputs.get(str(candidate)):
            return found
    predicted = _PREDICTED.search(address)
    return run_key("predictions", int(predicted[1])) if predicted else None


def _parents(run: RunSummary) -> Iterable[tuple[str, str]]:
    parent = run.parent if isinstance(run.parent, Mapping) else {}
    sha256 = str(parent.get("sha256") or "")[:_HASH_LENGTH]
    iteration = parent.get("iteration")
    checkpoint = "" if iteration is None else f"checkpoint {iteration}"
    label = ", ".join(filter(None, [checkpoint, f"sha256 {sha256}" if sha256 else ""]))
    for kind, run_id in run.parents:
        yield run_key(kind, run_id), label
    resumed = run.result.get("prediction_id") if isinstance(run.result, Mapping) else None
    if run.kind == "predictions" and isinstance(resumed, int) and resumed != run.id:
        yield run_key(run.kind, resumed), "resumed"


def _run_node(key: str, run: RunSummary) -> Node:
    day = run.start_time.astimezone().strftime("%Y-%m-%d") if run.start_time else ""
    written = [f"wrote {place}" for place in _outputs(run)]
    lines = (run.name, " ".join(filter(None, [run.status, day])), *written)
    return Node(key, run.kind, f"{singular(run.kind)} {run.id}", tuple(filter(None, lines)), run.status)


def _other_node(key: str) -> Node:
    """A container of data, or a run that this store does not hold."""
    kind, _, place = key.partition(":")
    if kind == DATA:
        return Node(key, DATA, PurePosixPath(place).name or place, (str(PurePosixPath(place).parent),))
    kind, _, run_id = key.partition("/")
    return Node(key, kind, f"{singular(kind)} {run_id}", ("not in this store",), "MISSING")
