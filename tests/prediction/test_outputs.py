import numpy as np
import pytest

from incasem_like.prediction.outputs import most_probable


@pytest.mark.parametrize("classes", [2, 5])
def test_the_class_map_holds_the_first_of_the_most_probable_classes(classes):
    generator = np.random.default_rng(0)
    # Few different values, so that there are ties.
    probabilities = generator.integers(0, 4, (classes, 6, 7, 8)).astype(np.float32) / 4
    before = probabilities.copy()
    found = most_probable(probabilities)
    assert found.dtype == np.uint8
    assert np.array_equal(found, probabilities.argmax(axis=0))
    assert np.array_equal(probabilities, before)
