"""Listing 10,000 runs, from files and from MongoDB, against reading their whole documents one by one or all at once."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from mongo import mongo_url

from incasem_like.tracking import RunStore, open_store, run_experiment
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore
from incasem_like.tracking.values import to_bson

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "run_list.json"
COLUMNS = ("training.iterations", "training.data", "optimizer.lr")
REPETITIONS = 3
SLOW = "?socketTimeoutMS=600000"  # the test server may go through all documents before it answers at all
ENDED_LONG_AGO = 1_000_000_000


def documents(count: int, folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Make runs as large as real ones: 190 packages, a whole configuration, 15 metrics, 4 checkpoints."""
    store = open_store(folder / "pattern", "trainings", folder)
    config = yaml.safe_load((ROOT / "scripts" / "02_train" / "config_training.yaml").read_text())
    run_experiment(name="train", config=config, main=lambda run: None, store=store)
    pattern = store.get(1).document
    for run_id in range(1, count + 1):
        start = datetime(2026, 1, 1) + timedelta(minutes=run_id)
        yield (
            run_id,
            {
                **pattern,
                "start_time": start,
                "stop_time": start + timedelta(hours=3),
                "heartbeat": start + timedelta(hours=3),
                "captured_out": "iteration 1000, loss 0.25\n" * 200,
                "config": {**config, "seed": run_id},
                "info": info(run_id),
            },
        )


def info(run_id: int) -> dict[str, Any]:
    """Make what a training notes of itself."""
    hashes = {f"/data/cell.zarr/volumes/{name}": "ab" * 32 for name in ("raw", "labels/er", "mask")}
    numbers = {"last": 0.5 + run_id * 1e-6, "last_step": 4000, "min": 0.1, "min_step": 1, "max": 0.9, "max_step": 3999}
    return {
        "inputs": [{"name": f"r{n}", "file": "/data/cell.zarr", "content_hashes": hashes} for n in range(5)],
        "checkpoints": [
            {
                "iteration": iteration,
                "path": f"models/{run_id:04d}/model_checkpoint_{iteration}",
                "sha256": "cd" * 32,
                "bytes": 70_000_000,
                "metrics": {f"dice_class_{number}": 0.5 for number in range(10)},
            }
            for iteration in (1000, 2000, 3000, 4000)
        ],
        "summary": {f"dice_class_{number}": numbers for number in range(15)},
    }


def fill_files(store: FileStore, count: int, folder: Path) -> None:
    for run_id, document in documents(count, folder):
        directory = store.folder / str(run_id)
        directory.mkdir(parents=True)
        parts = {"config": document.pop("config"), "info": document.pop("info")}
        document.pop("captured_out"), document.pop("omniboard")
        for name, part in {**parts, "run": document}.items():
            path = directory / f"{name}.json"
            path.write_text(json.dumps(part, indent=2, default=datetime.isoformat))
            os.utime(path, (ENDED_LONG_AGO, ENDED_LONG_AGO))


def fill_mongo(store: MongoStore, count: int, folder: Path) -> None:
    waiting = []
    for run_id, document in documents(count, folder):
        waiting.append({"_id": run_id, **to_bson(document)})
        if len(waiting) == 200 or run_id == count:
            store.database["runs"].insert_many(waiting)
            waiting = []


def read_files_one_by_one(store: FileStore) -> int:
    """Read the same documents with plain json."""
    found = [
        {
            name: json.loads((store.folder / str(run_id) / f"{name}.json").read_text())
            for name in ("run", "config", "info")
        }
        for run_id in store.ids()
    ]
    return len(found)


def find_whole_documents(store: MongoStore) -> int:
    """Fetch whole documents, as Omniboard does; in small batches, for the test server's may be too large otherwise."""
    return len(list(store.database["runs"].find().batch_size(100)))


def read_by_the_server_alone(store: MongoStore) -> int:
    """Have the server go through all documents and send next to nothing of them."""
    return len(list(store.database["runs"].find({}, {"_id": 1})))


def best_of(work: Callable[[], object], times: int = REPETITIONS) -> float:
    """Time some work, in seconds; the best of several times."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def command(url: str, runs: Path) -> float:
    """Time the whole command, from the shell and back."""
    words = [sys.executable, "-m", "incasem_like", "runs", "list", "--limit", "20", "--mongodb", url]
    words += ["--runs_directory", str(runs)]
    return best_of(lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def compare(where: str, store: RunStore, peer: Callable[[], object], url: str) -> dict[str, Any]:
    first, spent = best_of(store.summaries, times=1), time.process_time()
    store.summaries()
    spent = time.process_time() - spent
    listed = best_of(store.summaries)
    columns = best_of(lambda: store.summaries(COLUMNS))
    theirs = best_of(peer, times=1)
    count, total = len(store.summaries()), command(url, store.runs_directory)
    print(
        f"{where}, {count} runs: list {listed:.2f} s (at the very first {first:.2f} s), with {len(COLUMNS)} columns of "
        f"the configuration {columns:.2f} s, the whole command {total:.2f} s; {spent:.2f} s of the list are CPU "
        f"of this process; whole documents {theirs:.2f} s: {theirs / listed:.1f} times as fast"
    )
    return {
        "store": where,
        "runs": count,
        "first_seconds": round(first, 3),
        "seconds": round(listed, 3),
        "cpu_seconds": round(spent, 3),
        "with_columns_seconds": round(columns, 3),
        "command_seconds": round(total, 3),
        "whole_documents_seconds": round(theirs, 3),
        "times_faster": round(theirs / listed, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    count = parser.parse_args().runs
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["INCASEM_CACHE"] = str(folder / "cache")
        files = open_store(folder / "runs" / "tracking", "trainings", folder / "runs")
        assert isinstance(files, FileStore)
        fill_files(files, count, folder)
        rows.append(compare("files", files, lambda: read_files_one_by_one(files), str(folder / "runs" / "tracking")))
        with mongo_url(folder, memory="4g") as url:
            if url is not None:
                address = f"{str(url).rstrip('/')}/bench_{uuid.uuid4().hex[:8]}_trainings{SLOW}"
                mongo = open_store(address, "trainings", folder / "runs")
                assert isinstance(mongo, MongoStore)
                fill_mongo(mongo, count, folder)
                row = compare("MongoDB", mongo, partial(find_whole_documents, mongo), address)
                server = best_of(partial(read_by_the_server_alone, mongo))
                print(f"of that the server needs {server:.2f} s to go through its documents, whatever is asked of them")
                rows.append({**row, "server_seconds": round(server, 3)})
                mongo.database.client.drop_database(mongo.database.name)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
