"""Slack and other Sacred observers beside the store: described in files, and never harming the run."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from sacred.observers import RunObserver

from incasem_like.errors import ConfigError, InputError
from incasem_like.tracking import open_store, run_experiment
from incasem_like.tracking.recording import observers as guarded
from incasem_like.tracking.recording.observers import read_observer

SECRET = "T00000/B00000/aVerySecretPath"


class FailingObserver(RunObserver):
    """Fails at every event, quoting what nobody may see."""

    def __getattribute__(self, name: str) -> Any:
        if name.endswith("_event") or name in ("log_metrics", "join"):
            raise ConnectionError(f"https://hooks.slack.com/services/{SECRET}")
        return super().__getattribute__(name)


class HangingObserver(RunObserver):
    """Hangs at the start of the run until it is let go."""

    def __init__(self) -> None:
        self.let_go, self.calls = threading.Event(), []

    def started_event(self, **event: Any) -> None:
        self.let_go.wait(30)

    def heartbeat_event(self, **event: Any) -> None:
        self.calls.append(event["captured_out"])

    def completed_event(self, **event: Any) -> None:
        self.calls.append("completed")


class SlackServer:
    """Keeps the messages that are posted to it."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        keep = self.messages.append

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                keep(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/{SECRET}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def slack() -> Iterator[SlackServer]:
    server = SlackServer()
    yield server
    server.server.shutdown()


@pytest.fixture
def track(tmp_path: Path) -> Callable[..., Any]:
    def track(*observers: Any, main: Callable[[Any], Any] = lambda run: run.id, observed: bool = True) -> Any:
        store = open_store(None, "trainings", tmp_path / "runs")
        return run_experiment(
            name="train", config={"a": 1}, main=main, store=store if observed else None, run_name="mito",
            observers=observers, artifacts={"data.json": "{}"},
        )  # fmt: skip

    return track


def write(path: Path, **settings: Any) -> Path:
    path.write_text(json.dumps(settings))
    return path


def test_slack_is_told_how_a_run_ended(tmp_path: Path, slack: SlackServer, track: Callable[..., Any]) -> None:
    file = write(tmp_path / "slack.json", webhook_url=slack.url)
    track(read_observer(Path("slack.json"), [tmp_path], "SlackObserver"))

    def fail(run: Any) -> None:
        raise InputError("the data are gone")

    with pytest.raises(InputError):
        track(read_observer(file, [Path.cwd()]), main=fail)
    done, failed = (message["text"] for message in slack.messages)
    assert "*mito* completed" in done
    assert "result=`1`" in done
    assert "the data are gone" in failed


def test_any_class_of_sacred_s_follows_a_run(tmp_path: Path, track: Callable[..., Any]) -> None:
    file = tmp_path / "copy.yaml"
    file.write_text(f"observer: FileStorageObserver\nbasedir: {tmp_path}/copy\n")
    track(read_observer(file, [Path.cwd()]), main=lambda run: run.log_scalar("loss", 0.5, 1))
    assert json.loads((tmp_path / "copy/1/run.json").read_text())["status"] == "COMPLETED"
    assert json.loads((tmp_path / "copy/1/metrics.json").read_text())["loss"]["values"] == [0.5]
    assert (tmp_path / "copy/1/data.json").read_text() == "{}"


def test_the_id_is_the_store_s_whatever_an_observer_says(tmp_path: Path, track: Callable[..., Any]) -> None:
    (tmp_path / "copy/41").mkdir(parents=True)
    write(tmp_path / "copy.json", observer="FileStorageObserver", basedir=str(tmp_path / "copy"))
    assert track(read_observer(tmp_path / "copy.json", [Path.cwd()]), observed=False) == 0
    assert track(read_observer(tmp_path / "copy.json", [Path.cwd()])) == 1


def test_an_observer_that_fails_is_told_of_without_its_message(
    tmp_path: Path, track: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert track(guarded.GuardedObserver(FailingObserver(), "SlackObserver of slack.json")) == 1
    record = open_store(None, "trainings", tmp_path / "runs").get(1)
    assert record.status == "COMPLETED"
    assert "SlackObserver of slack.json failed (ConnectionError)" in caplog.text
    assert SECRET not in caplog.text + record.captured_output


def test_an_observer_that_hangs_does_not_hold_the_run_up(
    track: Callable[..., Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded, "SECONDS_TO_FINISH", 0.2)
    monkeypatch.setattr(guarded, "MOST_WAITING", 20)
    hanging = HangingObserver()
    shield = guarded.GuardedObserver(hanging, "Hanging")
    begin = time.monotonic()

    def work(run: Any) -> None:
        for number in range(50):
            run.log_scalar("loss", number, number)
            run.flush()

    track(shield, main=work)
    assert time.monotonic() - begin < 25
    assert shield._waiting.qsize() <= 20
    assert "Hanging did not take the end of the run" in caplog.text
    hanging.let_go.set()
    deadline = time.monotonic() + 60
    while "completed" not in hanging.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    assert hanging.calls[-1] == "completed"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"text": "x"}, "does not say what follows the run: write 'observer: CLASS'"),
        ({"observer": "SlackObserve"}, "unknown observer 'SlackObserve'; did you mean 'SlackObserver'?"),
        ({"observer": "no_such_package.Observer"}, "but no_such_package is not installed"),
        ({"observer": "json.JSONDecoder"}, "unknown observer"),
        ({"observer": "SlackObserver", "bot": SECRET}, "does not take the settings in"),
        ({"webhook_url": SECRET, "colour": SECRET}, "unexpected keyword argument 'colour'"),
        ({"observer": "FileStorageObserver"}, "missing 1 required positional argument: 'basedir'"),
    ],
)
def test_a_wrong_file_is_one_sentence_without_its_secrets(
    tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_observer(write(tmp_path / "a.json", **settings), [Path.cwd()])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"looked for {tmp_path}/slack\.json"):
        read_observer(Path("slack.json"), [tmp_path])
