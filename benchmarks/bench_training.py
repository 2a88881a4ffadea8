"""Where the time of a training sample goes, and the rate of a training beside one repeated sample and PreCache.

Both are measured in turn, round by round, so that what else the machine does slows them alike; the training also logs
each step, as its loop does.

``python benchmarks/bench_training.py --device 0 --workers 8`` measures on a GPU; without flags, a small network on the
CPU.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gunpowder as gp
import torch
from bench_samples import Size, stock_pipeline, write_volume

from incasem_like.config import DataConfig, DataEntry, TrainingConfig
from incasem_like.samples import SampleSettings, TrainingSamples, make_loader
from incasem_like.samples.places import PlaceChooser
from incasem_like.training.log import Step, TrainingLog
from incasem_like.training.optimization import Optimization, Update, seeded_network
from incasem_like.training.tensorboard import TensorBoardLog

RESULTS = Path(__file__).parent / "results" / "training.json"
SMALL: dict[str, Any] = {"type": "Unet", "num_fmaps": 8, "downsample_factors": [[2, 2, 2], [2, 2, 2]]}
SIZES: dict[str, tuple[Size, Size]] = {"cpu": ((76,) * 3, (34,) * 3), "gpu": ((204,) * 3, (110,) * 3)}


def configured(device: str, size_in: Size, size_out: Size) -> TrainingConfig:
    model = SMALL if device == "cpu" else {}
    training = {"input_size_voxels": size_in, "output_size_voxels": size_out, "reject": {"min_masked": 0.0}}
    return TrainingConfig.model_validate(
        {
            "seed": 1,
            "training": training,
            "model": model,
            "torch": {"device": device if device == "cpu" else int(device)},
        }
    )


def samples_of(container: Path, config: TrainingConfig) -> TrainingSamples:
    entry = DataEntry(name="noise", file=container, raw="raw", labels={"labels": 1}, voxel_size=(5.0, 5.0, 5.0))
    data = DataConfig(path=Path("noise.json"), entries=(entry,), text="")
    return TrainingSamples(data, SampleSettings.from_config(config), seed=1)


class Stopwatch:
    """Sums the time within functions, without that in others that it times."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self._inner = [0.0]

    def time(self, owner: Any, name: str, label: str) -> None:
        """Time a function of a class or object from now on."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                elapsed = time.perf_counter() - started
                self.seconds[label] += elapsed - self._inner.pop()
                self._inner[-1] += elapsed

        setattr(owner, name, timed)


def shares(samples: TrainingSamples, count: int) -> dict[str, float]:
    """Return the share of each step in the time of a sample."""
    _ = samples[0]
    maker, watch = samples._maker, Stopwatch()
    assert maker is not None
    for reader in maker.chooser.readers:
        watch.time(reader, "read_raw", "read raw")
        watch.time(reader, "read_labels", "read labels")
    watch.time(PlaceChooser, "choose", "choose a position")
    for target in maker.settings.targets:
        watch.time(type(target), "weighted", "targets and weights")
    node = maker.pipeline.output
    while node.get_upstream_providers():
        if isinstance(node, gp.BatchFilter):
            for method in ("prepare", "process"):
                watch.time(node, method, f"augment: {type(node).__name__.lower()}")
        (node, *_) = node.get_upstream_providers()
    watch.time(maker, "make", "the rest: gunpowder, copies")
    for index in range(1, count + 1):
        _ = samples[index]
    whole = sum(watch.seconds.values())
    return {label: seconds / whole for label, seconds in sorted(watch.seconds.items(), key=lambda one: -one[1])}


def rate(step: Callable[[Any], Any], batches: Iterator[Any], count: int, warm_up: int) -> float:
    """Return steps per second, after some to begin with."""
    for _ in range(warm_up):
        step(next(batches))
    started = time.perf_counter()
    for _ in range(count):
        step(next(batches))
    return count / (time.perf_counter() - started)


def precached(container: Path, size_in: Size, size_out: Size, count: int) -> float:
    """Return the samples per second of gunpowder's pipeline behind a PreCache of one worker."""
    pipeline, request = stock_pipeline(container, size_in, size_out)
    pipeline += gp.PreCache(cache_size=4, num_workers=1)
    with gp.build(pipeline):
        return rate(lambda _: pipeline.request_batch(request), iter(range(count + 3)), count, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, or the index of a GPU")
    parser.add_argument("--workers", type=int, default=1, help="processes that make samples")
    parser.add_argument("--count", type=int, default=10, help="steps to measure in each round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of repeated and of loaded samples in turn")
    flags = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    size_in, size_out = SIZES["cpu" if flags.device == "cpu" else "gpu"]
    config = configured(flags.device, size_in, size_out)
    with tempfile.TemporaryDirectory() as folder:
        container = Path(folder) / "noise.zarr"
        write_volume(container)
        samples = samples_of(container, config)
        of_sample = shares(samples_of(container, config), flags.count)
        print(f"A sample of {size_in[0]}^3, {size_out[0]}^3 spends")
        for label, share in of_sample.items():
            print(f"  {share:6.1%}  {label}")

        optimization = Optimization(config, seeded_network(config.model, 1))

        log = TrainingLog(config, cast("Any", SimpleNamespace(log_scalar=print)), TensorBoardLog(Path(folder) / "log"))

        def step(batch: Any) -> Update:
            return optimization.step(batch, 1e-5)

        def logged(batch: Any) -> None:
            update = step(batch)
            log.training(Step(1, update.losses["loss"], 1e-5, batch, update.logits, 1.0))

        def loader(workers: int) -> Iterator[Any]:
            return iter(make_loader(samples, num_workers=workers, prefetch=20, stop=10**6))

        one = next(loader(0))
        with optimization.numerics():
            loaded = loader(flags.workers)
            rate(logged, loaded, 1, 2 + 2 * flags.workers)
            rounds = [
                (rate(step, iter(lambda: one, None), flags.count, 2), rate(logged, loaded, flags.count, 1))
                for _ in range(flags.rounds)
            ]
        trained, share = (statistics.median(values) for values in zip(*((b, b / a) for a, b in rounds), strict=True))
        made = rate(lambda _: None, loader(1), flags.count, 3)
        peer = precached(container, size_in, size_out, flags.count)
    print(f"Training: {trained:.2f}/s with {flags.workers} workers, {share:.0%} of one repeated sample")
    print(f"Samples of one worker: {made:.2f}/s, {made / peer:.1f} times gunpowder's PreCache ({peer:.2f}/s)")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "shares": of_sample,
        "of_repeated": share,
        "rounds_of_repeated": [b / a for a, b in rounds],
        "times_precache": made / peer,
        **vars(flags),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    main()
