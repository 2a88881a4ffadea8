"""Voxels predicted per second: predict.py against gunpowder's Scan + Predict and the bare forward pass; and memory.

The same U-Net, weights, volume and threads. gunpowder scans with incasem's tiles: 204 voxels in, 110 out. On a CPU the
network is incasem's with fewer feature maps (``--num_fmaps``, 8 of 32), so that the run takes minutes; nothing else is
reduced. All are measured in turn, ``--rounds`` times, so that other work on the machine slows them alike; the best of
each counts. Processor time is given too: it hardly depends on such work, as long as torch's threads sleep while they
wait for each other (``OMP_WAIT_POLICY=PASSIVE``, which predict.py sets); spinning threads use four times as much of it
on a busy machine, whatever they compute.

``--device cuda`` measures incasem's network in fp32, bf16 and compiled on a GPU, and what share of the chip's rate of
multiplying matrices each reaches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from prediction_laboratory import INPUT, OUTPUT, Laboratory, gunpowder_seconds, make_laboratory

from incasem_like.commands.cpu_settings import share_the_cores, use_huge_pages
from incasem_like.config import PredictionConfig
from incasem_like.networks.inference import inference
from incasem_like.prediction.experiment import predict_data
from incasem_like.prediction.outputs import read_begun
from incasem_like.prediction.planning.memory import usable_memory
from incasem_like.prediction.planning.plan import PredictionPlan
from incasem_like.prediction.planning.planner import plan_prediction

RESULTS = Path(__file__).parent / "results" / "prediction.json"
SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "03_predict" / "predict.py"
GIB = 2**30
# Wall time and processor time.
Seconds = tuple[float, float]
# A volume of 36 GiB: no step may depend on it. A few planes of the first tile show what a tile takes.
LARGE = (2048, 4096, 4608)
# How the default network is tried on a GPU, and in which arithmetic matrices are multiplied beside it.
ON_GPU = {
    "fp32": ((), torch.float32),
    "bf16": (("torch.precision=bf16", "torch.channels_last=true"), torch.bfloat16),
    "bf16, compiled": (("torch.precision=bf16", "torch.channels_last=true", "torch.compile=true"), torch.bfloat16),
}


def timed(work: Callable[[], object]) -> Seconds:
    begun, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - used


def predicted(config: PredictionConfig, laboratory: Laboratory) -> tuple[Seconds, tuple[int, ...]]:
    """Predict as predict.py does in one process: probability maps, segmentation and log are written."""
    with tempfile.TemporaryDirectory(dir=laboratory.folder) as out:
        directories = config.prediction.directories.model_copy(update={"prefix": Path(out)})
        section = config.prediction.model_copy(update={"directories": directories})
        config = config.model_copy(update={"prediction": section})
        used = time.process_time()
        finished = predict_data(config, laboratory.training, store=lambda: None)
        begun = read_begun(finished.locations["cell"])
        assert begun is not None
        return (finished.result["seconds"], time.process_time() - used), begun.input_size


def forward_in_a_loop(plan: PredictionPlan, input_size: Sequence[int]) -> Callable[[], None]:
    """Make what runs the network alone on tiles of the sizes that the region is predicted with, one after the other."""
    region, device = plan.regions[0], torch.device(plan.config.torch.device_name)
    tiles = plan.predictor(input_size).tiles(region.roi, region.raw_roi.begin)
    largest = [max(edges) for edges in zip(*(tile.read_roi.shape for tile in tiles), strict=True)]
    raw = torch.rand((1, 1, *largest), device=device)
    if device.type == "cpu" or plan.config.torch.channels_last:
        raw = raw.contiguous(memory_format=torch.channels_last_3d)
    run = inference(plan.lead.module, device)
    precision = {"fp32": None, "bf16": torch.bfloat16}[plan.config.torch.precision]

    def work() -> None:
        with torch.inference_mode(), torch.autocast(device.type, precision, enabled=precision is not None):
            for tile in tiles:
                z, y, x = tile.read_roi.shape
                for _ in run(iter([raw[:, :, :z, :y, :x]]), (z, y, x)):
                    pass
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return work


def compare(laboratory: Laboratory, rounds: int) -> dict[str, object]:
    """Measure all on the CPU, in turn, and print the ratios."""
    config = laboratory.config("torch.device=cpu")
    plan = plan_prediction(config, [laboratory.training])
    plan.speed(most_voxels=1e8)  # measured once for a network and kept, so that it counts for nobody's time
    voxels = int(plan.regions[0].roi.size)
    found: dict[str, list[Seconds]] = {"ours": [], "bare": [], "module": [], "gunpowder": []}
    for _ in range(rounds):
        seconds, size = predicted(config, laboratory)
        found["ours"].append(seconds)
        found["bare"].append(timed(forward_in_a_loop(plan, size)))
        found["gunpowder"].append(gunpowder_seconds(plan, "cpu"))
        found["module"].append(module_seconds(plan, voxels))
    best = {name: tuple(min(column) for column in zip(*rows, strict=True)) for name, rows in found.items()}
    said = {
        "gunpowder": f"gunpowder's Scan + Predict, {INPUT} in, {OUTPUT} out",
        "bare": f"the same network and tiles ({' x '.join(map(str, size))}) in a loop, nothing read or written",
        "module": f"torch's forward pass of tiles of {INPUT} in a loop, nothing read or written",
    }
    ours = best["ours"]
    print(f"prediction: {voxels / ours[0] / 1e3:.0f} thousand voxels/s", flush=True)
    for name, peer in said.items():
        wall, processor = best[name][0] / ours[0], best[name][1] / ours[1]
        print(
            f"{peer}: {voxels / best[name][0] / 1e3:.0f} thousand voxels/s: {wall:.2f} times as fast, "
            f"{processor:.2f} times by processor time",
            flush=True,
        )
    return {"voxels": voxels, "input_size": size, "seconds": found}


def module_seconds(plan: PredictionPlan, voxels: int) -> Seconds:
    """Run torch's own forward pass on three tiles, and say how long the volume would take in that way."""
    raw = torch.rand((1, 1, INPUT, INPUT, INPUT)).contiguous(memory_format=torch.channels_last_3d)

    def work() -> None:
        with torch.inference_mode():
            for _ in range(3):
                plan.lead.module(raw)

    wall, processor = timed(work)
    return wall * voxels / (3 * OUTPUT**3), processor * voxels / (3 * OUTPUT**3)


