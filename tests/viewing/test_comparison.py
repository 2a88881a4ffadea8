"""The figure that compares runs: which metrics it shows, and what stands against it."""

from pathlib import Path

import pytest

from incasem_like.errors import InputError
from incasem_like.tracking import Run, RunRecord, open_store, run_experiment
from incasem_like.viewing import comparison
from incasem_like.viewing.comparison import comparison_figure, telling_metrics


def records(folder: Path, *metrics: dict[str, int], best: str | None = None) -> list[RunRecord]:
    """Runs that log each metric at so many steps."""
    store = open_store(None, "trainings", folder)
    for counts in metrics:

        def work(run: Run, counts: dict[str, int] = counts) -> None:
            for name, count in counts.items():
                for step in range(count):
                    run.log_scalar(name, step / 10, step)

        config = {"training": {"checkpoints": {"best_metric": best}}} if best else {}
        run_experiment(name="train", config=config, main=work, store=store)
    return [store.get(run_id) for run_id in store.ids()]


def chosen(found: list[RunRecord]) -> list[str]:
    return telling_metrics(found, [record.metrics for record in found])


def test_the_deciding_metric_and_the_losses_come_first(tmp_path: Path) -> None:
    logged = {"jaccard_class_2": 3, "loss": 3, "loss_train_0": 3, "dice_class_1": 3, "pct_class_0": 9, "num_params": 1}
    assert chosen(records(tmp_path, logged, best="jaccard_class_2")) == [
        "jaccard_class_2",
        "dice_class_1",
        "loss",
        "loss_train_0",
    ]


def test_without_these_what_most_runs_have_is_shown(tmp_path: Path) -> None:
    found = records(tmp_path, {"a": 3, "b": 3, "c": 1}, {"b": 3}, {"b": 2, "d": 2, "e": 2, "f": 2})
    assert chosen(found) == ["b", "a", "d", "e"]


def test_a_run_keeps_its_colour_in_every_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panels = {}
    monkeypatch.setattr(comparison, "curves_figure", lambda given, columns: panels.update(given) or b"")
    comparison_figure(records(tmp_path, {"loss": 3}, {"loss": 3, "dice_class_1": 3}))
    assert {title: [(curve.label, curve.colour) for curve in curves] for title, curves in panels.items()} == {
        "loss": [("1 train", "C0"), ("2 train", "C1")],
        "dice_class_1": [("2 train", "C1")],
    }


def test_a_metric_that_no_run_has_is_refused(tmp_path: Path) -> None:
    found = records(tmp_path, {"loss": 3, "once": 1})
    assert comparison_figure(found, ["once"]).startswith(b"\x89PNG")
    with pytest.raises(InputError, match="None of the runs has a metric 'lose'; did you mean 'loss'"):
        comparison_figure(found, ["lose"])


def test_runs_without_curves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no metric of more than one point to plot"):
        comparison_figure(records(tmp_path, {"once": 1}, {}))
