"""A run from its start to its record, on every store."""

import io
import logging
import random
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import incasem_like
from incasem_like.errors import InputError
from incasem_like.tracking import Run, RunStore, open_store, run_experiment, tracked_run
from incasem_like.tracking.values import from_bson, plain, to_bson, without_credentials

STAND_INS = "\uff0e\uff04\uff05"  # full-width dot, dollar and percent sign, which stand for others in MongoDB
CONFIG = {
    "seed": 3,
    "training": {"iterations": 10, "optimizer": {"lr": 3e-5}, "precache": None, "flags": [True, False]},
    "paths": {"volumes/labels.v2/er": 1, "$special": {"a.b": [{"$c": 2}]}, STAND_INS: "stand-ins", "": 0},
    "text": "ü → ✓",
    "large": 2**53 + 1,
}


def track(store: RunStore | None, main: Any = lambda run: None, **options: Any) -> Any:
    return run_experiment(**{"name": "train", "config": CONFIG, "main": main, "store": store, **options})


def test_a_configuration_comes_back_exactly_as_it_was(store: RunStore) -> None:
    before = repr(CONFIG)
    track(store)
    assert store.get(1).config == CONFIG
    assert list(store.get(1).config["training"]) == list(CONFIG["training"])  # type: ignore[call-overload]
    assert repr(CONFIG) == before


def test_a_block_is_recorded_with_its_result(store: RunStore) -> None:
    with tracked_run(name="train", config=CONFIG, store=store) as run:
        run.log_scalar("loss", 0.5, 1)
        run.result = {"loss": np.float32(0.5)}
        assert (run.id, run.result) == (1, {"loss": 0.5})
    record = store.get(1)
    assert (record.status, record.result, record.metrics["loss"].values) == ("COMPLETED", {"loss": 0.5}, (0.5,))


def test_the_traceback_of_a_block_that_fails_leads_to_its_line(store: RunStore) -> None:
    def divide() -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError), tracked_run(name="train", config=CONFIG, store=store):
        divide()
    assert store.get(1).status == "FAILED"
    assert "return 1 / 0" in store.get(1).fail_trace


def test_a_missing_seed_stays_missing_and_random_state_is_left_alone(store: RunStore) -> None:
    random.seed(5)
    np.random.seed(5)
    expected = (random.Random(5).random(), np.random.RandomState(5).rand())
    drawn = run_experiment(
        name="train", config={"seed": None}, main=lambda run: (random.random(), np.random.rand()), store=store
    )
    assert drawn == expected
    assert store.get(1).config == {"seed": None}


def test_the_record_holds_what_a_methods_section_needs(store: RunStore) -> None:
    track(store, run_name="mitochondria, 2nd try", comment="lower rate")
    record = store.get(1)
    assert (record.status, record.name, record.comment) == ("COMPLETED", "mitochondria, 2nd try", "lower rate")
    assert record.meta["options"]["--name"] == "mitochondria, 2nd try"
    assert record.start_time is not None
    assert record.stop_time is not None
    assert record.start_time <= record.stop_time
    assert record.start_time.tzinfo is not None
    assert record.host["pid"] > 0
    assert any(package.startswith("numpy==") for package in record.experiment["dependencies"])
    (content,) = [content for name, content in store.read_stored(1, "sources") if name.endswith("incasem_like.zip")]
    assert content is not None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        module = archive.read("incasem_like/tracking/recording/recorder.py")
    assert module == Path(*incasem_like.__path__, "tracking", "recording", "recorder.py").read_bytes()


def test_results_and_metrics_are_plain_numbers(store: RunStore) -> None:
    def main(run: Run) -> dict[str, Any]:
        run.log_scalar("loss", np.float32(0.5), np.int64(1))
        run.log_scalar("loss", 0.25, 2)
        run.log_scalar("dice", float("nan"), 2)
        return {"dice": np.float64(0.75), "counts": np.arange(3), "ok": np.bool_(True), "where": Path("/a")}

    track(store, main)
    record = store.get(1)
    assert record.result == {"dice": 0.75, "counts": [0, 1, 2], "ok": True, "where": "/a"}
    loss = record.metrics["loss"]
    assert (loss.steps, loss.values) == ((1, 2), (0.5, 0.25))
    assert all(moment.tzinfo is not None for moment in loss.timestamps)
    assert np.isnan(record.metrics["dice"].values[0])


