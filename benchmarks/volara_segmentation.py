"""The peer of bench_segmentation.py, run in an environment that has volara: ``volara_segmentation.py AFFINITIES.npy``.

Mutex watershed of blocks, edges, mutex watershed of the graph, and the objects written, one after the other in this
process, as volara's tutorial does. Prints a line of JSON; the objects are written beside the affinities.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from funlib.geometry import Coordinate
from funlib.persistence import open_ds, prepare_ds
from volara.blockwise import AffAgglom, ExtractFrags, GraphMWS, Relabel
from volara.datasets import Affs, Labels
from volara.dbs import SQLite
from volara.logging import set_log_basedir
from volara.lut import LUT


def main() -> None:
    source, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    affinities, folder = np.load(source), source.parent
    set_log_basedir(folder / "volara_logs")
    stored = prepare_ds(
        folder / "volara.zarr/affinities", affinities.shape, voxel_size=Coordinate(1, 1, 1), offset=Coordinate(0, 0, 0),
        chunk_shape=(len(affinities), 64, 64, 64), dtype=affinities.dtype, axis_names=["c^", "z", "y", "x"],
        units=["nm", "nm", "nm"], mode="w",
    )  # fmt: skip
    stored[:] = affinities
    offsets = [Coordinate(*offset) for offset in options["offsets"]]
    affs = Affs(store=folder / "volara.zarr/affinities", neighborhood=offsets)
    fragments = Labels(store=folder / "volara.zarr/fragments")
    objects = Labels(store=folder / "volara.zarr/objects")
    graph = SQLite(path=folder / "volara.zarr/graph.sqlite", edge_attrs={"near": "float", "far": "float"})
    table = LUT(path=folder / "volara.zarr/table.npz")
    block = Coordinate(*options["block"])
    bias, near = options["bias"], options["neighbours"]
    tasks = [
        ExtractFrags(
            db=graph, affs_data=affs, frags_data=fragments, block_size=block, context=Coordinate(*options["context"]),
            bias=[bias[0]] * near + [bias[1]] * (len(offsets) - near),
        ),
        AffAgglom(
            db=graph, affs_data=affs, frags_data=fragments, block_size=block, context=Coordinate(1, 1, 1),
            scores={"near": offsets[:near], "far": offsets[near:]},
        ),
        GraphMWS(
            db=graph, lut=table, weights={"near": (1, bias[0]), "far": (1, bias[1])},
            roi=(Coordinate(0, 0, 0), Coordinate(affinities.shape[1:])),
        ),
        Relabel(frags_data=fragments, seg_data=objects, lut=table, block_size=block),
    ]  # fmt: skip
    cpu, begun = time.process_time(), time.perf_counter()
    for task in tasks:
        task.run_blockwise(multiprocessing=False)
    measured = {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu}
    np.save(folder / "volara.npy", open_ds(folder / "volara.zarr/objects")[:])
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
