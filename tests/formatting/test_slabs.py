"""Slabs in memory and through a file give the same bands."""

import numpy as np
import pytest

from incasem_like.formatting.conversions import Conversion
from incasem_like.formatting.import_sections import SlabReader
from incasem_like.formatting.sections import find_sections


@pytest.mark.parametrize("memory", [0, 10**9])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_bands_are_the_box_converted(write_sections, grey, tmp_path, memory, dtype):
    sequence = find_sections(write_sections(grey))
    reader = SlabReader(sequence, Conversion(dtype, invert=True), band_rows=8, memory=memory, scratch=tmp_path)
    box = (slice(3, 11), slice(5, 26), slice(2, 20))
    bands = list(reader.bands(box))
    assert [row for row, _ in bands] == [5, 13, 21]
    inverted = (255 - grey[box]).astype(dtype)
    np.testing.assert_array_equal(np.concatenate([band for _, band in bands], axis=1), inverted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sections"]


def test_each_file_is_decoded_once(write_sections, grey, tmp_path, monkeypatch):
    sequence = find_sections(write_sections(grey))
    opened = []
    from incasem_like.formatting import tiff_sections

    original = tiff_sections._opened
    monkeypatch.setattr(tiff_sections, "_opened", lambda path: opened.append(path) or original(path))
    for memory in (0, 10**9):
        opened.clear()
        reader = SlabReader(sequence, Conversion("uint8"), band_rows=4, memory=memory, scratch=tmp_path)
        list(reader.bands((slice(0, 20), slice(0, 30), slice(0, 26))))
        assert len(opened) == len(set(opened)) == 20
