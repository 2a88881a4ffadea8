"""Two-photon imaging of a synthetic volume: resolution, neuropil, plateau, photon noise, contrast, 8 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter1d

from incasem_like.synthetic.parameters import OpticLobeParameters

Array32 = npt.NDArray[np.float32]
TINY = 1e-30  # avoids division by zero in an empty volume
REFERENCE_SIDE = 128  # voxels; lengths of the imaging parameters refer to this longest side


def image(dye: Array32, parameters: OpticLobeParameters, rng: np.random.Generator) -> Array32:
    """Simulate the signal of a two-photon microscope.

    Box blur; division by the 99th percentile; neuropil (the blurred volume itself, weighted) and a plateau added;
    Poisson noise of a photon count; Gaussian read-out noise; contrast changed in the log domain.

    Args:
        dye: Dye per voxel, shape (z, y, x).
        parameters: Ranges to draw from; lengths scale with the longest side.
        rng: Source of all randomness.

    Returns:
        float32, same shape, 0 or above.
    """
    scale = max(dye.shape) / REFERENCE_SIDE
    signal = _box(dye, max(1, round(parameters.box_size * scale)))
    signal /= np.float32(max(_percentile(signal, 99.0), TINY))
    neuropil = _gaussian(signal, parameters.neuropil_sigma * scale)
    signal += neuropil * np.float32(rng.uniform(*parameters.neuropil_weight)) + np.float32(parameters.plateau)
    np.maximum(signal, 0, out=signal)
    signal *= np.float32(rng.integers(*parameters.photons, endpoint=True))
    photons = rng.poisson(signal).astype(np.float32)
    photons += rng.standard_normal(photons.shape, dtype=np.float32) * np.float32(np.log(photons + 1e-5).std() / 10)
    np.maximum(photons, 0, out=photons)
    logarithm = np.log(photons + np.float32(1e-7))
    middle = logarithm.mean(dtype=np.float64)
    return np.asarray(np.exp((logarithm - middle) * rng.uniform(*parameters.contrast) + middle), dtype=np.float32)


def to_uint8(signal: Array32, percentiles: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Scale so that the low and high percentile become 0 and 255, clip and round."""
    low, high = (_percentile(signal, share) for share in percentiles)
    scaled = (signal - np.float32(low)) * np.float32(255 / max(high - low, TINY))
    return np.asarray(np.rint(np.clip(scaled, 0, 255)), dtype=np.uint8)


def _percentile(signal: Array32, share: float) -> float:
    return float(np.percentile(signal, share))


def _box(array: Array32, size: int) -> Array32:
    for axis in range(array.ndim):
        array = uniform_filter1d(array, size, axis=axis, mode="constant")
    return np.array(array, dtype=np.float32)


def _gaussian(array: Array32, sigma: float) -> Array32:
    """Blur with a Gaussian of ``sigma`` voxels by three running means of the same total variance; cost is constant."""
    size = max(1, round((4 * sigma**2 + 1) ** 0.5))
    for _ in range(3):
        array = _box(array, size)
    return array
