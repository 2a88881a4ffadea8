"""How much painting is enough: rounds of bootstrapping on ``fib_medulla`` from several budgets of simulated painting.

Sections 0-129 are the volume of the rounds. Whole profiles of neurons are painted as a person would: those under five
disks of 20 pixels on some sections, random ones up to 1 % of all voxels, or single neurons through all sections. Each
round runs with ``study_round.yaml`` through the scripts. Its last network then predicts sections 130-169, which no
round has seen; the most self-consistent of their segmentations is scored. For comparison, the same network is trained
on all labels for as many iterations. A second round starts from the smallest budget, once with what is painted at the
places that the round asks for, once with as many random places. Everything resumes; the table is written as Markdown
and JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml

from incasem_like.bootstrapping.places import TABLE, Place, write_places
from incasem_like.evaluation.instances import Contingency, partition_scores
from incasem_like.tracking import open_store
from incasem_like.volumes import create_volume, dataset_exists, open_volume

HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parent / "scripts"
VOXEL_SIZE = (10, 10, 10)
LAST, END = 130, 170  # sections of the rounds, and of the score
BUDGETS = ("sections_3", "sections_5", "sections_10", "percent_1", "neurons_3", "dense")
FIRST = BUDGETS[0]
Array = np.ndarray[Any, Any]


def paint(labels: Array, budget: str, rng: np.random.Generator) -> Array:
    """Return the painted profiles of a budget, 0 elsewhere."""
    kind, _, number = budget.partition("_")
    painted = np.zeros_like(labels)
    if kind == "sections":
        for z in np.linspace(0, len(labels) - 1, int(number) + 2).round().astype(int)[1:-1]:
            y, x = np.ogrid[: labels.shape[1], : labels.shape[2]]
            centres = rng.integers(0, labels.shape[1:], (5, 2))
            seen = [labels[z][(y - cy) ** 2 + (x - cx) ** 2 < 20**2] for cy, cx in centres]
            ids = np.setdiff1d(np.concatenate(seen), [0])
            painted[z] = np.where(np.isin(labels[z], ids), labels[z], 0)
    elif kind == "percent":
        while np.count_nonzero(painted) < labels.size * int(number) / 100:
            z, y, x = rng.integers(0, labels.shape)
            if labels[z, y, x]:
                painted[z][labels[z] == labels[z, y, x]] = labels[z, y, x]
    else:
        ids, voxels = np.unique(labels[labels > 0], return_counts=True)
        large = ids[np.argsort(-voxels)[: 4 * int(number)]]
        painted = np.where(np.isin(labels, rng.choice(large, int(number), replace=False)), labels, 0)
    return painted


class Study:
    """The volume, and the runs in a folder."""

    def __init__(self, folder: Path, data: Path, iterations: int | None) -> None:
        """Import raw and labels, unless they are there."""
        self.folder, self.container, self.iterations = folder, folder / "data/fib.zarr", iterations
        os.environ["INCASEM_RUNS"], os.environ["INCASEM_DATA"] = str(folder / "runs"), str(folder / "data")
        files = {name: sorted((data / name).iterdir())[:END] for name in ("raw", "labels")}
        arrays = {name: np.stack([tifffile.imread(path) for path in found]) for name, found in files.items()}
        self.raw, self.labels = arrays["raw"], arrays["labels"].astype(np.uint32)
        self.write("raw", self.raw[:LAST])
        self.write("unseen/raw", self.raw[LAST:], begin=LAST)

    def write(self, name: str, array: Array, begin: int = 0) -> str:
        """Write a dataset once, and return its address."""
        if not dataset_exists(self.container, name):
            volume = create_volume(
                self.container, name, shape=array.shape, dtype=array.dtype, voxel_size=VOXEL_SIZE,
                offset=(begin * VOXEL_SIZE[0], 0, 0), chunk_shape=(16, 125, 125), overwrite=True,
            )  # fmt: skip
            volume.write(array)
            volume.mark_complete()
        return f"{self.container}/{name}"

    def store(self, kind: str) -> Any:
        """Return the runs of a kind."""
        return open_store(None, kind=kind, runs_directory=self.folder / "runs")

    def run(self, script: str, *words: Any) -> None:
        """Run a script; its output goes to a log."""
        with (self.folder / "study.log").open("a") as log:
            line = [sys.executable, str(SCRIPTS / script), *map(str, words)]
            print(" ".join(line), file=log, flush=True)
            if subprocess.run(line, stdout=log, stderr=log).returncode:
                sys.exit(f"{script} failed: see {log.name}")

    def once(self, name: str, measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
        """Return what was measured under a name, by an earlier call or now."""
        kept = self.folder / f"{name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(measure(name, *arguments)))
        return dict(json.loads(kept.read_text()))

    def round(self, name: str, seed: int, labels: str, parent: int | None = None) -> dict[str, Any]:
        """Run a round, and return its painted voxels and scores on the unseen sections."""
        affinities = self.folder / "affinities_model.json"
        steps = ("sparse_model", "model") if affinities.exists() else ("sparse_model", "affinities_model", "model")
        words = [f"{one}.values.training.iterations={self.iterations}" for one in steps if self.iterations]
        if affinities.exists():  # it learns from random objects alone: one for all rounds
            words.append(f"affinities_model.run_id={json.loads(affinities.read_text())}")
        begun = time.monotonic()
        self.run(
            "05_bootstrapping/bootstrap.py", *([] if parent is None else ["--continue", parent]), "with",
            HERE / "study_round.yaml", f"round.name={name}", f"round.raw={self.container}/raw",
            f"round.labels=[{labels}]", f"round.seed={seed}", *words,
        )  # fmt: skip
        seconds = time.monotonic() - begun
        record = self.store("bootstrapping").get(max(self.store("bootstrapping").ids()))
        steps_of = {step["name"]: step["result"] for step in record.info["steps"]}
        affinities.write_text(json.dumps(steps_of["affinities_model"]["run_id"]))
        scores = self.score(name, steps_of["model"]["run_id"])
        return {"round": record.id, "voxels": steps_of["painting"]["voxels"], "seconds": seconds, **scores}

    def dense(self, name: str, seed: int) -> dict[str, Any]:
        """Train the last network of a round on all labels, and return its scores on the unseen sections."""
        self.write("labels", self.labels[:LAST])
        entry = {"file": str(self.container), "voxel_size": VOXEL_SIZE, "offset": [0, 0, 0],
                 "shape": [LAST, *self.raw.shape[1:]], "raw": "raw", "labels": {"labels": 1}}  # fmt: skip
        data, config = self.folder / "dense_data.json", self.folder / "dense.yaml"
        data.write_text(json.dumps({"all": entry}))
        step = yaml.safe_load((HERE / "study_round.yaml").read_text())["model"]
        config.write_text(yaml.safe_dump(step["values"]))
        begun = time.monotonic()
        self.run(
            "02_train/train.py", "--name", name, "with", *(HERE / one for one in step["config"]), config,
            f"training.data={data}", "data.voxel_size=[10,10,10]", f"seed={seed}",
            *([f"training.iterations={self.iterations}"] if self.iterations else []),
        )  # fmt: skip
        seconds = time.monotonic() - begun
        scores = self.score(name, max(self.store("trainings").ids()))
        return {"voxels": int(np.count_nonzero(self.labels[:LAST])), "seconds": seconds, **scores}

    def score(self, name: str, training: int) -> dict[str, float]:
        """Predict and segment the unseen sections, and return VOI and NVI of all labelled voxels."""
        entry = {
            "unseen": {"file": str(self.container), "voxel_size": VOXEL_SIZE, "offset": [LAST, 0, 0],
                       "shape": [END - LAST, *self.raw.shape[1:]], "raw": "unseen/raw"}
        }  # fmt: skip
        data = self.folder / "unseen.json"
        data.write_text(json.dumps(entry))
        self.run(
            "03_predict/predict.py", "--run_id", training, "--name", f"unseen_{name}", "with",
            SCRIPTS / "03_predict/config_prediction.yaml", f"prediction.data={data}", "torch.device=cpu",
            "prediction.output_dtype=uint8",
        )  # fmt: skip
        prediction = self.store("predictions").get(max(self.store("predictions").ids()))
        config = self.folder / "segmentation.yaml"
        values = yaml.safe_load((HERE / "study_round.yaml").read_text())["segmentation"]
        config.write_text(yaml.safe_dump({"segmentation": values}))
        self.run("04_postprocessing/10_segment.py", "--run_id", prediction.id, "-d", "affinities", "with", config)
        result = self.store("segmentations").get(max(self.store("segmentations").ids())).result
        made = [one["address"] for one in result["segmentations"]]
        predicted = made[0].rpartition("affinities_watershed")[0] + "affinities"
        self.run("04_postprocessing/18_self_consistency.py", "-p", predicted, "-s", *made)
        best = self.store("evaluations").get(max(self.store("evaluations").ids())).result["best"]
        objects = open_volume(best).read()
        scores = partition_scores(Contingency.of(self.labels[LAST:], objects, self.labels[LAST:] > 0))
        return {key: scores[key] for key in ("voi", "voi_split", "voi_merge", "nvi")}

    def paint_places(self, record: Any, seed: int | None) -> None:
        """Paint everything at a round's places, or, with a seed, at as many random ones instead."""
        folder = Path(record.result["places"])
        rows = list(csv.DictReader((folder / TABLE).open()))
        places = [Place(*(int(row[key]) for key in list(row)[:6]), float(row["error"])) for row in rows]
        if seed is not None:
            rng, size = np.random.default_rng(seed), places[0].height
            starts = [rng.integers(0, np.array(self.raw[:LAST].shape) - [0, size, size]) for _ in places]
            places = [Place(at + 1, *map(int, one), size, size, 0.0) for at, one in enumerate(starts)]
            shutil.rmtree(folder)
            guess = open_volume(record.result["segmentation"])
            write_places(folder, places, open_volume(f"{self.container}/raw"), guess, 0)
        for place in places:
            crop = open_volume(folder / "crops.zarr", f"{place.name}/labels", writable=True)
            crop.write(self.labels[place.roi.to_slices()])


