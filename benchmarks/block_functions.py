"""What the blocks of ``bench_blockwise.py`` do, in a module of its own so that the workers of both engines find it."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import daisy

from incasem_like.blockwise import Block

WAIT = 0.005
GAPS = "BENCH_BLOCKWISE_GAPS"  # folder where workers note the time between two of their blocks


def nothing(block: Block, parameters: Mapping[str, Any]) -> None:
    """Do nothing with a block."""


class _Gaps:
    """Notes, in a file of this process, the time from the end of one block to the begin of the next."""

    def __init__(self) -> None:
        self._file = os.open(Path(os.environ[GAPS]) / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._ended = 0.0

    def wait(self) -> None:
        began = time.perf_counter()
        if self._ended:
            os.write(self._file, struct.pack("d", began - self._ended))
        time.sleep(WAIT)
        self._ended = time.perf_counter()


@cache
def gaps_of(pid: int) -> _Gaps:
    return _Gaps()


def wait(block: Block, parameters: Mapping[str, Any]) -> None:
    """Take a known time for a block."""
    gaps_of(os.getpid()).wait()


def daisy_nothing(block: daisy.Block) -> None:
    """Do nothing with a block of daisy's."""


def daisy_wait(block: daisy.Block) -> None:
    """Take a known time for a block of daisy's."""
    gaps_of(os.getpid()).wait()
