"""Networks with a tracked training run that never trained them."""

from typing import Any

from incasem_like.config import TrainingConfig
from incasem_like.networks import build_network, save_checkpoint
from incasem_like.tracking import Run, RunRecord, run_experiment


def track_network(laboratory: Any, enliven: Any, **model: Any) -> RunRecord:
    """Track a training like the laboratory's but for its model, whose network becomes the laboratory's.

    Args:
        laboratory: See the fixture of the tests of prediction.
        enliven: Gives a network weights of which the signal reaches the output.
        model: What of the section ``model`` differs.
    """
    values = laboratory.training_config.model_dump(mode="json")
    values["model"] |= model
    config = TrainingConfig.from_values(values, lambda key: "here")
    laboratory.network = enliven(build_network(config.model)).eval()

    def register(run: Run) -> int:
        path = laboratory.runs / "models" / f"{run.id:04d}" / "model_checkpoint_1"
        save_checkpoint(path, laboratory.network)
        run.register_checkpoint(path, 1, {})
        return run.id

    values, store = config.model_dump(mode="json"), laboratory.training_store
    record: RunRecord = store.get(run_experiment(name="train", config=values, main=register, store=store))
    return record
