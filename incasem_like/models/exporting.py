"""A portable model made of a tracked training: its checkpoint, its description, and a tested crop."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from incasem_like import __version__
from incasem_like.config import load_data_config, resolve_training_config
from incasem_like.config.network_sections import OutputSection
from incasem_like.errors import ConfigError, IncasemError, RunNotFoundError
from incasem_like.models.portable import (
    TOLERANCE,
    Array,
    Citation,
    Description,
    Normalization,
    PortableModel,
    Sizes,
    Source,
    Test,
    network_with,
    predict_crop,
)
from incasem_like.networks import geometry_in_volumes, network_geometry, read_checkpoint
from incasem_like.samples import open_regions
from incasem_like.tracking.stores.records import choose_checkpoint
from incasem_like.volumes import Coordinate, Roi

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.tracking import RunRecord

# Output of the test crop in voxels along each axis: at least, and at most where it is enlarged to exceed the halo.
TESTED_EDGE, MOST_TESTED_EDGE = 16, 65
# What belongs to the machine and the data of the training, by section; None = the whole section.
_OWN = {
    "directories": None,
    "tracking": None,
    "sacred": None,
    "sources": None,
    "torch": None,
    "training": ("data", "start_from"),
    "validation": ("data",),
    "model": ("first_run_id", "first_checkpoint"),
}
INCASEM = Citation(
    text="Gallusser et al.: Deep neural network automated segmentation of cellular structures in volume electron "
    "microscopy, Journal of Cell Biology 2023",
    doi="10.1083/jcb.202208005",
)
_OF_TARGETS = {
    "lsd": Citation(
        text="Sheridan et al.: Local shape descriptors for neuron segmentation, Nature Methods 2023",
        doi="10.1038/s41592-022-01711-z",
    )
}
_OF_NETWORKS = {
    "Unet": Citation(
        text="Çiçek et al.: 3D U-Net: learning dense volumetric segmentation from sparse annotation, MICCAI 2016",
        doi="10.1007/978-3-319-46723-8_49",
    ),
    "AutoContext": _OF_TARGETS["lsd"],
    "StackedHourglass": Citation(
        text="Newell, Yang and Deng: Stacked hourglass networks for human pose estimation, ECCV 2016",
        doi="10.1007/978-3-319-46484-8_29",
    ),
}


@dataclass(frozen=True)
class Credits:
    """What the user adds to a model.

    Attributes:
        authors: Who trained it.
        license: SPDX identifier, such as CC-BY-4.0.
        citations: Text and DOI of what to cite besides the methods.
    """

    authors: tuple[str, ...] = ()
    license: str | None = None
    citations: tuple[tuple[str, str], ...] = ()


def portable_model(
    record: RunRecord, which: str | None = None, credits: Credits | None = None, *, with_data: bool = True
) -> PortableModel:
    """Make a portable model of a training run.

    Args:
        record: The run.
        which: ``best``, ``last``, an iteration or a file; None for the best, or the last where none was measured.
        credits: What to add.
        with_data: Whether the test crop is one of the validation or training data, if these are here; otherwise noise.

    Raises:
        CheckpointError: The checkpoint is missing or damaged, does not fit the run's network, or gives NaN.
        ConfigError: The network cannot be built, or returns another shape than it declares.
    """
    credits = credits or Credits()
    config = resolve_training_config(record.config)
    chosen = choose_checkpoint(record, which)
    state = {name: value.clone() for name, value in read_checkpoint(chosen.path).network_state.items()}
    network = network_with(config, state, str(chosen.path))
    geometry = geometry_in_volumes(network_geometry(config.model))
    size = geometry.input_for_output(
        [max(TESTED_EDGE, min(2 * halo + 1, MOST_TESTED_EDGE)) for halo in geometry.border]
    )
    noise = np.random.default_rng(0).integers(0, 256, (config.model.in_channels, *size), dtype=np.uint8)
    raw, tested = (_crop_of_data(config, size) if with_data else None) or (noise, "noise")
    expected = predict_crop(network, config, raw)
    shape = (config.model.num_fmaps_out, *geometry.output_size(size))
    if expected.shape != shape:
        raise ConfigError(
            f"The network returned the wrong shape for an input of {list(size)}: {list(expected.shape)} instead of "
            f"{list(shape)} (channels, voxels); correct the network, model.output_size or model.num_fmaps_out."
        )
    names = _class_names(record, config)
    description = Description(
        software=f"incasem-like {__version__}",
        name=record.name or f"run_{record.id}",
        voxel_size=tuple(edge * config.data.downsample_factor for edge in config.data.voxel_size),
        input_channels=config.model.in_channels,
        sizes=Sizes(
            smallest_input=geometry.smallest_input, step=geometry.stride, lost=geometry.lost, halo=geometry.border
        ),
        normalization=Normalization(divide_by={"uint8": 255, "uint16": 65535, "float": 1}, range=(-1, 1)),
        outputs=_outputs(config, names),
        class_names=names,
        training=Source(run_id=record.id, name=record.name, iteration=chosen.iteration, sha256=chosen.sha256),
        lineage=tuple(_lineage(record)),
        authors=credits.authors,
        license=credits.license,
        citations=tuple(dict.fromkeys(_citations(record, config, credits))),
        test=Test(source=tested, tolerance=TOLERANCE),
        config=_without_own(config.model_dump(mode="json")),
    )
    return PortableModel(description, state, raw, expected)


def _crop_of_data(config: TrainingConfig, size: Sequence[int]) -> tuple[Array, str] | None:
    """Return raw from the centre of the first region of validation, else of training, and its name; None without."""
    for path in filter(None, (config.validation.data, config.training.data)):
        try:
            return _centre(path, config, size)
        except IncasemError:  # it was trained elsewhere, or the data are gone
            continue
    return None


def _centre(path: Path, config: TrainingConfig, size: Sequence[int]) -> tuple[Array, str]:
    data = load_data_config(path, config.directories.data, voxel_size=config.data.voxel_size)
    region = open_regions(
        data.model_copy(update={"entries": data.entries[:1]}),
        num_classes=config.data.num_classes,
        voxel_size=config.data.voxel_size,
        need_labels=False,
        downsample_factor=config.data.downsample_factor,
        inputs=config.model.inputs or (),
    )[0]
    begin = region.roi.begin + (region.roi.shape - Coordinate(size)) // 2
    roi = Roi(begin, Coordinate(size))
    stored = region.read_stored_raw(roi, outside="reflect")
    region.normalised(stored)  # raises for floats beyond 0 to 1
    return stored.reshape(-1, *stored.shape[-3:]), f"raw of {region.name} from voxel {list(begin)}"


def _class_names(record: RunRecord, config: TrainingConfig) -> tuple[str, ...]:
    """Return the names of the label datasets that classes were learnt from; none where no classes are learnt."""
    if config.model.outputs is not None and all(target.type != "classes" for target in config.resolved_targets):
        return ()
    if (imported := record.info.get("portable")) is not None:
        return tuple(imported.get("class_names") or ())
    names = {0: "background"}
    for entry in _tracked_entries(record):
        for dataset, number in (entry.get("labels") or {}).items():
            names.setdefault(int(number), str(dataset).rstrip("/").rpartition("/")[2])
    return tuple(names.get(number, f"class_{number}") for number in range(config.data.num_classes))


def _outputs(config: TrainingConfig, class_names: Sequence[str]) -> tuple[OutputSection, ...]:
    """Return the groups of output channels; without targets they are classes."""
    if config.model.outputs is not None:
        return config.model.outputs
    attributes = {"target": "classes", "channel_names": list(class_names), "value_range": [0, 1]}
    channels = config.model.num_fmaps_out
    return (OutputSection(name="classes", channels=channels, activation="softmax", attributes=attributes),)


def _tracked_entries(record: RunRecord) -> list[Mapping[str, Any]]:
    """Return the entries of the data configuration that a run stored."""
    name = "training_data.json"
    try:
        entries = json.loads(record.artifact(name)) if name in record.artifacts else {}
    except (ValueError, RunNotFoundError):
        entries = {}
    return [entry for entry in entries.values() if isinstance(entry, Mapping)] if isinstance(entries, dict) else []


def _lineage(record: RunRecord) -> Iterator[Source]:
    """Yield the trainings that a run started from, then those that it came from where it was trained before."""
    seen = {record.id}
    while True:
        if (imported := record.info.get("portable")) is not None:
            yield from map(Source.model_validate, (imported["training"], *imported["lineage"]))
        parent = record.parent if isinstance(record.parent, Mapping) else {}
        number = parent.get("training_run_id")
        if not isinstance(number, int) or number in seen:
            return
        seen.add(number)
        before = record.store.find(number)
        name = "" if before is None else before.name
        sha256 = str(parent.get("sha256") or "")
        yield Source(run_id=number, name=name, iteration=parent.get("iteration"), sha256=sha256)
        if before is None:
            return
        record = before


def _citations(record: RunRecord, config: TrainingConfig, credits: Credits) -> Iterator[Citation]:
    yield from (Citation(text=text, doi=doi) for text, doi in credits.citations)
    imported = record.info.get("portable") or {}
    yield from (Citation.model_validate(one) for one in imported.get("citations") or ())
    if "model" in record.info:  # one of incasem's published models
        yield INCASEM
    methods = [_OF_TARGETS.get(target.type) for target in config.resolved_targets]
    yield from filter(None, [*methods, _OF_NETWORKS.get(config.model.type)])


def _without_own(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without what belongs to the machine or the data of the training."""
    kept = {key: value for key, value in values.items() if _OWN.get(key, ()) is not None}
    for section, keys in _OWN.items():
        if keys:
            kept[section] = {key: value for key, value in kept[section].items() if key not in keys}
    return kept
