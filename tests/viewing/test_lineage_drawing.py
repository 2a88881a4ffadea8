"""The drawing of a lineage: well-formed, everything in it, boxes apart, lines to the right and around the boxes."""

from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest

from incasem_like.tracking.lineage import Lineage, Link, Node
from incasem_like.viewing.lineage_drawing import lineage_svg, with_shared_labels
from incasem_like.viewing.lineage_layout import Layout, lay_out

SVG = "{http://www.w3.org/2000/svg}"


def lineage(*links: tuple[str, str]) -> Lineage:
    keys = dict.fromkeys(key for link in links for key in link)
    nodes = {key: Node(key, "trainings", key, (f"name of {key}", "COMPLETED")) for key in keys}
    return Lineage(nodes, [Link(source, target, f"{source} to {target}") for source, target in links])


CASES = {
    "chain": lineage(("a", "b"), ("b", "c")),
    "fan": lineage(*(("a", f"b{n}") for n in range(6)), *((f"b{n}", "c") for n in range(6))),
    "long links": lineage(("a", "b"), ("b", "c"), ("c", "d"), ("a", "d"), ("a", "c"), ("e", "d"), ("b", "d")),
    "apart": lineage(("a", "b"), ("c", "d")),
}


def laid_out(case: str) -> Layout:
    return lay_out(CASES[case], dict.fromkeys(CASES[case].nodes, (100.0, 50.0)))


@pytest.mark.parametrize("case", CASES)
def test_boxes_do_not_overlap_and_lie_inside(case: str) -> None:
    layout = laid_out(case)
    for one, other in combinations(layout.boxes.values(), 2):
        assert (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        )
    for box in layout.boxes.values():
        assert 0 <= box.x <= layout.width - box.width
        assert 0 <= box.y <= layout.height - box.height


@pytest.mark.parametrize("case", CASES)
def test_links_lead_to_the_right_through_lanes_of_their_own(case: str) -> None:
    layout = laid_out(case)
    assert len(layout.routes) == len(CASES[case].links)
    for link, route in layout.routes:
        assert (route[0], route[-1]) == (layout.boxes[link.source], layout.boxes[link.target])
        assert all(left.x + left.width < right.x for left, right in pairwise(route))
        for lane in route[1:-1]:
            for box in layout.boxes.values():
                beside = box.x + box.width <= lane.x or lane.x + lane.width <= box.x
                assert beside or not box.y <= lane.middle <= box.y + box.height


def test_a_single_node_is_drawn() -> None:
    alone = Lineage({"a": Node("a", "data", "cell.zarr")}, [])
    assert "cell.zarr" in lineage_svg(alone, "a")


def test_a_circle_does_not_go_on_for_ever() -> None:
    assert lineage_svg(lineage(("a", "b"), ("b", "a")), "a").endswith("</svg>\n")


def test_all_is_in_the_svg_and_nothing_breaks_it() -> None:
    odd = "<b> & 'quotes' \" ä" + "x" * 80
    nodes = {
        "trainings/1": Node(
            "trainings/1", "trainings", "training 1", (odd, "FAILED 2026-01-01"), ("wrote /x",), "FAILED"
        ),
        "data:/c": Node("data:/c", "data", "c.zarr", ("/data",)),
    }
    drawn = ElementTree.fromstring(
        lineage_svg(Lineage(nodes, [Link("data:/c", "trainings/1", "raw, labels/er")]), "data:/c")
    )
    texts = ["".join(element.itertext()) for element in drawn.iter(f"{SVG}text")]
    assert {"training 1", "c.zarr", "FAILED 2026-01-01", "/data"} <= set(texts)
    assert any(text.endswith("…") and text.startswith("<b> & ") for text in texts)
    assert {"raw", "labels/er"} <= set(texts)
    titles = [element.text or "" for element in drawn.iter(f"{SVG}title")]
    assert any(odd in title and "wrote /x" in title for title in titles)
    assert len(list(drawn.iter(f"{SVG}path"))) == 2  # the link and the tip of its arrow


def test_what_all_readers_of_data_read_stands_in_its_box_and_else_at_the_links() -> None:
    data = Node("data:/c", "data", "c.zarr")
    readers = [Node(f"trainings/{number}", "trainings", f"training {number}") for number in (1, 2)]
    nodes = {node.key: node for node in (data, *readers)}

    def labels(*words: str) -> tuple[list[str], tuple[str, ...]]:
        links = [Link(data.key, reader.key, label) for reader, label in zip(readers, words, strict=True)]
        drawn = ElementTree.fromstring(lineage_svg(Lineage(nodes, links), data.key))
        shared = with_shared_labels(Lineage(nodes, links)).nodes[data.key].lines
        return [tspan.text or "" for tspan in drawn.iter(f"{SVG}tspan")], shared

    assert labels("raw, er", "raw, er") == ([], ("raw", "er"))
    assert labels("raw", "er") == (["raw", "er"], ())
    assert labels("a, b, c, d", "a, b, c, d") == ([], ("a", "b", "and 2 more"))
