"""Training samples per second against a stock gunpowder pipeline: same volume, same augmentation, same process."""

from __future__ import annotations

import json
import math
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import gunpowder as gp
import numpy as np
import torch
import zarr
from scipy import ndimage

from incasem_like.config import DataConfig, DataEntry, TrainingConfig
from incasem_like.config.training_sections import AugmentationConfig, RejectConfig
from incasem_like.samples import SampleSettings, TrainingSamples
from incasem_like.targets import targets_of

RESULTS = Path(__file__).parent / "results" / "samples.json"
VOXEL_SIZE = gp.Coordinate(5, 5, 5)
VOLUME = 330
Size = tuple[int, int, int]
CASES: dict[str, tuple[Size, Size, int]] = {
    "raw 100^3, labels 100^3": ((100,) * 3, (100,) * 3, 12),
    "raw 204^3, labels 110^3": ((204,) * 3, (110,) * 3, 4),
}


def write_volume(container: Path) -> None:
    """Write smooth noise as raw and its brighter half as labels, in chunks of 64 voxels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((VOLUME,) * 3).astype(np.float32), 2)
    raw = np.clip(128 + 400 * noise, 0, 255).astype(np.uint8)
    root = zarr.open_group(str(container), mode="w")
    for name, array in (("raw", raw), ("labels", (noise > 0).astype(np.uint8))):
        written = root.create_dataset(name, data=array, chunks=(64, 64, 64))
        written.attrs["resolution"], written.attrs["offset"] = list(VOXEL_SIZE), [0, 0, 0]


def stock_pipeline(container: Path, size_in: Size, size_out: Size) -> tuple[gp.Pipeline, gp.BatchRequest]:
    """Build incasem's augmentations out of gunpowder's own nodes, and the request of a sample."""
    raw, labels, scale = (gp.ArrayKey(f"BENCH_{name}") for name in ("RAW", "LABELS", "SCALE"))
    specs = {raw: gp.ArraySpec(interpolatable=True), labels: gp.ArraySpec(interpolatable=False)}
    elastic = gp.ElasticAugment((32, 32, 32), (2, 2, 2), (0, math.pi / 2), prob_shift=0.05, max_misalign=2, subsample=4)
    pipeline = gp.ZarrSource(str(container), {raw: "raw", labels: "labels"}, specs)
    pipeline += gp.Normalize(raw)
    pipeline += gp.RandomLocation()
    for augment in (gp.SimpleAugment(), elastic, gp.SimpleAugment(), gp.IntensityAugment(raw, 0.85, 1.15, -0.15, 0.15)):
        pipeline += augment
    pipeline += gp.BalanceLabels(labels, scale, clipmin=0.01, clipmax=0.99)
    request = gp.BatchRequest()
    request.add(raw, gp.Coordinate(size_in) * VOXEL_SIZE)
    for key in (labels, scale):
        request.add(key, gp.Coordinate(size_out) * VOXEL_SIZE)
    return pipeline, request


def stock(container: Path, size_in: Size, size_out: Size) -> Callable[[int], object]:
    """Return a function that makes a sample by that pipeline."""
    pipeline, wanted = stock_pipeline(container, size_in, size_out)
    pipeline.setup()

    def make(index: int) -> object:
        request = gp.BatchRequest(random_seed=index + 1)
        for key, spec in wanted.array_specs.items():
            request[key] = spec
        return pipeline.request_batch(request)

    return make


def ours(container: Path, size_in: Size, size_out: Size, memory_bytes: int) -> Callable[[int], object]:
    """Describe the same samples here; ``memory_bytes`` 0 reads every block from its chunks, as gunpowder does."""
    nanometres = (5.0, 5.0, 5.0)
    entry = DataEntry(name="noise", file=container, raw="raw", labels={"labels": 1}, voxel_size=nanometres)
    targets = targets_of(TrainingConfig())
    rejected = RejectConfig(min_masked=0.0)
    settings = SampleSettings(size_in, size_out, nanometres, 2, targets, rejected, AugmentationConfig())
    config = DataConfig(path=Path("noise.json"), entries=(entry,), text="")
    return TrainingSamples(config, settings, seed=1, memory_bytes=memory_bytes).__getitem__


def seconds_per_sample(make: Callable[[int], object], count: int) -> float:
    make(0)
    times = []
    for index in range(1, count + 1):
        started = time.perf_counter()
        make(index)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure(container: Path) -> list[dict[str, object]]:
    rows = []
    for case, (size_in, size_out, count) in CASES.items():
        peer = seconds_per_sample(stock(container, size_in, size_out), count)
        for source, memory in (("from memory", 1 << 30), ("from chunks", 0)):
            seconds = seconds_per_sample(ours(container, size_in, size_out, memory), count)
            ratio = peer / seconds
            print(f"{case}, {source}: {1 / seconds:.2f}/s, gunpowder {1 / peer:.2f}/s: {ratio:.1f} times as fast")
            rows.append(
                {"case": case, "source": source, "per_s": 1 / seconds, "gunpowder_per_s": 1 / peer, "ratio": ratio}
            )
    return rows


def main() -> None:
    torch.set_num_threads(1)  # as in a loader worker
    warnings.simplefilter("ignore", DeprecationWarning)
    with tempfile.TemporaryDirectory() as folder:
        container = Path(folder) / "noise.zarr"
        write_volume(container)
        rows = measure(container)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
