"""Operations that make one dataset from another: input, output and result."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from incasem_like.blockwise import BlockTask, create_or_resume_output, run_blockwise
from incasem_like.blockwise.workers_file import Workers, given_workers
from incasem_like.formatting.workers import useful_workers
from incasem_like.terminal import report_written
from incasem_like.volumes import Volume, check_outputs, make_provenance, open_volume, parse_address


@dataclass(frozen=True)
class Derivation:
    """One dataset made from another of the same container, voxel by voxel.

    Attributes:
        container: Container of both datasets.
        dataset: The dataset to read.
        out_dataset: The dataset to write, uint8, of the same shape and offset.
        chunk_shape: Chunk shape of the output, voxels.
        num_workers: Maximum number of processes.
        overwrite: Replace an existing output.
        cluster: Workers of a workers file, instead of local processes.
    """

    container: str
    dataset: str
    out_dataset: str
    chunk_shape: tuple[int, int, int] = (128, 128, 128)
    num_workers: int = 1
    overwrite: bool = False
    cluster: Workers | None = None

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        """Build it from the arguments that all scripts of derived datasets share.

        Raises:
            ConfigError: The workers file is invalid.
        """
        return cls(
            arguments.filename,
            arguments.dataset,
            arguments.out_dataset,
            tuple(arguments.chunk_shape),
            arguments.num_workers,
            arguments.overwrite,
            given_workers(arguments),
        )

    def open_source(self) -> Volume:
        """Open the input.

        Raises:
            DataError: The input is missing, incomplete, or has channels.
            InputError: The output would replace the input.
        """
        source = open_volume(self.container, self.dataset)
        source.require_zyx()
        check_outputs(
            [parse_address(self.container, self.out_dataset)], [source.address], "choose another --out_dataset"
        )
        return source

    def open_output(self, source: Volume, tool: str, parameters: Mapping[str, Any]) -> Volume:
        """Create the output, or open the one that an earlier call began.

        Raises:
            InputError: Another dataset exists there, without ``overwrite``.
        """
        return create_or_resume_output(
            self.container,
            self.out_dataset,
            shape=source.shape,
            dtype=np.uint8,
            voxel_size=source.voxel_size,
            offset=source.offset,
            chunk_shape=self.chunk_shape,
            provenance=make_provenance(tool, parameters, [source]),
            overwrite=self.overwrite,
        )

    def workers(self, source: Volume) -> int:
        """Return the useful number of processes."""
        return useful_workers(self.num_workers, int(np.prod(source.shape)))

    def run(self, task: BlockTask, source: Volume, description: str) -> DatasetWritten:
        """Fill the output block by block, on the requested workers.

        Raises:
            IncasemError: As ``run_blockwise``.
        """
        summary = run_blockwise(task, num_workers=self.workers(source), workers=self.cluster, description=description)
        return DatasetWritten(str(task.output.address), summary.already_complete)


@dataclass(frozen=True)
class DatasetWritten:
    """A dataset that has been written.

    Attributes:
        address: Address of the dataset.
        already_complete: Whether an earlier call had written it.
        note: Further information for the user, such as ignored files; may be empty.
    """

    address: str
    already_complete: bool
    note: str = ""

    def report(self, what: str, next_command: str | None) -> None:
        """Print what was written, or that it existed already, and the next command."""
        if self.note:
            print(self.note)
        if self.already_complete:
            print(f"Already complete: {self.address}")
            if next_command:
                print(f"Next: {next_command}")
        else:
            report_written(what, self.address, next_command)
