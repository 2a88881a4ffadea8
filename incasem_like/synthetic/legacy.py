"""HDF5 files of the original optic-lobe generator: many volumes in one file, axes x, y, z, values float16.

``vol_data`` and ``vol_labels`` have the shape (volumes, x, y, z); ``points`` (middles of columns, in units of the
volume's side), ``e_r``, ``e_theta`` and ``e_phi`` hold one flattened row of (n, 3) numbers per volume.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from incasem_like.blockwise import WorkItem
from incasem_like.blockwise.ledger import LedgerTask
from incasem_like.errors import DataError, InputError
from incasem_like.synthetic.images import ColumnImages
from incasem_like.synthetic.optic_lobe import check_shape, generate_optic_lobe
from incasem_like.synthetic.parameters import OpticLobeParameters
from incasem_like.synthetic.writing import check_seed
from incasem_like.volumes import make_provenance

FRAME = ("e_phi", "e_theta", "e_r")
SIDE = 128
PUBLISHED = {  # name: volumes, seed
    "vol_train_set1.h5": (512, 0),
    "vol_train_set2.h5": (512, 512),
    "vol_train_set3.h5": (512, 1024),
    "vol_train_set4.h5": (512, 1536),
    "vol_val_set.h5": (64, 9999),
}


@dataclass(frozen=True)
class LegacyVolume:
    """One volume of such a file, axes z, y, x.

    Attributes:
        raw: Intensities, float32.
        mask: uint8, 1 in a column.
        middles: Middle of each column, (n, 3), in units of the volume's side.
        frames: Local frame of each column, (n, 3, 3), rows ``e_phi, e_theta, e_r``.
    """

    raw: npt.NDArray[np.float32]
    mask: npt.NDArray[np.uint8]
    middles: npt.NDArray[np.float32]
    frames: npt.NDArray[np.float32]


class LegacyVolumes(Sequence[LegacyVolume]):
    """The volumes of several files, read one at a time.

    Args:
        *paths: The files, in order.

    Raises:
        DataError: A file is missing, damaged or of another kind.

    Example:
        >>> from pathlib import Path
        >>> from incasem_like.synthetic.legacy import LegacyVolumes, make_file
        >>> _ = make_file(Path("small.h5"), 2, seed=1, side=12)
        >>> volumes = LegacyVolumes("small.h5")
        >>> len(volumes), volumes[1].raw.shape
        (2, (12, 12, 12))
        >>> image, mask = volumes.crop(0, 8, np.random.default_rng(0))
        >>> image.shape, float(image.max())
        ((8, 8, 8), 1.0)
    """

    def __init__(self, *paths: str | Path) -> None:
        self.paths = [Path(path) for path in paths]
        self._ends = np.cumsum([self._count(path) for path in self.paths])

    @staticmethod
    def _count(path: Path) -> int:
        try:
            with h5py.File(path) as file:
                shapes = {name: file[name].shape for name in ("vol_data", "vol_labels")}
        except (OSError, KeyError) as error:
            raise DataError(f"{path} cannot be read as a file of the optic-lobe generator: {error}.") from error
        if shapes["vol_data"] != shapes["vol_labels"] or len(shapes["vol_data"]) != 4:
            raise DataError(f"{path} holds {shapes}, but both must have the same four axes: it is damaged.")
        return int(shapes["vol_data"][0])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Any:
        """Return one volume, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"volume {index} of {len(self)}")
        which = int(np.searchsorted(self._ends, number, side="right"))
        row = number - (int(self._ends[which - 1]) if which else 0)
        with h5py.File(self.paths[which]) as file:
            raw, mask = (file[name][row].transpose(2, 1, 0) for name in ("vol_data", "vol_labels"))
            empty = np.zeros(0, np.float32)
            points, *frame = (
                (file[name][row] if name in file else empty).astype(np.float32).reshape(-1, 3)[:, ::-1]
                for name in ("points", *FRAME)
            )
        return LegacyVolume(raw.astype(np.float32), (mask > 0).astype(np.uint8), points, np.stack(frame, axis=1))

    def crop(
        self, index: int, side: int, rng: np.random.Generator, most_background: float = 1.0, attempts: int = 1000
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Return a random crop and its mask, the crop's percentiles 1 and 99 scaled to 0 and 1.

        Args:
            index: Number of the volume.
            side: Side of the crop, voxels.
            rng: Source of randomness.
            most_background: The crop's share of background stays below this; 1 allows all but pure background.
            attempts: Crops that are tried.

        Raises:
            DataError: The volume is smaller, or no crop has so little background.
        """
        volume = self[index]
        if min(volume.raw.shape) < side:
            raise DataError(f"Volume {index} has the shape {list(volume.raw.shape)}, smaller than a crop of {side}.")
        for _ in range(attempts):
            begin = [int(rng.integers(0, size - side + 1)) for size in volume.raw.shape]
            z, y, x = (slice(low, low + side) for low in begin)
            if (volume.mask[z, y, x] == 0).mean() < most_background:
                values = volume.raw[z, y, x]
                low, high = np.percentile(values, (1, 99))
                scaled = ((values - low) / max(high - low, 1e-30)).clip(0, 1)
                return scaled.astype(np.float32), volume.mask[z, y, x]
        raise DataError(f"None of {attempts} crops of volume {index} has less than {most_background:g} background.")


def make_file(
    path: Path,
    count: int,
    *,
    seed: int,
    side: int = SIDE,
    parameters: OpticLobeParameters | None = None,
    overwrite: bool = False,
    **run: Any,
) -> bool:
    """Generate volumes and write them into one file, which appears when all are done.

    Args:
        path: The file.
        count: Number of volumes, each made by one worker.
        seed: Seed of the family.
        side: Side of each volume, voxels.
        parameters: Parameters to draw from; None for those of the original recipe.
        overwrite: Replace a file that is there.
        **run: ``num_workers`` and ``workers`` of ``run_blockwise``.

    Returns:
        Whether an earlier call had written it.

    Raises:
        InputError: Another file is there, or a number is not valid.
    """
    check_shape((side,) * 3)
    if count < 1:
        raise InputError(f"--num_volumes is {count}: give 1 or more.")
    chosen = (parameters or OpticLobeParameters()).model_dump(mode="json")
    record = json.loads(json.dumps({"count": count, "seed": seed, "side": side, "parameters": chosen}))
    if path.exists() and not overwrite:
        if _record(path) == record:
            return True
        raise InputError(f"{path} exists and was made with other parameters: add --overwrite, or name another file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = path.with_name(f".{path.name}.parts")
    names = tuple(f"{path.stem} {number}" for number in range(count))
    task = LedgerTask("generate volumes", names, (), make_part, record, place=parts, unit="volumes")
    task.run(**run, description=f"Generating {path.name}")
    _assemble(path, [parts / f"{number}.npz" for number in range(count)], record)
    shutil.rmtree(parts)
    return False


def make_part(item: WorkItem, parameters: Mapping[str, Any]) -> None:
    """Generate one volume into the folder of the log."""
    volume = generate_optic_lobe(
        (parameters["side"],) * 3,
        seed=parameters["seed"],
        index=item.number,
        parameters=OpticLobeParameters.model_validate(parameters["parameters"]),
    )
    file = item.folder / f"{item.number}.npz"
    partial = file.with_suffix(".partial.npz")
    np.savez_compressed(partial, raw=volume.raw, mask=volume.mask, middles=volume.middles, frames=volume.frames)
    partial.replace(file)


def _assemble(path: Path, parts: Sequence[Path], record: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    rows = h5py.vlen_dtype(np.float16)
    shape = (len(parts), *(record["side"],) * 3)
    with h5py.File(partial, "w") as file:
        for name in ("vol_data", "vol_labels"):
            file.create_dataset(name, shape, np.float16, chunks=(1, *shape[1:]), compression="gzip", shuffle=True)
        for name in ("points", *FRAME):
            file.create_dataset(name, (len(parts),), rows)
        for number, part in enumerate(parts):
            with np.load(part) as volume:
                file["vol_data"][number] = volume["raw"].transpose(2, 1, 0)
                file["vol_labels"][number] = volume["mask"].transpose(2, 1, 0)
                file["points"][number] = volume["middles"][:, ::-1].astype(np.float16).ravel()
                for axis, name in enumerate(FRAME):
                    file[name][number] = volume["frames"][:, axis, ::-1].astype(np.float16).ravel()
        file.attrs["record"] = json.dumps(record)
        file.attrs["provenance"] = json.dumps(make_provenance("generate_optic_lobe", record))
    partial.replace(path)


def _record(path: Path) -> Any:
    try:
        with h5py.File(path) as file:
            return json.loads(file.attrs.get("record", "null"))
    except (OSError, ValueError):
        return None


def make_files(
    output: Path,
    form: str,
    published: bool,
    count: int,
    shape: tuple[int, int, int],
    seed: int,
    parameters: OpticLobeParameters,
    **options: Any,
) -> None:
    """Write the published sets into a folder, or one file of volumes or images, and print what was written.

    Args:
        output: Folder of the published sets, or the file.
        form: ``"h5"`` for volumes, ``"images"`` for 2-D images.
        published: Whether to write the published sets.
        count: Number of volumes or images in one file.
        shape: Shape of a volume, a cube, voxels.
        seed: Seed; added to those of the published sets.
        parameters: Parameters of the volumes.
        **options: ``num_workers``, ``workers`` and ``overwrite``, see ``make_file``.

    Raises:
        InputError: A number is not valid, or another file is there.
    """
    check_seed(seed)
    if len(set(shape)) > 1:
        raise InputError(f"--shape is {list(shape)}, but a .h5 holds cubes: give three equal numbers.")
    if form == "images" and not published:
        if options["overwrite"]:
            output.unlink(missing_ok=True)
        done = ColumnImages(count, seed, path=output).already_complete
        print(f"{'Already complete' if done else 'Wrote'}: {output}, {count} images")
        return
    files = {output / name: each for name, each in PUBLISHED.items()} if published else {output: (count, 0)}
    for path, (volumes, first) in files.items():
        done = make_file(path, volumes, seed=seed + first, side=shape[0], parameters=parameters, **options)
        print(f"{'Already complete' if done else 'Wrote'}: {path}, {volumes} volumes")
