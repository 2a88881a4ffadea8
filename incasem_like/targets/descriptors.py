"""Local shape descriptors: statistics of the part of an object that lies near each of its voxels.

Sheridan et al. 2023, "Local shape descriptors for neuron segmentation", Nature Methods 20. Numbers equal those of the
authors' package ``lsds``, but for its rounding, and three values that it does not mean: its sphere lacks the voxels at
+sigma, and its size there is a count clipped to 1; voxels whose object has no sampled voxel near when downsampled get
size 1 there, 0 here; and foreground that ``labels`` leaves out has offset and correlation 1/2 there, 0 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray

from incasem_like.targets.descriptor_window import Mode, find_channels, find_region, find_window
from incasem_like.volumes import Roi

if TYPE_CHECKING:
    import torch

Labels = TypeVar("Labels", NDArray[Any], "torch.Tensor")


def local_shape_descriptors(
    instances: Labels,
    sigma: float | Sequence[float],
    voxel_size: float | Sequence[float] = 1.0,
    *,
    components: Sequence[int] | str | None = None,
    mode: Mode = "gaussian",
    downsample: int = 1,
    roi: Roi | None = None,
    labels: Sequence[int] | None = None,
    axes: Sequence[int] | None = None,
) -> Labels:
    """Return the local shape descriptors of each voxel.

    With m the mask of the object that voxel p lies in, g a Gaussian of standard deviation sigma cut at 3 sigma, of sum
    1, and all sums over voxels q of the array (0 beyond it):

    - mass ``c = sum g(q - p) m(q)``; mean ``mu = sum g(q - p) m(q) (q - p) / c``;
    - covariance ``S = sum g(q - p) m(q) (q - p)(q - p)^T / c - mu mu^T``; variances ``v_d = max(S_dd, 0.001)``.

    ===============  ======  ==============================  ==================================
    channels in 3-D  in 2-D  name                            value, clipped to [0, 1]
    ===============  ======  ==============================  ==================================
    0 1 2            0 1     mean offset z, y, x             ``mu_d / sigma_d / 2 + 1/2``
    3 4 5            2 3     variance                        ``v_d / sigma_d^2``
    6 7 8            4       Pearson correlation zy, zx, yx  ``S_de / sqrt(v_d v_e) / 2 + 1/2``
    9                5       size                            ``c``
    ===============  ======  ==============================  ==================================

    All lengths are in world units, also the floor of the variance. In the mode ``sphere`` g is 1 where
    ``sum_d ((q - p)_d / sigma_d)^2 <= 1`` and 0 elsewhere, offsets are divided by ``sigma_d / 2`` instead, and the size
    is the share of the sphere that the object fills.

    Args:
        instances: Instance ids of any integer dtype, (z, y, x) or (y, x), 0 = background. A tensor's descriptors are
            computed on its device; on the CPU with one thread, so that they don't depend on the number of threads.
        sigma: Radius of the neighbourhood in world units: a number, or one per used axis.
        voxel_size: World units per voxel: a number, or one per axis of the array.
        components: The channels to return, as numbers or as digits like ``"0129"``; None: all.
        mode: Neighbourhood, see above.
        downsample: Take every n-th voxel along the used axes and repeat its descriptors n times; much faster.
        roi: Part of the array, in voxels, to return descriptors of; what surrounds it still counts. Needed around it:
            3 sigma, in the mode ``sphere`` sigma.
        labels: Ids of the objects to describe; None: all.
        axes: ``(1, 2)``: the 2-D descriptors of each section of a stack by itself. None: all axes of the array.

    Returns:
        float32 (channels, \\*shape), values 0 to 1; 0 in all channels outside of objects. `DESCRIPTOR_NAMES`
        names the channels.

    Raises:
        InputError: Ids that are not integers; an array that is not 2-D or 3-D; wrong axes, channels or mode; sigma or
            voxel size with another number of values; sigma below one voxel; a ROI that is not inside the array or not
            a multiple of ``downsample``.

    Example:
        >>> import numpy as np
        >>> from incasem_like.targets import DESCRIPTOR_NAMES
        >>> y, x = np.mgrid[-6:7, -6:7]
        >>> disc = (y**2 + x**2 <= 16).astype(np.uint8)
        >>> described = local_shape_descriptors(disc, sigma=3)
        >>> [f"{name} {value:.2f}" for name, value in zip(DESCRIPTOR_NAMES[2], described[:, 6, 6])]
        ['offset_y 0.50', 'offset_x 0.50', 'variance_y 0.37', 'variance_x 0.37', 'pearson_yx 0.50', 'size 0.58']
    """
    from incasem_like.targets.descriptor_moments import describe  # torch is slow to load

    window = find_window(instances.ndim, axes, sigma, voxel_size, mode, downsample)
    channels = find_channels(components, len(window.axes))
    described: Labels = describe(instances, window, channels, find_region(roi, instances.shape, window.steps), labels)
    return described
