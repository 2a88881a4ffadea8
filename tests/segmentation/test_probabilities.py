"""Thresholds in stored units against the comparison of probabilities."""

import numpy as np
import pytest

from incasem_like.segmentation.probabilities import stored_threshold


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_least_integer_that_reaches_the_threshold(dtype):
    top = int(np.iinfo(dtype).max)
    candidates = np.concatenate([np.arange(101) / 100, np.arange(0, 256) / 255, np.arange(0, 65536, 97) / 65535])
    for exact in candidates:
        for threshold in (np.nextafter(exact, 0), exact, min(1.0, np.nextafter(exact, 1))):
            level = stored_threshold(float(threshold), np.dtype(dtype), top)
            assert level / top >= threshold
            assert level == 0 or (level - 1) / top < threshold


def test_floats_compare_in_their_own_precision():
    for dtype in (np.float16, np.float32, np.float64):
        assert dtype(0.7) >= stored_threshold(0.7, np.dtype(dtype), 1)
        assert np.nextafter(dtype(0.7), dtype(0)) < stored_threshold(0.7, np.dtype(dtype), 1)
