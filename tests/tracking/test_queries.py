"""The filter language: what names mean, what conditions hold, which order runs come in."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from incasem_like.errors import InputError
from incasem_like.tracking.model.summaries import CheckpointSummary, RunSummary, select
from incasem_like.tracking.queries.fields import better, parse_condition, read_bytes, read_period, read_seconds
from incasem_like.tracking.queries.select import Vocabulary, select_runs

START = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Shelf:
    """A store of ready summaries that counts how often it is read."""

    def __init__(self, *runs: RunSummary, kind: str = "trainings") -> None:
        self.runs, self.kind, self.asked = runs, kind, []

    def ids(self) -> list[int]:
        return [run.id for run in self.runs]

    def read_document(self, run_id: int) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for key, value in next(run for run in self.runs if run.id == run_id).config.items():
            *sections, leaf = key.split(".")
            place = config
            for section in sections:
                place = place.setdefault(section, {})
            place[leaf] = value
        return {"config": config}

    def summaries(self, config_keys: Any = (), *, inputs: bool = False, metrics: Any = ()) -> list[RunSummary]:
        from dataclasses import replace

        self.asked.append(tuple(config_keys))
        return [
            replace(run, config=select(run.config, config_keys), inputs=run.inputs if inputs else ())
            for run in self.runs
        ]


def run(run_id: int, **fields: Any) -> RunSummary:
    scores = fields.pop("scores", {})
    summary = {
        name: {"last": last, "last_step": 3, "min": low, "min_step": 1, "max": high, "max_step": 2}
        for name, (last, low, high) in scores.items()
    }
    started = START + timedelta(days=run_id)
    defaults = {"status": "COMPLETED", "start_time": started, "stop_time": started + timedelta(hours=run_id)}
    return RunSummary(fields.pop("kind", "trainings"), run_id, summary=summary, **{**defaults, **fields})


LAB = (
    run(1, name="mito_a", scores={"dice_class_1": (0.5, 0.1, 0.7)}, config={"training.optimizer.lr": 1e-3}),
    run(2, name="er_b", tags=("good", "Fig. 2"), scores={"dice_class_1": (0.8, 0.1, 0.9), "loss": (0.4, 0.2, 1.0)},
        config={"training.optimizer.lr": 1e-4, "model.kernel": [[3, 3], [1, 3]], "model.on": True}),
    run(3, status="FAILED", config={"training.optimizer.lr": 1e-4, "model.num": None}, parents=(("trainings", 1),)),
    run(4, status="RUNNING", stop_time=None, heartbeat=START, scores={"dice_class_1": (float("nan"),) * 3},
        checkpoints=(CheckpointSummary(10, "m", "0" * 64, 2_000_000_000),)),
)  # fmt: skip


def found(*conditions: str, runs: tuple[RunSummary, ...] = LAB, **options: Any) -> list[int]:
    selection = select_runs([Shelf(*runs)], [parse_condition(text) for text in conditions], **options)  # type: ignore[list-item]
    return [one.id for one in selection.runs]


@pytest.mark.parametrize(
    ("conditions", "ids"),
    [
        ((), [4, 3, 2, 1]),
        (("status=COMPLETED",), [2, 1]),
        (("status = completed",), [2, 1]),
        (("status!=COMPLETED",), [4, 3]),
        (("name~MITO|er",), [2, 1]),
        (("name~^er_.$",), [2]),
        (("name=ER_b",), [2]),
        (("name=none",), [4, 3]),
        (("name!=none",), [2, 1]),
        (("tag=good",), [2]),
        (("tag=Good", "tags=fig. 2"), [2]),
        (("tag!=good",), [4, 3, 1]),
        (("tags=",), [4, 3, 1]),
        (("dice>0.8",), [2]),
        (("dice>=0.7",), [2, 1]),
        (("dice.last<0.6",), [1]),
        (("dice.min=0.1",), [2, 1]),
        (("dice_class_1==0.9",), [2]),
        (("dice=none",), [4, 3]),
        (("loss<=0.2",), [2]),
        (("loss.last<=0.2",), []),
        (("training.optimizer.lr<=1e-4",), [3, 2]),
        (("lr=0.0001",), [3, 2]),
        (("lr!=0.0001",), [4, 1]),
        (("optimizer.lr>1e-4",), [1]),
        (("kernel=[[3,3],[1,3]]",), [2]),
        (("on=true",), [2]),
        (("on=True", "id>1"), [2]),
        (("model.num=none",), [4, 3, 2, 1]),
        (("parent=training 1",), [3]),
        (("parent=none",), [4, 2, 1]),
        (("id>=2", "id<4"), [3, 2]),
        (("started>2026-01-03",), [4, 3]),
        (("started>=2026-01-03",), [4, 3, 2]),
        (("started<2026-01-03",), [1]),
        (("started<=2026-01-03",), [2, 1]),
        (("started=2026-01",), [4, 3, 2, 1]),
        (("started=2026-01-03",), [2]),
        (("started!=2026-01-03",), [4, 3, 1]),
        (("stopped=none",), [4]),
        (("took>=2h", "took<=180min"), [3, 2]),
        (("size>1.5GB",), [4]),
        (("checkpoints=1",), [4]),
        (("iteration=10",), [4]),
    ],
)
def test_runs_that_meet_all_conditions_are_found_newest_first(conditions: tuple[str, ...], ids: list[int]) -> None:
    assert found(*conditions) == ids


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ("status=DONE", "Unknown status 'DONE'"),
        ("status=COMPLETE", "did you mean 'COMPLETED'"),
        ("dice", "is not a condition: write NAME=VALUE"),
        ("=3", "is not a condition"),
        ("dise>3", "No run has a field, metric or configuration key 'dise'; did you mean 'dice'?"),
        ("training.optimiser.lr=3", "did you mean 'training.optimizer.lr'?"),
        ("optimizer=3", "it is a section, choose training.optimizer.lr"),
        ("dice>good", "'dice>good' compares with 'good', but > compares numbers and times"),
        ("started>soon", "'soon' is not a time"),
        ("started>2026-13", "'2026-13' is not a time"),
        ("took<2 weeks", "'2 weeks' is not a duration"),
        ("size>much", "'much' is not a size"),
        ("name~(", "is not a regular expression"),
    ],
)
def test_a_condition_that_cannot_hold_is_refused_in_one_sentence(condition: str, sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        found(condition)
    assert sentence in str(refused.value)


def test_a_short_name_of_several_things_lists_them() -> None:
    metrics = {"dice_class_1": (1.0, 1.0, 1.0), "dice_class_2": (1.0, 1.0, 1.0), "pct_a": (0, 0, 0), "pct_b": (0, 0, 0)}
    runs = (run(1, scores=metrics, config={"training.data": "a", "training.snap.every": 3, "validation.every": 4}),)
    with pytest.raises(InputError, match=r"'dice' may mean dice_class_1\.max or dice_class_2\.max: write which"):
        found("dice>0", runs=runs)
    with pytest.raises(InputError, match=r"'every' may mean training\.snap\.every or validation\.every"):
        found("every=3", runs=runs)
    with pytest.raises(InputError, match=r"pct_a\.last or pct_b\.last"):
        found("pct=0", runs=runs)
    assert found("snap.every=3", runs=runs) == [1]


def test_a_whole_name_is_never_doubtful() -> None:
    scores = {"dice": (0.3, 0.3, 0.3), "dice_class_1": (0.9, 0.9, 0.9), "dice_class_2": (0.1, 0.1, 0.1)}
    runs = (run(1, scores=scores, config={"lr": 3, "training.lr": 4}, result={"lr": 5, "best_value": 2}),)
    assert found("dice=0.3", "lr=3", "result.lr=5", "best_value=2", runs=runs) == [1]


def test_names_that_only_an_old_run_knows_are_found_too() -> None:
    old = run(1, config={"loss.slab": 7}, scores={"rand": (3.0, 3.0, 3.0)}, result={"odd": 1})
    many = tuple(run(number) for number in range(20, 150))
    ancient = tuple(run(number) for number in range(-40, 0))
    runs = (*ancient, old, *many)
    assert found("slab=7", runs=runs) == found("rand=3", runs=runs) == found("odd=1", runs=runs) == [1]


def test_only_the_configuration_keys_that_matter_are_read() -> None:
    shelf = Shelf(*LAB)
    select_runs([shelf], [parse_condition("lr<1")], names=["name"])  # type: ignore[list-item]
    assert [list(keys) for keys in shelf.asked] == [["lr"]]


def test_a_name_means_to_each_kind_of_run_what_that_kind_has() -> None:
    trainings = Shelf(run(1, scores={"dice_class_1": (0.5, 0.5, 0.5), "dice_class_0": (0.9, 0.9, 0.9)}))
    evaluations = Shelf(run(2, kind="evaluations", scores={"dice": (0.7, 0.7, 0.7)}), kind="evaluations")
    predictions = Shelf(run(3, kind="predictions"), kind="predictions")
    stores: Any = [trainings, evaluations, predictions]
    selection = select_runs(stores, [parse_condition("dice>0.4")], sort=["dice"])
    assert [(one.kind, selection.fields["dice"].read(one)) for one in selection.runs] == [
        ("trainings", 0.5),
        ("evaluations", 0.7),
    ]


def test_runs_without_a_value_come_last_in_either_order() -> None:
    assert found(sort=["dice"]) == [1, 2, 4, 3]
    assert found(sort=["-dice"]) == [2, 1, 4, 3]
    assert found(sort=["lr", "-id"]) == [3, 2, 1, 4]
    assert found(sort=["status", "id"]) == [1, 2, 3, 4]
    assert found(sort=["-tags"]) == [2, 4, 3, 1]


def test_optional_names_that_nobody_knows_are_left_out() -> None:
    shelf: Any = Shelf(*LAB)
    selection = select_runs([shelf], names=["id"], optional=["dice", "nothing"])
    assert set(selection.fields) == {"id", "dice"}
    assert selection.total == 4


def test_the_organelle_is_that_of_the_label_datasets_else_of_the_tags() -> None:
    hashes = {"/d/c.zarr/volumes/raw": "", "/d/c.zarr/volumes/labels/er": "", "/d/c.n5/labels/mito/": ""}
    labelled = run(1, inputs=({"file": "/d/c.zarr", "content_hashes": hashes},), tags=("good",))
    published = run(2, tags=("pretrained", "golgi"))
    evaluated = run(3, inputs=({"address": "/d/c.zarr/volumes/labels/ER", "content_hash": ""},))
    runs = (labelled, published, evaluated)
    assert found("organelle=er", runs=runs) == [3, 1]
    assert found("organelle=mito", runs=runs) == [1]
    assert found("organelle=golgi", runs=runs) == [2]
    assert found("organelle!=er", runs=runs) == [2]
    assert found("data~c.zarr", runs=runs) == [3, 1]


@pytest.mark.parametrize(
    ("metric", "direction"),
    [("dice_class_1", "max"), ("loss_val_ds_0_type_0", "min"), ("voi_split", "min"), ("pct_class_1", None)],
)
def test_which_value_of_a_metric_is_best(metric: str, direction: str | None) -> None:
    assert better(metric) == direction


def test_times_durations_and_sizes_are_read_as_people_write_them() -> None:
    now = datetime(2026, 3, 1, 15)
    begin, end = read_period("yesterday", now)
    assert begin.replace(tzinfo=None) == datetime(2026, 2, 28)
    assert end - begin == timedelta(days=1)
    begin, end = read_period("2026-12")
    assert (begin.replace(tzinfo=None), end.replace(tzinfo=None)) == (datetime(2026, 12, 1), datetime(2027, 1, 1))
    begin, end = read_period("2026-01-31 14:30")
    assert end - begin == timedelta(minutes=1)
    begin, _ = read_period("2026-01-31T14:30:00+00:00")
    assert begin == datetime(2026, 1, 31, 14, 30, tzinfo=UTC)
    assert [read_seconds(text) for text in ("90", "1.5min", "2h", "1d")] == [90, 90, 7200, 86400]
    assert [read_bytes(text) for text in ("10", "1kB", "1.5 GB")] == [10, 1000, 1.5e9]


def test_a_vocabulary_prefers_common_fields() -> None:
    field = Vocabulary(metrics=("status",), config_keys=("name",)).get("status")
    assert field.quantity == "status"