def memory_of_a_large_volume(folder: Path, num_fmaps: int, seconds: float) -> dict[str, float]:
    """Let predict.py work on a volume of 36 GiB, in a process of its own, for some time, and say its peak memory."""
    laboratory = make_laboratory(folder, LARGE, num_fmaps, empty=True)
    config = laboratory.config("torch.device=cpu")
    plan = plan_prediction(config, [laboratory.training])
    choice = plan.choose_tiles(plan.regions[0])
    updates = [
        f"prediction.data={folder / 'predict.json'}",
        f"directories.runs={folder / 'runs'}",
        f"directories.data={folder / 'data'}",
        "torch.device=cpu",
    ]
    command = [sys.executable, str(SCRIPT), "--run_id", "1", "with", "config_prediction.yaml", *updates]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + seconds
        peak = 0
        while time.monotonic() < end and process.poll() is None:
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        process.communicate()
    tile = " x ".join(map(str, choice.input_size))
    print(
        f"memory: {peak / GIB:.2f} GiB at most in {seconds:.0f} s of predicting a volume of "
        f"{' x '.join(map(str, LARGE))} voxels in tiles of {tile} ({choice.bytes / GIB:.2f} GiB by estimate, "
        f"{usable_memory(torch.device('cpu')) / GIB:.2f} allowed)",
        flush=True,
    )
    return {"peak_gib": peak / GIB, "tile_gib": choice.bytes / GIB, "seconds": seconds}


