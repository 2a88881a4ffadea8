"""Operations that make one dataset from another: where they read and write, and what they leave behind."""

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
        dataset: What is read.
        out_dataset: What is written, uint8, of the same shape and place in the world.
        chunk_shape: Chunks of what is written, voxels.
        num_workers: Processes, at most.
        overwrite: Replace what is there.
        cluster: Workers that write the result instead of those processes.
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
        """Take what the scripts of derived datasets ask for alike on their command lines.

        Raises:
            ConfigError: The workers file is wrong.
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
        """Open what is read.

        Raises:
            DataError: It is missing, incomplete, or has channels.
            InputError: It would be replaced by the result.
        """
        source = open_volume(self.container, self.dataset)
        source.require_zyx()
        check_outputs(
            [parse_address(self.container, self.out_dataset)], [source.address], "choose another --out_dataset"
        )
        return source

    def open_output(self, source: Volume, tool: str, parameters: Mapping[str, Any]) -> Volume:
        """Create what is written, or open what an earlier call began.

        Raises:
            InputError: Something else is there, without ``overwrite``.
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
        """Say how many processes are worth starting."""
        return useful_workers(self.num_workers, int(np.prod(source.shape)))

    def run(self, task: BlockTask, source: Volume, description: str) -> DatasetWritten:
        """Fill the output block by block, on the workers that were asked for.

        Raises:
            IncasemError: As ``run_blockwise``.
        """
        summary = run_blockwise(task, num_workers=self.workers(source), workers=self.cluster, description=description)
        return DatasetWritten(str(task.output.address), summary.already_complete)


@dataclass(frozen=True)
class DatasetWritten:
    """A dataset that is there now.

    Attributes:
        address: Where.
        already_complete: True when an earlier call had written it.
        note: What else is worth saying (files that were left out), or nothing.
    """

    address: str
    already_complete: bool
    note: str = ""

    def report(self, what: str, next_command: str | None) -> None:
        """Print what was written, or that it was there, and what to do next."""
        if self.note:
            print(self.note)
        if self.already_complete:
            print(f"Already complete: {self.address}")
            if next_command:
                print(f"Next: {next_command}")
        else:
            report_written(what, self.address, next_command)
