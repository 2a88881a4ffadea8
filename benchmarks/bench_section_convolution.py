"""Training step of one 1 x 3 x 3 convolution on CPU: folded into sections, against torch's own Conv3d."""

import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from incasem_like.networks.section_convolution import SectionConv3d

RESULTS = Path(__file__).parent / "results" / "section_convolution.json"


def seconds_per_step(layer: nn.Module, maps: torch.Tensor, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        layer(maps).mean().backward()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def main() -> None:
    rows = []
    for channels in (8, 16, 32):
        shape = (1, channels, 5, 236, 236) if channels < 32 else (1, channels, 5, 116, 116)
        maps = torch.randn(shape).contiguous(memory_format=torch.channels_last_3d).requires_grad_(True)
        ours = seconds_per_step(SectionConv3d(channels, channels, (1, 3, 3)), maps)
        peer = seconds_per_step(nn.Conv3d(channels, channels, (1, 3, 3)), maps)
        rows.append({"channels": channels, "seconds": ours, "torch_seconds": peer, "times_faster": peer / ours})
        print(f"{channels} channels {shape}: {ours:.3f} s, torch Conv3d {peer:.3f} s: {peer / ours:.1f} times as fast")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
