"""The operations of ``10_derive_volume.py`` by name, and the call that runs one and returns what was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from incasem_like.formatting.derive import DatasetWritten, Derivation, derive
from incasem_like.formatting.foreground_mask import label_components
from incasem_like.formatting.label_counts import partition
from incasem_like.formatting.operations import OPERATIONS

# These work in stages or write several outputs, and return what was written.
SEVERAL: dict[str, Callable[..., DatasetWritten | list[DatasetWritten]]] = {
    "components": label_components,
    "partition": partition,
}
COMMANDS: dict[str, Callable[..., Any]] = dict(sorted({**OPERATIONS, **SEVERAL}.items()))


def run_command(name: str, derivation: Derivation, **options: Any) -> list[DatasetWritten]:
    """Run an operation.

    Args:
        name: Its name in ``COMMANDS``.
        derivation: Source, output and workers.
        **options: Its keyword arguments.

    Raises:
        IncasemError: As the operation.
    """
    if name in OPERATIONS:
        return [derive(derivation, OPERATIONS[name], **options)]
    written = SEVERAL[name](derivation, **options)
    return written if isinstance(written, list) else [written]
