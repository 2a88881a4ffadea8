"""The kinds of runs; a new kind is one entry in ``RUN_KINDS``."""

from __future__ import annotations

from dataclasses import dataclass


def singular(kind: str) -> str:
    """Name one run of a kind: ``training`` for ``trainings``."""
    return kind.removesuffix("s")


@dataclass(frozen=True)
class RunKind:
    """A kind of run.

    Attributes:
        name: In the plural; its runs are kept in the folder or database ``incasem_<name>``.
        color: Of its boxes in drawings of lineages.
        columns: What lists of its runs show beside id, name, status and times.
        omniboard_columns: Titles and fields of the columns that Omniboard's table begins with.
        tools: What datasets that its runs write say they were made with.
        keeps_checkpoints: Whether its runs have folders ``models/<id>`` in the runs directory.
    """

    name: str
    color: str
    columns: tuple[str, ...] = ("parent", "data", "dice", "tags")
    omniboard_columns: tuple[tuple[str, str], ...] = ()
    tools: tuple[str, ...] = ()
    keeps_checkpoints: bool = False

    @property
    def parent_key(self) -> str:
        """The key under which a run notes that it came from a run of this kind: ``training_run_id``."""
        return f"{singular(self.name)}_run_id"


# Omniboard's own metric columns read whole series; the summary in info has the same numbers, of the full series.
RUN_KINDS = (
    RunKind(
        "trainings",
        "#d6e9f8",
        columns=("iteration", "dice", "loss", "organelle", "tags"),
        omniboard_columns=(
            ("Dice, best", "info.summary.dice_class_1.max"),
            ("Loss", "info.summary.loss_train_0.last"),
            ("Iteration", "info.summary.loss_train_0.last_step"),
            ("Learning rate", "config.training.optimizer.lr"),
            ("Training data", "config.training.data"),
            ("Started from run", "info.parent.training_run_id"),
        ),
        keeps_checkpoints=True,
    ),
    RunKind(
        "predictions",
        "#dcefd9",
        omniboard_columns=(
            ("Training run", "info.parent.training_run_id"),
            ("Checkpoint iteration", "info.parent.iteration"),
            ("Data", "config.prediction.data"),
            ("Dice", "info.summary.dice_class_1_ds_0.last"),
        ),
        tools=("predict.py", "predict_multiple.py"),
    ),
    RunKind(
        "segmentations",
        "#fdeccf",
        columns=("parent", "data", "tags"),
        omniboard_columns=(("Prediction run", "info.prediction_run_id"),),
        tools=("extract_segmentation_with_threshold", "segment", "refine_segmentation"),
    ),
    RunKind(
        "measurements",
        "#f2ecd6",
        columns=("parent", "data", "result.objects", "tags"),
        omniboard_columns=(("Segmentation run", "info.segmentation_run_id"), ("Objects", "result.objects")),
        tools=("measure_objects", "extract_skeletons", "extract_meshes"),
    ),
    RunKind(
        "evaluations",
        "#eadff2",
        columns=("parent", "data", "dice", "jaccard", "tags"),
        omniboard_columns=(("Prediction run", "info.prediction_run_id"), ("Dice, best", "info.summary.dice.max")),
        tools=("self_consistency",),
    ),
    RunKind(
        "sweeps",
        "#e3e3e3",
        columns=("result.trials", "result.metric", "result.best_value", "result.best_training_run", "tags"),
        omniboard_columns=(("Best value", "result.best_value"), ("Best training run", "result.best_training_run")),
    ),
    RunKind(
        "bootstrapping",
        "#f9dcdc",
        columns=("parent", "result.last_step", "result.error", "result.voi", "tags"),
        omniboard_columns=(("Self-consistency error", "result.error"), ("VOI", "result.voi")),
    ),
)
KINDS = tuple(kind.name for kind in RUN_KINDS)
KINDS_BY_KEY = {kind.parent_key: kind.name for kind in RUN_KINDS}


def kind_named(name: str) -> RunKind:
    """Return the kind of that name."""
    return next(kind for kind in RUN_KINDS if kind.name == name)
