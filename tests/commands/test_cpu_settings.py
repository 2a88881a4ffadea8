import os
import platform
import subprocess
import sys

import pytest

from incasem_like.commands.cpu_settings import use_huge_pages

STEPS = """
import resource, sys
from incasem_like.commands.cpu_settings import use_huge_pages
from incasem_like.processes import keep_freed_memory
use_huge_pages()
if sys.argv[1] == "keep":
    print("taken" if keep_freed_memory() else "not taken")
import torch
for step in range(40):
    torch.ones(12_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def run(mode: str, **environment: str) -> list[str]:
    command = [sys.executable, "-c", STEPS, mode]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_kept_memory_is_not_faulted_in_again():
    given_back = int(run("give_back", THP_MEM_ALLOC_ENABLE="0")[0])
    taken, kept = run("keep", THP_MEM_ALLOC_ENABLE="0")[:2]
    assert taken == "taken"
    # 40 tensors of 48 MB are 470,000 pages when each is mapped afresh, 12,000 when one piece of memory serves them all.
    assert int(kept) < given_back / 3


def test_what_the_environment_says_of_huge_pages_stays(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    use_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
