"""Bootstrapping end to end on synthetic neurites: paint, one round, paint where it says, another round."""

import argparse
import csv
import os
from pathlib import Path

from incasem_like.terminal import at_least, run_script, script_parser

HERE = Path(__file__).resolve().parent

parser = script_parser("Bootstrap synthetic neurites from two painted sections, in two rounds.")
add = parser.add_argument
add("--folder", type=Path, default=HERE.parents[1] / "training_runs/demo/bootstrapping", help="output")
add("--iterations", type=at_least(1), help="iterations of each training; otherwise those of round_demo.yaml")
add("--rounds", type=at_least(1), default=2, help="number of rounds")


def main(arguments: argparse.Namespace) -> None:
    """Make the volume, and run the rounds."""
    import numpy as np

    from incasem_like.demo.neurites import make_neurites, paint, write
    from incasem_like.demo.stages import StageRunner
    from incasem_like.tracking import open_store
    from incasem_like.volumes import dataset_exists, open_volume

    os.environ["INCASEM_RUNS"], os.environ["INCASEM_DATA"] = (str(arguments.folder / name) for name in ("runs", "data"))
    container, names = arguments.folder / "data/neurites.zarr", ("raw", "truth", "painted")
    raw, labels = make_neurites((24, 192, 192), 1)
    if not all(dataset_exists(container, name) for name in names):  # so that a second call resumes
        for name, array in zip(names, (raw, labels, paint(labels, [4, 16], 0.5, 1)), strict=True):
            write(container, name, array)
    runner = StageRunner(HERE.parents[1], arguments.folder / "demo.log")
    addresses = [
        f"round.raw={container}/raw",
        f"round.labels=[{container}/painted]",
        f"round.ground_truth={container}/truth",
    ]
    steps = ("sparse_model", "affinities_model", "model")
    shorter = [f"{step}.values.training.iterations={arguments.iterations}" for step in steps if arguments.iterations]
    words = ["with", HERE / "round_demo.yaml", "round.name=neurites", *addresses, *shorter]
    store = open_store(None, kind="bootstrapping", runs_directory=arguments.folder / "runs")
    for number in range(arguments.rounds):
        parent = ["--continue", max(store.ids())] if number else []
        runner.run(f"round {number + 1}", "05_bootstrapping/bootstrap.py", *parent, *words)
        record = store.get(max(store.ids()))
        print(f"Round {record.id}: {record.result}")
        folder = Path(record.result["places"])
        for row in csv.DictReader((folder / "places.csv").open()):  # somebody paints there
            crop = open_volume(folder / "crops.zarr", f"place_{int(row['rank']):02d}/labels", writable=True)
            crop.write(labels[crop.roi.to_slices()].astype(np.uint32))


if __name__ == "__main__":
    run_script(main, parser)