def compare_on_gpu(laboratory: Laboratory, rounds: int) -> dict[str, object]:
    """Measure the network on a GPU in each arithmetic, and print the share of the chip's rate."""
    rows: dict[str, object] = {}
    for name, (updates, dtype) in ON_GPU.items():
        config = laboratory.config("torch.device=0", "prediction.precision_tolerance=null", *updates)
        plan = plan_prediction(config, [laboratory.training])
        plan.speed(most_voxels=1e9)
        voxels = int(plan.regions[0].roi.size)
        predicted(config, laboratory)  # pays for what comes once, such as compiling
        runs = [predicted(config, laboratory) for _ in range(rounds)]
        ours, size = min(seconds[0] for seconds, _ in runs), runs[0][1]
        loop = forward_in_a_loop(plan, size)
        loop()
        bare = min(timed(loop)[0] for _ in range(rounds))
        rate, work = matrix_rate(dtype), operations(plan, size)
        print(
            f"{name}: {voxels / ours / 1e6:.1f} million voxels/s, {bare / ours:.0%} of the bare forward pass on tiles "
            f"of {' x '.join(map(str, size))}, which does {work / bare / 1e12:.0f} Tflop/s of the {rate / 1e12:.0f} of "
            f"a large matrix product: {work / bare / rate:.0%}",
            flush=True,
        )
        rows[name] = {"seconds": ours, "bare": bare, "input_size": size, "operations": work, "matrix_rate": rate}
    peer = min(gunpowder_seconds(plan, "cuda:0")[0] for _ in range(rounds))
    print(f"gunpowder's Scan + Predict in fp32: {voxels / peer / 1e6:.1f} million voxels/s", flush=True)
    return {"voxels": voxels, "gunpowder": peer, **rows}


def matrix_rate(dtype: torch.dtype, edge: int = 8192, times: int = 20) -> float:
    """Multiply large matrices on the GPU; floats as convolutions do, in TF32. Give operations per second."""
    torch.backends.cuda.matmul.allow_tf32 = True
    left, right = (torch.rand((edge, edge), device="cuda", dtype=dtype) for _ in range(2))

    def work() -> None:
        for _ in range(times):
            left @ right
        torch.cuda.synchronize()

    work()
    return 2 * edge**3 * times / timed(work)[0]


def operations(plan: PredictionPlan, input_size: Sequence[int]) -> float:
    """Count the multiplications and additions of all tiles."""
    from torch.utils.flop_counter import FlopCounterMode

    from incasem_like.networks import build_network

    region, network = plan.regions[0], build_network(plan.training.model).to("meta")
    total = 0.0
    for tile in plan.predictor(input_size).tiles(region.roi, region.raw_roi.begin):
        with FlopCounterMode(display=False) as counter:
            network(torch.empty((1, 1, *tile.read_roi.shape), device="meta"))
        total += counter.get_total_flops()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the network computes")
    parser.add_argument("--num_fmaps", type=int, help="feature maps of the finest level (default: 8; 32 on a GPU)")
    parser.add_argument("--tiles", type=int, help="gunpowder's tiles along each axis (default: 3; 6 on a GPU)")
    parser.add_argument("--rounds", type=int, default=2, help="times that each is measured; the best counts")
    parser.add_argument("--memory_seconds", type=float, default=60.0, help="time on the large volume; 0 leaves it out")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print("No GPU that CUDA can use is here: this part of the benchmark is left out.")
        return
    if "OMP_WAIT_POLICY" not in os.environ:  # torch reads it when it is imported
        share_the_cores()
        os.execv(sys.executable, [sys.executable, *sys.argv])
    use_huge_pages()
    warnings.simplefilter("ignore")
    num_fmaps = arguments.num_fmaps or (32 if on_gpu else 8)
    edge = OUTPUT * (arguments.tiles or (6 if on_gpu else 3))
    report: dict[str, object] = {"num_fmaps": num_fmaps, "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as name:
        os.environ["INCASEM_CACHE"] = f"{name}/cache"
        laboratory = make_laboratory(Path(name) / "small", (edge,) * 3, num_fmaps)
        report |= (compare_on_gpu if on_gpu else compare)(laboratory, arguments.rounds)
        if not on_gpu and arguments.memory_seconds:
            report["memory"] = memory_of_a_large_volume(Path(name) / "large", num_fmaps, arguments.memory_seconds)
    report |= {"machine": platform.processor() or platform.machine(), "load": os.getloadavg()[0]}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.with_stem(f"prediction_{arguments.device}").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
