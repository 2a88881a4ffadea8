"""The graph of a lineage: runs and data, and what came from what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

DATA = "data"
MISSING = "MISSING"


@dataclass(frozen=True)
class Node:
    """A run, a container of data, or one dataset.

    Attributes:
        key: ``trainings/13``, or ``data:`` and the path.
        kind: Kind of run, or ``data``.
        title: ``training 13``, ``cell_6.zarr``.
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
        kept = self._reached(key, lambda one: [link.source for link in self.sources(one)])
        kept |= self._reached(key, lambda one: [link.target for link in self.targets(one)])
        nodes = {name: node for name, node in self.nodes.items() if name in kept}
        return Lineage(nodes, [link for link in self.links if link.source in kept and link.target in kept])

    @staticmethod
    def _reached(key: str, step: Callable[[str], list[str]]) -> set[str]:
        found, front = {key}, [key]
        while front:
            front = [one for key in front for one in step(key) if one not in found]
            found.update(front)
        return found
