"""The training loop: iterations 1 to N, the work due after each, signals that end it, and exact resumption."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from incasem_like.errors import CheckpointError, IncasemError
from incasem_like.terminal import Progress, shown_path
from incasem_like.training.checkpoints import CheckpointFolder, CheckpointPolicy, iteration_of
from incasem_like.training.log import Step, TrainingLog
from incasem_like.training.optimization import WATCHED
from incasem_like.training.optimizers import Plateau, learning_rate
from incasem_like.training.state import BestMemory, TrainingState, random_states, restore_random_states

if TYPE_CHECKING:
    from incasem_like.config import TrainingConfig
    from incasem_like.training.optimization import Optimization


WINDOW = 50


class StepClock:
    """Times steps; call ``loaded`` when a batch has arrived and ``computed`` when its update is done."""

    def __init__(self) -> None:
        self._loading: deque[float] = deque(maxlen=WINDOW)
        self._computing: deque[float] = deque(maxlen=WINDOW)
        self._last = time.perf_counter()

    def restart(self) -> None:
        """Exclude the time since the last step (validation, a checkpoint)."""
        self._last = time.perf_counter()

    def loaded(self) -> None:
        """A batch has come."""
        self._loading.append(self._lap())

    def computed(self) -> None:
        """Its update is done."""
        self._computing.append(self._lap())

    @property
    def rate(self) -> float:
        """Iterations per second over the last steps."""
        seconds = sum(self._loading) + sum(self._computing)
        return len(self._computing) / max(seconds, 1e-9)

    def profile(self) -> str:
        """Return how the time of the last steps was spent, as a sentence."""
        count = max(len(self._computing), 1)
        loading, computing = sum(self._loading) / count, sum(self._computing) / count
        advice = "; more training.precache.num_workers would help" if loading > computing else ""
        return f"per iteration {loading:.3f} s waiting for samples, {computing:.3f} s computing{advice}"

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return seconds


NOTICE = b"\nStopping after this step; once more stops at once.\n"
STANDARD_ERROR = 2
ECHO_SECONDS = 5  # torchrun passes a ctrl-C on that the terminal sent to this process, too
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """A context in which the first SIGINT, SIGTERM or SIGHUP is only noted; a second has its usual effect at once.

    On leaving the context the previous handlers are restored. Signals that were ignored when the process started
    (``nohup``, a background job) stay ignored. Outside the main thread it does nothing, since signals
    arrive only there.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._noted = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._put_back()

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.signal is not None

    def deliver(self) -> None:
        """Let the noted signal have its usual effect: KeyboardInterrupt, or the handler of the tracking package."""
        if self.signal is None:
            return
        self._put_back()
        signal.raise_signal(self.signal)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() < self._noted + ECHO_SECONDS:
                return
            self._put_back()
            signal.raise_signal(number)
            return
        self.signal, self._noted = number, time.monotonic()
        with contextlib.suppress(OSError):  # the terminal was closed
            os.write(STANDARD_ERROR, NOTICE)  # print() is not reentrant and may fail here

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


Batch = Mapping[str, Any]
logger = logging.getLogger(__name__)


class CheckpointRegister(Protocol):
    """The interface of a tracked run that the loop needs."""

    def register_checkpoint(self, path: Path, iteration: int, metrics: Mapping[str, float], state: Path) -> object:
        """Register a checkpoint that is on disk, with the training state beside it."""
        ...

    def forget_checkpoint(self, path: Path) -> object:
        """Remove a checkpoint that is about to be deleted from the list."""
        ...