def test_what_is_printed_is_kept_also_before_a_failure(store: RunStore, capsys: pytest.CaptureFixture[str]) -> None:
    def main(run: Run) -> None:
        print("to stdout")
        print("to stderr", file=sys.stderr)
        print("\x1b[2K\rredrawn bar 50 %", end="")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        track(store, main)
    assert store.get(1).captured_output.splitlines() == ["to stdout", "to stderr"]
    assert "to stdout" in capsys.readouterr().out
    assert type(sys.stdout).__name__ != "_Tee"


def test_a_failed_run_says_so_with_its_trace_and_passes_the_error_on(
    store: RunStore, caplog: pytest.LogCaptureFixture
) -> None:
    def main(run: Run) -> None:
        run.log_scalar("loss", 1.0, 1)
        raise InputError("The volume is empty: choose another.")

    with pytest.raises(InputError, match="The volume is empty"):
        track(store, main)
    record = store.get(1)
    assert record.status == "FAILED"
    assert "InputError: The volume is empty" in record.fail_trace
    assert record.metrics["loss"].values == (1.0,)
    assert record.stop_time is not None
    assert not caplog.records


def test_an_interrupted_run_says_so_and_passes_the_interrupt_on(store: RunStore) -> None:
    def main(run: Run) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        track(store, main)
    assert store.get(1).status == "INTERRUPTED"


def test_a_run_that_goes_on_can_be_read(store: RunStore) -> None:
    def main(run: Run) -> None:
        run.log_scalar("loss", 0.5, 1)
        run.set_info("parent", {"kind": "trainings", "id": 7})
        run.inputs([{"address": "a.zarr/raw", "content_hash": "x"}])
        print("half way")
        run.flush()
        record = store.get(run.id)
        assert (record.status, record.config, record.stop_time) == ("RUNNING", CONFIG, None)
        assert record.metrics["loss"].values == (0.5,)
        assert record.parent == {"kind": "trainings", "id": 7}
        assert record.inputs == [{"address": "a.zarr/raw", "content_hash": "x"}]
        assert "half way" in record.captured_output
        assert record.heartbeat is not None

    track(store, main)
    assert store.get(1).parent == {"kind": "trainings", "id": 7}


def test_ids_count_up_from_one_and_a_wanted_id_is_taken_once(store: RunStore) -> None:
    ids = [track(store, lambda run: run.id) for _ in range(2)]
    assert ids == [1, 2]
    assert track(store, lambda run: run.id, run_id=12) == 12
    with pytest.raises(InputError, match=r"Run 12 exists already in .*: leave --id out"):
        track(store, run_id=12)
    assert track(store, lambda run: run.id) == 13
    assert store.ids() == [1, 2, 12, 13]


def test_artifacts_come_back_whatever_they_are_called(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_bytes(b'{"roi": 1}\r\n')
    texts = {"config.json": "{}", "run.json": "mine", "metrics.jsonl": "x", "artifact_run.json": "y", "a/b.txt": "z"}

    def main(run: Run) -> None:
        run.add_artifact("later", "late.txt")
        run.add_artifact("later still", "late.txt")

    track(store, main, artifacts={"train.json": tmp_path / "data.json", **texts})
    record = store.get(1)
    assert record.artifact("train.json") == b'{"roi": 1}\r\n'
    for name, text in texts.items():
        assert record.artifact(name.replace("/", "_")) == text.encode()
    assert record.artifact("late.txt") == b"later still"
    assert record.artifacts.count("late.txt") == 1
    assert record.config == CONFIG
    with pytest.raises(InputError, match=r"no artifact 'trains.json'; did you mean 'train.json'"):
        record.artifact("trains.json")


def test_credentials_reach_neither_config_nor_output_nor_trace(store: RunStore, tmp_path: Path) -> None:
    url = "mongodb://ada:s3/cr%40et@db.lab:27017/incasem?x=1"

    def main(run: Run) -> None:
        run.set_info("inputs", [f"https://ada:s3cret@host/{'a@b'}.zarr"])
        print("using", url)
        raise RuntimeError(f"lost {url}")

    with pytest.raises(RuntimeError):
        run_experiment(name="train", config={"tracking": {"url": url}}, main=main, store=store, comment=url)
    record = store.get(1)
    assert record.config == {"tracking": {"url": "mongodb://db.lab:27017/incasem?x=1"}}
    assert record.info["inputs"] == ["https://host/a@b.zarr"]
    assert "s3" not in record.captured_output + record.fail_trace + record.comment
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file() and "_sources" not in path.parts]
    assert not [path for path in files if b"s3/cr" in path.read_bytes() or b"s3cret" in path.read_bytes()]


