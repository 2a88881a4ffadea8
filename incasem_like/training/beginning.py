"""The state that a training begins with: random weights, another training's checkpoint, or its own last one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from incasem_like.errors import ConfigError
from incasem_like.training.checkpoints import CheckpointFolder
from incasem_like.training.continuing import Resumption, check_same_data, find_resumption
from incasem_like.training.first_network import find_first_network
from incasem_like.training.folders import RunFolders
from incasem_like.training.start import StartingPoint, find_start

if TYPE_CHECKING:
    from incasem_like.tracking import Continuation, RunRecord, RunStore
    from incasem_like.training.preflight import CheckedTraining


@dataclass(frozen=True)
class Beginning:
    """The state that a training begins with.

    Attributes:
        start: The checkpoint of another training, for the first iteration; None for random weights.
        resumption: The checkpoint that the run resumes from; None for a new run.
        first: The weights of the frozen first network of an AutoContext that does not start from a checkpoint.
    """

    start: StartingPoint | None = None
    resumption: Resumption | None = None
    first: StartingPoint | None = None

    @property
    def iteration(self) -> int:
        """The last finished iteration."""
        return 0 if self.resumption is None else self.resumption.iteration

    @property
    def lineage(self) -> dict[str, Any]:
        """Where weights come from; empty for random ones."""
        origin = self.start or self.first
        return {} if origin is None else origin.lineage


class BeginningFinder:
    """Finds a training's beginning: before anything is written, and again once a resumed run has been claimed.

    Args:
        checked: The configuration.
        trainings: Opens the store of the training that ``training.start_from`` names.
        continued: The run to resume; None for a new one.
        repeats: The run whose configuration is repeated, if any.

    Attributes:
        found: The beginning.

    Raises:
        InputError: The requested beginning cannot be found (see ``start.find_start``, ``continuing.find_resumption``).
    """

    def __init__(
        self,
        checked: CheckedTraining,
        trainings: Callable[[], RunStore],
        continued: RunRecord | None,
        repeats: RunRecord | None = None,
    ) -> None:
        self._checked, self._trainings, self._continued, self._repeats = checked, trainings, continued, repeats
        if continued is not None:
            check_same_data(continued, checked)
        self.found = self._find(continued)

    @property
    def leaves_nothing_to_do(self) -> bool:
        """Whether the run is recorded as completed, and has had all its iterations or stopped early as it would now."""
        if self._continued is None or self._continued.status != "COMPLETED":
            return False
        wanted, before = self._checked.config.training, self._continued.config.get("training") or {}
        stopped_early = self.found.iteration < int(before.get("iterations") or 0)
        patience = wanted.early_stopping
        stops_again = stopped_early and patience is not None and patience <= (before.get("early_stopping") or 0)
        return stops_again or self.found.iteration == wanted.iterations

    @property
    def continuation(self) -> Continuation | None:
        """The continuation as the run's record stores it; None for a new run."""
        from incasem_like.tracking import Continuation

        return None if self._continued is None else Continuation(self._continued.id, self._find_again)

    def _find_again(self) -> int:
        assert self._continued is not None
        self.found = self._find(self._continued.store.get(self._continued.id))
        return self.found.iteration

    def _find(self, continued: RunRecord | None) -> Beginning:
        config = self._checked.config
        if continued is None:
            return self._new(self._repeats)
        folders = RunFolders.of_run(config.directories.runs, continued.id)
        resumption = find_resumption(continued, CheckpointFolder(folders.models))
        if resumption.iteration > config.training.iterations:
            raise ConfigError(
                f"Run {continued.id} has had {resumption.iteration} iterations, but training.iterations is "
                f"{config.training.iterations}: raise it to continue the run."
            )
        if resumption.iteration:
            return Beginning(resumption=resumption)
        return replace(self._new(continued), resumption=resumption)

    def _new(self, earlier: RunRecord | None) -> Beginning:
        config = self._checked.config
        start = find_start(config, self._trainings)
        return Beginning(start, first=find_first_network(config, self._trainings, earlier) if start is None else None)
