"""The configuration of a series (``config_prediction_multiple.yaml``): that of a prediction and the checkpoints."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from incasem_like.config.kinds import Count, Folder, Positive, Text, contradiction
from incasem_like.config.prediction_config import PredictionConfig
from incasem_like.config.section import Section


class SeriesSection(Section):
    """Checkpoints of the training to predict with, and predictions to keep."""

    start: Count | None = Field(None, description="First iteration; null = that of the first checkpoint.")
    stop: Count | None = Field(None, description="Last iteration, inclusive; null = that of the last checkpoint.")
    step: Positive | None = Field(
        None,
        description="Step between iterations, which must all have a checkpoint; null = all checkpoints.",
    )
    best: Positive | None = Field(
        None,
        description="Number of these checkpoints to use, the best by the training's own validation "
        "(`training.checkpoints`); null = all.",
    )
    checkpoint_dir: Folder | None = Field(
        None,
        description="Folder of checkpoints that the training run did not register; null = the registered ones.",
    )
    checkpoint_basename: Text = Field(
        "model_checkpoint_", description="Prefix of the iteration in the file names of `checkpoint_dir`."
    )
    keep: Literal["all", "best", "none"] = Field(
        "all", description="Predictions to keep on disk; the others are deleted after evaluation."
    )
    metric: Text | None = Field(
        None,
        description="Metric that selects the best iteration (larger is better), such as `jaccard_class_2`, or "
        "`dice_class_1_ds_0` of the first entry alone; null = the training's own `best_metric`, or `dice_class_1`.",
    )

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.start is not None and self.stop is not None and self.start > self.stop:
            raise contradiction(
                f"series.start is {self.start} and series.stop is {self.stop}, so that no iteration is between: "
                "exchange them."
            )
        if self.best is not None and self.step is not None:
            raise contradiction(
                f"series.step is {self.step} and series.best is {self.best}: set one of them, since the best ones are "
                "no fixed step apart."
            )
        if self.best is not None and self.checkpoint_dir is not None:
            raise contradiction(
                "series.best goes by what the training run noted of its checkpoints, and series.checkpoint_dir names "
                "files that it does not know: set one of them."
            )
        return self


class SeriesConfig(PredictionConfig):
    """All parameters of a series of predictions except the training run of its networks."""

    series: SeriesSection = Field(
        default_factory=SeriesSection, description="Checkpoints to predict with, and predictions to keep."
    )

    @model_validator(mode="after")
    def _is_about_one_run(self) -> Self:
        if self.prediction.checkpoint is not None:
            raise contradiction(
                f"prediction.checkpoint is {self.prediction.checkpoint}, but a series predicts with many: set "
                "series.start, series.stop and series.step, or call predict.py."
            )
        if isinstance(self.prediction.run_id_training, tuple):
            raise contradiction(
                f"prediction.run_id_training is {list(self.prediction.run_id_training)}, but a series is of one "
                "training: name one, or call predict.py for the mean of several."
            )
        return self
