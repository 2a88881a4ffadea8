"""The gallery of runs with 10,000 trainings, from files and from MongoDB: its list, and a comparison of 20 runs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from bench_run_list import fill_files, fill_mongo
from mongo import mongo_url

from incasem_like.commands.options import StoreChoice
from incasem_like.commands.runs.serve import Gallery
from incasem_like.tracking import run_experiment
from incasem_like.tracking.stores.files import FileStore
from incasem_like.tracking.stores.mongo import MongoStore
from incasem_like.viewing.pages import serving_pages

RESULTS = Path(__file__).parent / "results" / "gallery.json"
COMPARED, POINTS = 20, 20_000


def log_curves(run: Any) -> None:
    """Log what a training logs: a loss at each iteration, scores at some."""
    random = np.random.default_rng(run.id)
    for step in range(POINTS):
        run.log_scalar("loss_train_0", float(random.random() + 100 / (step + 100)), step)
        if step % 500 == 0:
            for number in range(5):
                run.log_scalar(f"dice_class_{number}", step / POINTS * 0.9, step)


def measure(where: str, stores: StoreChoice, count: int) -> dict[str, Any]:
    """Add runs with curves to a filled store, and time the answers that a browser gets."""
    store = stores.open("trainings")
    for number in range(COMPARED):
        config = {"training": {"iterations": POINTS, "optimizer": {"lr": 10.0 ** -(number % 5)}}}
        run_experiment(name="train", config=config, main=log_curves, store=store, run_name=f"curve {number}")
    newest = store.ids()[-COMPARED:]
    with serving_pages(Gallery(stores).answers()) as link:

        def answer(path: str, times: int = 3) -> dict[str, float]:
            """Time an answer by the clock and by the processor time of this process, the best of several."""
            found = []
            for _ in range(times):
                start, spent = time.perf_counter(), time.process_time()
                urllib.request.urlopen(link + path, timeout=600).read()
                found.append((time.perf_counter() - start, time.process_time() - spent))
            return {"seconds": round(min(found)[0], 3), "cpu_seconds": round(min(one[1] for one in found), 3)}

        answers = {
            "first list": answer("list?", times=1),
            "list again": answer("list?"),
            "filtered and sorted": answer("list?kind=trainings&filter=dice_class_1%3E0.8&sort=-dice_class_1", times=1),
            f"comparison of {COMPARED}": answer("compare?" + "&".join(f"run=trainings/{one}" for one in newest)),
            "page of a run": answer(f"run/trainings/{newest[0]}", times=1),
        }
    shown = ", ".join(
        f"{name} {one['seconds']:.2f} s ({one['cpu_seconds']:.2f} s CPU)" for name, one in answers.items()
    )
    print(f"{where}, {count + COMPARED} runs, load {os.getloadavg()[0]:.0f}: {shown}", flush=True)
    return {"store": where, "runs": count + COMPARED, **answers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    count = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["INCASEM_CACHE"] = str(folder / "cache")
        files = StoreChoice(str(folder / "runs" / "tracking"), folder / "runs")
        store = files.open("trainings")
        assert isinstance(store, FileStore)
        fill_files(store, count, folder)
        rows = [measure("files", files, count)]
        with mongo_url(folder, memory="4g") as url:
            if url is not None:
                prefix = f"bench_{uuid.uuid4().hex[:8]}"
                mongo = StoreChoice(f"{url.rstrip('/')}/{prefix}_trainings?socketTimeoutMS=600000", folder / "runs")
                database = mongo.open("trainings")
                assert isinstance(database, MongoStore)
                fill_mongo(database, count, folder)
                rows.append(measure("MongoDB", mongo, count))
                for name in database.database.client.list_database_names():
                    if name.startswith(prefix):
                        database.database.client.drop_database(name)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
