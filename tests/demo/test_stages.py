import sys

import pytest

from incasem_like.demo.stages import StageRunner
from incasem_like.errors import IncasemError


@pytest.fixture
def runner(tmp_path) -> StageRunner:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "echo.py").write_text("import sys; print('got', *sys.argv[1:])")
    (scripts / "fail.py").write_text("import sys; print('no such folder', file=sys.stderr); sys.exit(2)")
    (scripts / "stop.py").write_text("import sys; sys.exit(130)")
    return StageRunner(tmp_path, tmp_path / "log" / "demo.log")


def test_a_stage_is_run_shown_as_typed_and_timed(runner, capsys):
    runner.run("import", "echo.py", "-i", runner.repository / "data" / "x", "-n", 3)
    assert "got -i data/x -n 3" in capsys.readouterr().out
    assert runner.done[0].command == "python scripts/echo.py -i data/x -n 3"
    assert runner.seconds_by_stage().keys() == {"import"}
    assert "got -i data/x" in runner.log.read_text()


def test_the_times_of_one_stage_add_up(runner):
    runner.run("import", "echo.py")
    runner.run("import", "echo.py")
    assert runner.seconds_by_stage()["import"] == pytest.approx(sum(run.seconds for run in runner.done), abs=0.02)


def test_a_failing_stage_stops_the_demo_and_names_the_log(runner):
    with pytest.raises(IncasemError, match=r"status 2.*demo\.log"):
        runner.run("train", "fail.py")
    assert "no such folder" in runner.log.read_text()


def test_an_interrupted_stage_interrupts_the_demo(runner):
    with pytest.raises(KeyboardInterrupt):
        runner.run("train", "stop.py")


def test_stages_run_with_the_interpreter_of_the_demo(runner, capsys):
    (runner.repository / "scripts" / "which.py").write_text("import sys; print(sys.executable)")
    runner.run("x", "which.py")
    assert sys.executable in capsys.readouterr().out
