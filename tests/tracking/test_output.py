"""What a run prints is kept, whatever happens to the terminal."""

import errno
import io
import sys

import pytest

from incasem_like.tracking.recording.output import OutputCapture


class Gone(io.StringIO):
    """A stream behind which nobody reads any more."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, "gone")

    def flush(self) -> None:
        raise OSError(self.number, "gone")


@pytest.mark.parametrize("number", [errno.EIO, errno.EPIPE])
def test_a_closed_terminal_or_pipe_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(sys, "stdout", Gone(number))
    with OutputCapture() as capture:
        print("iteration 7", flush=True)
    assert capture.text() == "iteration 7\n"


def test_a_full_disk_behind_the_output_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Gone(errno.ENOSPC))
    with OutputCapture(), pytest.raises(OSError, match="gone"):
        print("iteration 7", flush=True)
