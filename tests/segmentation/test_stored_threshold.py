"""Thresholds in stored units against exact fractions."""

from fractions import Fraction

import numpy as np
import pytest

from incasem_like.segmentation.threshold import stored_threshold


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_least_integer_that_reaches_the_threshold(dtype):
    top = int(np.iinfo(dtype).max)
    for percent in range(0, 101):
        level = stored_threshold(percent / 100, np.dtype(dtype), top)
        assert Fraction(level, top) >= Fraction(percent, 100)
        assert level == 0 or Fraction(level - 1, top) < Fraction(percent, 100)


def test_floats_compare_in_their_own_precision():
    for dtype in (np.float16, np.float32, np.float64):
        assert dtype(0.7) >= stored_threshold(0.7, np.dtype(dtype), 1)
        assert np.nextafter(dtype(0.7), dtype(0)) < stored_threshold(0.7, np.dtype(dtype), 1)
