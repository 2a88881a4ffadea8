"""Training steps of a small anisotropic U-Net on CPU with huge pages and kept memory, against torch as it comes."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "cpu_memory.json"
STEPS = """
import json, resource, sys, time
from incasem_like.commands.cpu_settings import use_huge_pages
from incasem_like.processes import keep_freed_memory
if sys.argv[1] == "ours":
    use_huge_pages()
    keep_freed_memory()
import torch
from incasem_like.config import UnetModel
from incasem_like.networks import build_network
one, two = [[1, 3, 3]], [[1, 3, 3]] * 2
model = UnetModel(num_fmaps=16, downsample_factors=[[1, 4, 4], [1, 2, 2], [1, 2, 2]],
                    kernel_size_down=[one, two, two, two], kernel_size_up=[one, two, two])
network = build_network(model).to(memory_format=torch.channels_last_3d)
raw = torch.rand(1, 1, 5, 386, 386)
times = []
for step in range(12):
    started = time.perf_counter()
    network(raw).mean().backward()
    times.append(time.perf_counter() - started)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"times": times[2:], "peak_gib": memory}))
"""


def steps(mode: str) -> dict:
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0"} if mode == "peer" else None
    done = subprocess.run([sys.executable, "-c", STEPS, mode], env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def main() -> None:
    runs = {"ours": [], "peer": []}
    for _ in range(3):
        for mode, results in runs.items():
            results.append(steps(mode))
    seconds = {mode: statistics.median(t for run in results for t in run["times"]) for mode, results in runs.items()}
    memory = {mode: max(run["peak_gib"] for run in results) for mode, results in runs.items()}
    ratio = seconds["peer"] / seconds["ours"]
    print(f"{seconds['ours']:.3f} s a step, torch as it comes {seconds['peer']:.3f} s: {ratio:.1f} times as fast")
    print(f"{memory['ours']:.2f} GiB at most, torch as it comes {memory['peer']:.2f} GiB")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"seconds": seconds, "peak_gib": memory, "times_faster": ratio}, indent=2))


if __name__ == "__main__":
    main()
