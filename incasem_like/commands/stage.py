"""What scripts that work on blocks as a tracked run share: their flags, the request and the options of the run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import Field
from typing import Any, ClassVar, Protocol, TypeVar

from incasem_like.commands.options import StoreChoice, add_record_flags, given_workers, record_options
from incasem_like.terminal import add_worker_flags, report_written
from incasem_like.tracking.kinds import singular


class Request(Protocol):
    """A dataclass whose fields are named as the flags of a script."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


R = TypeVar("R", bound=Request)


def add_segmentation_flags(parser: argparse.ArgumentParser, output: str) -> None:
    """Add the flags of a script that makes a folder of a segmentation; ``output`` says what the folder holds."""
    add = parser.add_argument
    add("-s", "--segmentation", required=True, metavar="ZARR/DS", help="instance labels, 0 = background")
    add("-o", "--output", required=True, metavar="DIR", help=output)


def add_run_flags(parser: argparse.ArgumentParser, overwrite: str | None = None) -> None:
    """Add ``--overwrite`` if its meaning is given, and the flags of the workers, the run and its record.

    The script's own flags come first, since they take precedence.
    """
    if overwrite is not None:
        parser.add_argument("--overwrite", action="store_true", help=overwrite)
    add_worker_flags(parser)
    add_record_flags(parser)


def read_flags(request: type[R], arguments: argparse.Namespace) -> R:
    """Return a request whose fields are the flags of the same names; lists become tuples.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Crop:
        ...     shape: tuple[int, ...]
        >>> read_flags(Crop, argparse.Namespace(shape=[1, 2, 3], debug=False))
        Crop(shape=(1, 2, 3))
    """
    given = {name: getattr(arguments, name) for name in request.__dataclass_fields__}
    return request(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def run_options(arguments: argparse.Namespace, kind: str, *, lookups: bool = False) -> dict[str, Any]:
    """Return the options of the run and of the work on blocks that the flags of ``add_run_flags`` give.

    Args:
        arguments: The flags.
        kind: Kind of run.
        lookups: Whether the run looks other runs up, with the option ``open_store``.

    Raises:
        InputError, ConfigError: As ``record_options`` and ``given_workers``.
    """
    names = ("num_workers", "overwrite")
    options = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    options["workers"] = given_workers(arguments)
    if lookups:
        options["open_store"] = StoreChoice.from_arguments(arguments).open
    return options | record_options(arguments, kind)


def report_run(result: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Print the id of the run and its store, unless no record was kept.

    Args:
        result: What the run returned.
        options: Those of ``run_options``.
    """
    if (store := options["store"]) is not None:
        report_written(f"{singular(store.kind)} run {result['run_id']}", store.description)
