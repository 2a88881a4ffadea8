"""Randomness of one sample: generators that depend only on the run's seed and the sample's number."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class SampleRandomness:
    """Provides each step of a pipeline with its own generator for the current sample.

    Steps don't share a stream, so the number of draws of one step (a position rejected, an augmentation switched off)
    does not affect the others.
    """

    def __init__(self) -> None:
        self.seed = 0
        self.index = 0

    def begin(self, seed: int, index: int) -> None:
        """Start sample number ``index`` of the run with this seed."""
        self.seed, self.index = seed, index

    def generator(self, step: str) -> np.random.Generator:
        """Make the generator of one step for the current sample."""
        return np.random.default_rng([self.seed, self.index, zlib.crc32(step.encode())])


@contextmanager
def global_randomness_kept() -> Iterator[None]:
    """Restore Python's and numpy's global random state afterwards: gunpowder reseeds both at every request."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