def test_an_unobserved_run_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"x")

    def main(run: Run) -> int:
        run.log_scalar("loss", 1.0, 1)
        run.register_checkpoint(tmp_path / "checkpoint", 1)
        run.add_artifact("x", "y")
        run.flush()
        return run.id

    assert run_experiment(name="train", config={}, main=main, store=None, runs_directory=tmp_path / "runs") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_an_observer_that_fails_for_a_while_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from incasem_like.tracking import run_folder

    store = open_store(None, "trainings", tmp_path)
    working = run_folder.write_whole

    def full(path: Path, write: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    def main(run: Run) -> None:
        monkeypatch.setattr(run_folder, "write_whole", full)
        for step in range(3):
            run.log_scalar("loss", 1.0, step)
            run.flush()
        monkeypatch.setattr(run_folder, "write_whole", working)
        run.log_scalar("loss", 1.0, 3)

    with caplog.at_level(logging.WARNING):
        track(store, main)
    assert store.get(1).status == "COMPLETED"
    assert store.get(1).metrics["loss"].steps == (0, 1, 2, 3)
    assert 1 <= len([line for line in caplog.messages if "No space left" in line]) <= 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("a.$/" + STAND_INS, max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(JSON)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_plain_value_survives_the_way_into_bson_and_back(value: Any) -> None:
    from bson import BSON

    stored = to_bson(plain(value))
    assert from_bson(BSON.encode({"value": stored}).decode()["value"]) == value
    assert not any("." in key or key.startswith("$") for key in _keys(stored))


def _keys(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [*value, *(key for item in value.values() for key in _keys(item))]
    return [key for item in value for key in _keys(item)] if isinstance(value, list) else []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mongodb://u:p@h:1/d", "mongodb://h:1/d"),
        ("mongodb+srv://u:p@ss/w@h/d?a=b", "mongodb+srv://h/d?a=b"),
        ("mongodb://u:p w@h:1/d", "mongodb://h:1/d"),
        ("mongodb://u:p\"w'@h:1/d", "mongodb://h:1/d"),
        ("at mongodb://h:1 ask me@home", "at mongodb://h:1 ask me@home"),
        ("s3://bucket/a@b/raw", "s3://bucket/a@b/raw"),
        ("see https://token@github.com/x and a@b.c", "see https://github.com/x and a@b.c"),
        ("git@github.com:x/y", "git@github.com:x/y"),
    ],
)
def test_only_credentials_are_taken_out_of_urls(text: str, expected: str) -> None:
    assert without_credentials(text) == expected


def test_a_long_word_is_searched_for_credentials_in_no_time() -> None:
    text = f"{'x' * 200_000} https://me:secret@host/"
    start = time.monotonic()
    assert without_credentials(text) == text.replace("me:secret@", "")
    assert time.monotonic() - start < 45  # minutes, were every end of the word tried from every beginning


def test_a_run_knows_its_name_with_and_without_a_record(store: RunStore) -> None:
    names: list[str] = []
    for chosen, kept in (("mito", store), (None, store), ("mongodb://u:p@h/", None)):
        run_experiment(name="train", config={}, main=lambda run: names.append(run.name), store=kept, run_name=chosen)
    assert names == ["mito", "train", "mongodb://h/"]
