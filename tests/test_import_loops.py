"""No module imports itself by way of others; imports in functions and for type checking count too."""

from graphlib import TopologicalSorter

import grimp


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("incasem_like", cache_dir=None)
    assert len(graph.modules) > 100
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()
