"""What the blocks of ``bench_blockwise.py`` do, in a module of its own so that workers find it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from incasem_like.blockwise import Block


def nothing(block: Block, parameters: Mapping[str, Any]) -> None:
    """Do nothing with a block."""


def wait(block: Block, parameters: Mapping[str, Any]) -> None:
    """Take a known time for a block."""
    time.sleep(parameters["seconds"])
