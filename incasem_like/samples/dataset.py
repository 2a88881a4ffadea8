"""Training samples as a map-style dataset: sample i is a function of the run's seed and i."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from torch.utils.data import Dataset, get_worker_info

from incasem_like.config import DataConfig, TrainingConfig
from incasem_like.samples.opening import open_regions
from incasem_like.samples.settings import SampleSettings

if TYPE_CHECKING:
    from incasem_like.samples.making import SampleMaker

Sample = dict[str, Any]
MEMORY_BYTES = 2 << 30
MAX_LENGTH = 1 << 62


class TrainingSamples(Dataset[Sample]):
    """Random augmented blocks of the regions of a data configuration.

    Sample i depends on (seed, i) alone, bit for bit: not on the process that makes it, nor on the samples made before.
    Pickles only its parameters; volumes are opened and the pipeline is built at the first sample, in the process that
    makes it.

    A sample is a dict:

    - ``raw`` (1, z, y, x) float32 in [-1, 1], of the input size; beyond the raw volume it is mirrored.
    - ``labels`` (z, y, x) uint8 class ids, of the output size, centred in raw.
    - ``mask`` (z, y, x) uint8; 0 = voxel doesn't count: masked, or beyond the region.
    - ``instances`` (z, y, x) int64 ids, if a target is made of them: as stored, or of several classes with an offset.
    - ``targets``: by name, ``target`` and ``weight`` as `Target.make` returns them, computed after augmentation.
    - ``info``: ``index``; ``region`` (position in the data configuration); ``offset`` and ``shape`` (z, y, x) of the
      raw that was read for the augmented block, nm; ``class_fractions`` (classes) float32, shares of the voxels inside
      the mask.
    """

    def __init__(
        self, data_config: DataConfig, settings: SampleSettings, seed: int, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        """Store the parameters; nothing is opened.

        Args:
            data_config: Regions to sample from.
            settings: Parameters of the samples.
            seed: The run's seed, at least 0.
            memory_bytes: Memory in which all worker processes together may cache raw and labels of small regions.
        """
        self.data_config, self.settings, self.seed, self.memory_bytes = data_config, settings, seed, memory_bytes
        self._maker: SampleMaker | None = None

    @classmethod
    def from_config(cls, config: TrainingConfig, data_config: DataConfig, seed: int) -> Self:
        """Build the dataset of a training."""
        return cls(data_config, SampleSettings.from_config(config), seed)

    def __len__(self) -> int:
        """Return a practically infinite length, which torch requires of a map-style dataset."""
        return MAX_LENGTH

    def __getitem__(self, index: int) -> Sample:
        """Make a sample.

        Raises:
            DataError: The data configuration cannot be opened, or no position in it is acceptable.
        """
        if self._maker is None:
            self._maker = self._build()
        return self._maker.make(self.seed, index)

    def _build(self) -> SampleMaker:
        from incasem_like.samples.making import SampleMaker

        settings = self.settings
        regions = open_regions(
            self.data_config,
            num_classes=settings.num_classes,
            voxel_size=settings.voxel_size,
            need_labels=True,
            downsample_factor=settings.downsample_factor,
        )
        worker = get_worker_info()
        return SampleMaker(regions, settings, self.memory_bytes // (worker.num_workers if worker else 1))

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without open volumes and the pipeline."""
        return {**self.__dict__, "_maker": None}
