"""What a run store does for runs that move: give all that a run consists of, and take a run in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from incasem_like.tracking.transfer.portable import PortableRun, RenewedIds


class RunExchange(ABC):
    """The part of a store by which runs leave and come in."""

    @abstractmethod
    def read_stored(self, run_id: int, what: Literal["sources", "resources"]) -> Iterator[tuple[str, bytes | None]]:
        """Read the sources or resources of a run, in the order of its document.

        Yields:
            Name and content; None for what is lost, or was never stored: Sacred's own observer stores no resources in
            MongoDB.
        """

    @abstractmethod
    def read_metric_documents(self, run_id: int) -> dict[str, dict[str, Any]]:
        """Read a run's metrics as the store holds them: steps, values, timestamps, perhaps stride and count, by name.

        Unlike ``read_metrics`` this leaves the log alone, so it has at most as many points as the store keeps.
        """

    @abstractmethod
    def is_free(self, run_id: int) -> bool:
        """Say whether a run can have this id: there is none of it, and nothing is left of a deleted one."""

    @abstractmethod
    def receive(
        self, portable: PortableRun, wanted: int | None, id_above: int, renew: Callable[[int], RenewedIds]
    ) -> int:
        """Take an exported run in; it is in sight when all of it is there.

        Args:
            portable: The run.
            wanted: The id that it is to have; None for the next one, above all that ever were.
            id_above: The next one is above this too.
            renew: Asked, with its id, for what it says of itself by ids of runs and paths, as these are here.

        Returns:
            Its id.

        Raises:
            InputError: There is a run of the wanted id.
            StoreError: The store cannot be written.
        """

    @abstractmethod
    def half_received(self) -> dict[int, float]:
        """List the runs that were being started or taken in and are not in sight: id, seconds since it last changed."""

    @abstractmethod
    def free_half_received(self, run_id: int) -> None:
        """Free what there is of such a run, which nobody may be writing any more.

        Raises:
            StoreError: The store cannot be written.
        """
