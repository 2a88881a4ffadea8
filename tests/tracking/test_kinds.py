"""A new kind of run is one entry in one table."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import incasem_like

WITH_SURVEYS = """
from pathlib import Path

from click.testing import CliRunner
from incasem_like.commands.cli import cli
from incasem_like.errors import InputError
from incasem_like.tracking import delete_run, open_store, run_experiment
from incasem_like.tracking.lineage import gather, making_of
from incasem_like.tracking.moving.transfer import copy_runs
from incasem_like.viewing.lineage_drawing import lineage_svg

surveys = open_store(None, "surveys", Path("runs"))
trainings = surveys.sibling("trainings")
run_experiment(name="survey", config={}, main=lambda run: {"best_value": 0.75}, store=surveys, run_name="rates")
run_experiment(
    name="train", config={}, main=lambda run: run.set_info("parent", {"survey_run_id": 1}), store=trainings
)
assert trainings.summaries()[0].parents == (("surveys", 1),)
try:
    delete_run(surveys, 1)
except InputError as error:
    assert "training 1" in str(error)
else:
    raise AssertionError("a parent was deleted")
lineage = gather([*surveys.summaries(), *trainings.summaries()])
assert [link.target for link in lineage.targets("surveys/1")] == ["trainings/1"]
assert "#abcdef" in lineage_svg(lineage, "surveys/1")
assert making_of({"tool": "survey.py", "run_id": 1}).run == "surveys/1"
listed = CliRunner().invoke(cli, ["runs", "list", "--kind", "su", "--runs_directory", "runs"], catch_exceptions=False)
assert "best_value" in listed.output and "0.75" in listed.output, listed.output
shown = CliRunner().invoke(cli, ["runs", "show", "trainings/1", "--runs_directory", "runs"], catch_exceptions=False)
assert "survey 1" in shown.output, shown.output
there = open_store("./moved", "trainings", Path("moved"))
copies = copy_runs([trainings.get(1), surveys.get(1)], there, keep_ids=False)
assert {(copy.kind, copy.id) for copy in copies} == {("surveys", 1), ("trainings", 1)}
for store in (trainings, surveys):
    delete_run(store, 1)
    assert store.ids() == []
print("known everywhere")
"""


ENTRY = '    RunKind("surveys", "#abcdef", columns=("parent", "best_value"), tools=("survey.py",)),\n'
LAST = '    RunKind(\n        "bootstrapping"'


def test_lists_lineages_moves_and_deletion_know_a_new_entry(tmp_path: Path) -> None:
    shutil.copytree(
        Path(incasem_like.__file__).parent, tmp_path / "incasem_like", ignore=shutil.ignore_patterns("__pycache__")
    )
    table = tmp_path / "incasem_like" / "tracking" / "kinds.py"
    table.write_text(table.read_text().replace(LAST, ENTRY + LAST))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITH_SURVEYS], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout) == (0, "known everywhere\n"), done.stderr