class Validation(Protocol):
    """Measures the network in its current state."""

    def run(self, iteration: int, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Return the metrics by name, or None if ``stop`` returned True meanwhile."""
        ...


@dataclass(frozen=True)
class TrainingParts:
    """The parts of a training.

    Attributes:
        optimization: Network, loss and optimizer.
        batches: Makes the batches of iterations start .. stop - 1, in order.
        checkpoints: Folder of checkpoints.
        log: Receives the metrics.
        run: The tracked run, for its list of checkpoints.
        validation: None for a training without validation data.
        show: Called with every step; writes images and snapshots when they are due.
        keep: Stores the samples of a step that is not finite, and returns the path of the first.
        registered: Returns the iterations of all registered checkpoints; for a training begun on another machine, some
            of them are not in the local folder.
    """

    optimization: Optimization
    batches: Callable[[int, int], Iterable[Batch]]
    checkpoints: CheckpointFolder
    log: TrainingLog
    run: CheckpointRegister
    validation: Validation | None = None
    show: Callable[[Step], None] = lambda step: None
    keep: Callable[[Step], Path] | None = None
    registered: Callable[[], Iterable[int]] = lambda: ()


class Trainer:
    """Trains a network; a checkpoint holds its state after an iteration.

    Args:
        config: The configuration; ``seed`` must be a number.
        parts: The parts of the training.
    """

    def __init__(self, config: TrainingConfig, parts: TrainingParts) -> None:
        assert config.seed is not None
        self.config, self.parts, self.seed = config, parts, config.seed
        self.total = config.training.iterations
        self.iteration = 0
        self.metrics: dict[str, float] = {}
        chosen = config.training.checkpoints
        self.best = BestMemory(chosen.best_metric, chosen.best_mode)
        self.policy = CheckpointPolicy(config.training.save_every, chosen.keep_last, chosen.keep_every)
        schedule = config.training.learning_rate_schedule
        self.plateau = Plateau(schedule, chosen.best_mode) if schedule.type == "plateau" else None
        self._warned_of_dead_units = False
        self._pending = False
        self._interruption = Interruption()

    def restore(self, checkpoint: Path) -> None:
        """Restore the state after a checkpoint; the next ``fit`` resumes from there.

        Later checkpoints in this run's folder are removed, since they will be written again.

        Args:
            checkpoint: ``model_checkpoint_<iteration>`` with its ``training_state_<iteration>`` beside it.

        Raises:
            CheckpointError: A file is missing or damaged, the network differs, or seed, batch size or length of the
                configuration contradict the checkpoint.
        """
        iteration = iteration_of(checkpoint)
        folder = CheckpointFolder(checkpoint.parent)
        state = TrainingState.load(folder.state(iteration))
        self._check_same_training(state, checkpoint, iteration)
        self.parts.optimization.load(checkpoint, state.weights)
        self.parts.optimization.restore_scaler(state.scaler)
        restore_random_states(state.random)
        self.iteration, self.metrics, self._pending = state.iteration, dict(state.metrics), state.pending
        if (state.best.metric, state.best.mode) == (self.best.metric, self.best.mode):
            self.best = state.best
        if self.plateau is not None:
            self.plateau.restore(state.plateau)
        self.parts.log.result(self.metrics, self.best, iteration)
        for later in self.parts.checkpoints.iterations():
            if later > iteration:
                self._remove(later)
        if checkpoint.absolute() == self.parts.checkpoints.model(iteration).absolute():
            self._register(checkpoint)  # the process may have ended between writing and registering it

    def fit(self) -> dict[str, Any]:
        """Train up to ``training.iterations``, or until ``training.early_stopping`` ends it.

        Returns:
            The results: iteration, loss, best_metric, best_value and best_iteration.

        Raises:
            IncasemError: The loss has become NaN or Inf.
            KeyboardInterrupt: Ctrl-C; a checkpoint of the last finished iteration has been written.
        """
        start = self.iteration
        description = f"Training from {start}" if start else "Training"
        with (
            Interruption() as self._interruption,
            self.parts.optimization.numerics(),
            Progress(description, self.total - start, "it") as progress,
        ):
            if self._pending:
                self._conclude(progress)
            if not self._ends:
                self._loop(progress)
        return self.result()

    @property
    def _ends(self) -> bool:
        """Whether the training is at its end."""
        patience = self.config.training.early_stopping
        return self.iteration == self.total or (patience is not None and self.best.waited >= patience)

    def result(self) -> dict[str, Any]:
        """Return the results so far; undefined values are None."""
        best = None if math.isnan(self.best.value) else self.best.value
        return {
            "iteration": self.iteration,
            "loss": self.metrics.get("loss_train_0"),
            "best_metric": self.best.metric,
            "best_value": best,
            "best_iteration": self.best.iteration,
        }

    def _loop(self, progress: Progress) -> None:
        batches = iter(self.parts.batches(self.iteration + 1, self.total + 1))
        clock, every = StepClock(), self.config.training.profiling_stats.every
        while not self._ends:
            batch = self._next(batches)
            clock.loaded()
            step = self._step(batch, clock)
            self.parts.log.training(step)
            self.parts.show(step)
            if every and step.iteration % every == 0:
                print(f"Iteration {step.iteration}: {clock.profile()}.", file=sys.stderr, flush=True)
            self._conclude(progress)
            progress.advance(note=f"loss {step.loss:.4g}")
            self._stop_if_asked()
            clock.restart()

    def _next(self, batches: Iterator[Batch]) -> Batch:
        try:
            batch = next(batches)
        except (RuntimeError, IncasemError, EOFError, OSError):
            # The signal that ends a job reaches the loader's processes too; then their death is not a separate error.
            self._stop_if_asked()
            raise
        self._stop_if_asked()
        return batch

    def _step(self, batch: Batch, clock: StepClock) -> Step:
        iteration = self.iteration + 1
        rate = learning_rate(self.config, iteration)
        if self.plateau is not None:
            rate *= self.plateau.factor
        watch = -iteration % self.config.training.save_every < WATCHED
        update = self.parts.optimization.step(batch, rate, watch=watch)
        losses = dict(update.losses)
        loss = losses.pop("loss")
        clock.computed()
        step = Step(iteration, loss, rate, batch, update.logits, clock.rate, losses)
        if update.problem is not None:
            raise IncasemError(self._not_finite(update.problem, iteration, step))
        self.iteration, self.metrics = iteration, {"loss_train_0": loss}
        return step

    def _conclude(self, progress: Progress) -> None:
        """Run the validation and write the checkpoint that are due after the current iteration."""
        self._pending = False
        section, improved = self.config.training, False
        due = self.iteration % self.config.validation.validate_every == 0 or self.iteration == self.total
        if self.parts.validation and due:
            progress.advance(0, note="validating")
            found = self.parts.validation.run(self.iteration, lambda: self._interruption.requested)
            if found is None:
                self._pending = True
                self._stop_if_asked()
            else:
                self.metrics.update(found)
                value = found.get(self.best.metric, math.nan)
                improved = self.best.offer(value, self.iteration)
                if self.plateau is not None:
                    self.plateau.measured(value)
        regular = self.iteration % section.save_every == 0
        if regular:
            problem = self.parts.optimization.dead_units.report()
            if problem is not None and not self._warned_of_dead_units:
                logger.warning("%s", problem)
                self._warned_of_dead_units = True
        if improved or regular or self._ends:
            self._save()

    def _save(self) -> None:
        """Write a checkpoint, after flushing the log, so that a resumed run misses no metric."""
        if not self.parts.optimization.weights_are_finite():
            raise IncasemError(self._not_finite("The weights are no longer finite", self.iteration))
        self.parts.log.result(self.metrics, self.best, self.iteration)
        self.parts.log.flush()
        optimization, schedule = self.parts.optimization, self.config.training.learning_rate_schedule
        state = TrainingState(
            iteration=self.iteration,
            seed=self.seed,
            batch_size=self.config.training.batch_size,
            best=self.best,
            metrics=self.metrics,
            pending=self._pending,
            scaler=optimization.scaler_state(),
            random=random_states(),
            schedule={**schedule.model_dump(mode="json"), "iterations": self.total},
            plateau={} if self.plateau is None else self.plateau.state(),
            weights=optimization.weights_beside_average(),
        )
        self._register(self.parts.checkpoints.write(state, optimization.save))
        existing = {*self.parts.checkpoints.iterations(), *self.parts.registered()}
        for superfluous in sorted(existing - self.policy.kept(existing, self.best.iteration)):
            self._remove(superfluous)

    def _register(self, path: Path) -> None:
        defined = {name: value for name, value in self.metrics.items() if not math.isnan(value)}
        self.parts.run.register_checkpoint(path, self.iteration, defined, self.parts.checkpoints.state(self.iteration))

    def _remove(self, iteration: int) -> None:
        self.parts.run.forget_checkpoint(self.parts.checkpoints.model(iteration))
        self.parts.checkpoints.remove(iteration)

    def _stop_if_asked(self) -> None:
        """Save the last finished iteration after a ctrl-C, unless it is saved already, and stop."""
        if not self._interruption.requested:
            return
        if self.iteration > 0 and (self._pending or self.iteration not in self.parts.checkpoints.iterations()):
            self._save()
        if self.iteration > 0:
            print(f"Stopped after iteration {self.iteration}; its checkpoint is saved.", file=sys.stderr, flush=True)
        self._interruption.deliver()

    def _not_finite(self, what: str, iteration: int, step: Step | None = None) -> str:
        saved = self.parts.checkpoints.iterations()
        last = f"the last checkpoint, {saved[-1]}, is kept" if saved else "no checkpoint had been written yet"
        finer = ", or set torch.precision to bf16 or fp32" if self.config.torch.precision == "fp16" else ""
        look = "look for broken voxels in the raw data"
        if step is not None and self.parts.keep is not None:
            look = f"look for broken voxels in its sample: incasem-like view {shown_path(self.parts.keep(step))}"
        return (
            f"{what} at iteration {iteration} ({last}): lower training.optimizer.lr "
            f"(now {self.config.training.optimizer.lr:g}){finer}, or {look}."
        )

    def _check_same_training(self, state: TrainingState, checkpoint: Path, iteration: int) -> None:
        if state.iteration != iteration:
            raise CheckpointError(
                f"The training state beside {checkpoint} is of iteration {state.iteration}: choose another checkpoint."
            )
        for name, found, wanted in (
            ("seed", state.seed, self.seed),
            ("training.batch_size", state.batch_size, self.config.training.batch_size),
        ):
            if found != wanted:
                raise CheckpointError(
                    f"{checkpoint.name} was trained with {name}={found}, but the configuration has {wanted}: "
                    f"set {name}={found} to continue it, or start a new training from it."
                )
        if state.iteration > self.total:
            raise CheckpointError(
                f"{checkpoint.name} has had {state.iteration} iterations, but training.iterations is {self.total}: "
                "raise it."
            )