def main() -> None:
    """Run what is left of the study, and write its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of runs, data and the table")
    parser.add_argument("--data", type=Path, default=os.environ.get("INCASEM_REAL_DATA"), help="with fib_medulla")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--budgets", nargs="+", default=[*BUDGETS, "second"], choices=[*BUDGETS, "second"])
    parser.add_argument("--iterations", type=int, help="of each training; otherwise those of study_round.yaml")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("set INCASEM_REAL_DATA, or give --data")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    study = Study(arguments.folder.resolve(), Path(arguments.data) / "fib_medulla", arguments.iterations)
    found: dict[str, dict[int, Any]] = {}
    for seed in arguments.seeds:
        for budget in BUDGETS:
            if budget in arguments.budgets or (budget == FIRST and "second" in arguments.budgets):
                name = f"{budget}_{seed}"
                if budget == "dense":
                    scores = study.once(name, study.dense, seed)
                else:
                    painted = paint(study.labels[:LAST], budget, np.random.default_rng(seed))
                    scores = study.once(name, study.round, seed, study.write(f"painted/{name}", painted))
                found.setdefault(budget, {})[seed] = scores
                write_table(arguments.folder, found)
        if "second" in arguments.budgets:
            labels, parent = f"{study.container}/painted/{FIRST}_{seed}", found[FIRST][seed]["round"]
            for arm, chance in (("asked", None), ("random", seed)):
                if not (arguments.folder / f"{arm}_{seed}.json").exists():
                    study.paint_places(study.store("bootstrapping").get(parent), chance)
                found.setdefault(arm, {})[seed] = study.once(f"{arm}_{seed}", study.round, seed, labels, parent)
                write_table(arguments.folder, found)


def write_table(folder: Path, found: dict[str, dict[int, Any]]) -> None:
    """Write means and ranges over the seeds."""
    lines = ["| painted | voxels | VOI | NVI | NVI of each seed | minutes |", "|---|---|---|---|---|---|"]
    for budget, seeds in found.items():
        mean = {key: np.mean([one[key] for one in seeds.values()]) for key in ("voxels", "voi", "nvi", "seconds")}
        each = ", ".join(f"{one['nvi']:.3f}" for one in seeds.values())
        cells = (budget, f"{mean['voxels']:,.0f}", f"{mean['voi']:.2f}", f"{mean['nvi']:.3f}", each)
        lines.append(f"| {' | '.join(cells)} | {mean['seconds'] / 60:.1f} |")
    (folder / "table.md").write_text("\n".join(lines) + "\n")
    (folder / "table.json").write_text(json.dumps(found, indent=4))
    print(lines[-1], flush=True)


if __name__ == "__main__":
    main()
