"""The log of finished blocks survives crashes and tells tasks apart."""

from pathlib import Path
from typing import Any

import pytest

from incasem_like.blockwise.done_log import LOG_NAME, DoneLog
from incasem_like.errors import InputError
from incasem_like.volumes import Volume, create_volume
from incasem_like.volumes.provenance import first_difference

PRINT: dict[str, Any] = {
    "task": "smooth",
    "parameters": {"sigma": 1.5, "mode": {"edge": "mirror"}},
    "inputs": [{"address": "/a.zarr/raw", "content": "aa"}],
    "layout": {"block shape": [8, 8, 8]},
}


@pytest.fixture
def output(tmp_path: Path) -> Volume:
    return create_volume(tmp_path / "a.zarr/out", shape=(8, 8, 8), dtype="uint8", voxel_size=(4, 4, 4))


def changed(**parts: Any) -> dict[str, Any]:
    return {**PRINT, **parts}


def test_finished_blocks_are_remembered(output: Volume) -> None:
    with DoneLog(Path(str(output.address)), PRINT) as log:
        assert log.done == set()
        log.record(3)
        log.record(0)
    with DoneLog(Path(str(output.address)), PRINT) as log:
        assert log.done == {0, 3}


@pytest.mark.parametrize("torn", [b'{"done": 5', b'{"do', b"{"])
def test_a_line_cut_short_by_a_crash_is_dropped(output: Volume, torn: bytes) -> None:
    with DoneLog(Path(str(output.address)), PRINT) as log:
        log.record(3)
    path = Path(str(output.address)) / LOG_NAME
    path.write_bytes(path.read_bytes() + torn)
    with DoneLog(Path(str(output.address)), PRINT) as log:
        assert log.done == {3}
        log.record(4)
    with DoneLog(Path(str(output.address)), PRINT) as log:
        assert log.done == {3, 4}


def test_a_first_line_cut_short_starts_over(output: Volume) -> None:
    (Path(str(output.address)) / LOG_NAME).write_bytes(b'{"task": "smo')
    with DoneLog(Path(str(output.address)), PRINT) as log:
        assert log.done == set()


@pytest.mark.parametrize(
    ("fingerprint", "said"),
    [
        (
            changed(parameters={"sigma": 2, "mode": {"edge": "mirror"}}),
            "begun with parameters sigma 1.5, but now it is 2",
        ),
        (
            changed(parameters={"sigma": 1.5, "mode": {"edge": "wrap"}}),
            'parameters mode edge "mirror", but now it is "wrap"',
        ),
        (changed(parameters={"sigma": 1.5}), 'parameters mode {"edge": "mirror"}, but now it is null'),
        (
            changed(inputs=[{"address": "/b.zarr/raw", "content": "bb"}]),
            "/a.zarr/raw, but now it is /b.zarr/raw: ",
        ),
        (changed(inputs=[{"address": "/a.zarr/raw", "content": "bb"}]), "/a.zarr/raw, which has changed since: "),
        (changed(inputs=[]), "begun with inputs"),
        (changed(layout={"block shape": [16, 8, 8]}), r"layout block shape \[8, 8, 8\], but now it is \[16, 8, 8\]"),
    ],
)
def test_another_task_is_refused_with_the_difference(output: Volume, fingerprint: dict[str, Any], said: str) -> None:
    with DoneLog(Path(str(output.address)), PRINT):
        pass
    with pytest.raises(InputError, match=said) as error:
        DoneLog(Path(str(output.address)), fingerprint)
    assert "--overwrite" in str(error.value)


def test_hashes_are_not_shown() -> None:
    before, now = ({"parameters": {"sections": letter * 32}} for letter in "ab")
    assert first_difference(before, now) == "sections that changed since"


def test_a_moved_input_of_the_same_content_is_the_same(output: Volume) -> None:
    assert first_difference(PRINT, changed(inputs=[{"address": "/elsewhere.zarr/raw", "content": "aa"}])) == ""


def test_two_processes_do_not_write_one_output(output: Volume) -> None:
    with DoneLog(Path(str(output.address)), PRINT), pytest.raises(InputError, match="Another process is writing"):
        DoneLog(Path(str(output.address)), PRINT)
    with DoneLog(Path(str(output.address)), PRINT):
        pass


def test_complete_data_of_others_are_not_written_over(output: Volume) -> None:
    output.mark_complete()
    with pytest.raises(InputError, match="exists already and was not made by this task"):
        DoneLog(Path(str(output.address)), PRINT, complete=True)


def test_the_log_does_not_change_what_the_output_holds(output: Volume) -> None:
    before = output.content_hash
    with DoneLog(Path(str(output.address)), PRINT) as log:
        log.record(0)
    assert output.content_hash == before
    assert output.as_zarr().nchunks_initialized == 0


def test_a_late_thread_cannot_write_into_what_was_opened_since(output: Volume, tmp_path: Path) -> None:
    with DoneLog(Path(str(output.address)), PRINT) as log:
        log.record(3)
    with (tmp_path / "other").open("wb") as other:  # gets the number that the log's file had
        with pytest.raises(ValueError, match="is closed"):
            log.record(4)
        other.write(b"intact")
    assert (tmp_path / "other").read_bytes() == b"intact"
    assert log.done == {3}
