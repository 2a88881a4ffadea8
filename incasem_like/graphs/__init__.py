"""Region adjacency graphs: nodes with positions and sizes, edges with scores, in stores that blocks write to."""

from incasem_like.graphs.opening import check_graph_url, open_graph
from incasem_like.graphs.store import GraphStore, Table

__all__ = ["GraphStore", "Table", "check_graph_url", "open_graph"]
