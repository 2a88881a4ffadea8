"""The command that goes on with a prediction or a series, as it is printed and kept."""

import sys

import pytest

from incasem_like.prediction.experiment import resuming_command
from incasem_like.prediction.series.experiment import continuing_command


@pytest.mark.parametrize("given", [["--id", "401"], ["--id=401"], ["-i", "401"], ["-i401"], ["--resume", "401"], []])
def test_the_command_that_resumes_leaves_out_an_id_that_is_taken_by_then(
    monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    words = ["predict.py", "--run_id", "1", *given, "--name", "a b", "with", "c.yaml", "x.id=3"]
    monkeypatch.setattr(sys, "argv", words)
    assert resuming_command(401) == "python predict.py --run_id 1 --name 'a b' with c.yaml x.id=3 --resume 401"


def test_the_command_that_goes_on_with_a_series_begins_no_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["many.py", "--new", "--comment", "try --newer", "with", "c.yaml"])
    assert continuing_command() == "python many.py --comment 'try --newer' with c.yaml"
