"""Training samples: regions, random positions, augmentation, loading."""

from incasem_like.samples.dataset import TrainingSamples
from incasem_like.samples.loader import SampleLoader, make_loader
from incasem_like.samples.opening import open_regions
from incasem_like.samples.regions import Region
from incasem_like.samples.settings import SampleSettings
from incasem_like.samples.synthetic import SyntheticSamples

__all__ = [
    "Region",
    "SampleLoader",
    "SampleSettings",
    "SyntheticSamples",
    "TrainingSamples",
    "make_loader",
    "open_regions",
]
