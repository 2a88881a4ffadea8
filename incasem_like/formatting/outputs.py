"""What an operation on a volume leaves behind, and how it is told to the person who asked for it."""

from __future__ import annotations

from dataclasses import dataclass

from incasem_like.terminal import report_written


@dataclass(frozen=True)
class DatasetWritten:
    """A dataset that is there now.

    Attributes:
        address: Where.
        already_complete: True when an earlier call had written it.
        note: What else is worth saying (files that were left out), or nothing.
    """

    address: str
    already_complete: bool
    note: str = ""

    def report(self, what: str, next_command: str | None) -> None:
        """Print what was written, or that it was there, and what to do next."""
        if self.note:
            print(self.note)
        if self.already_complete:
            print(f"Already complete: {self.address}")
            if next_command:
                print(f"Next: {next_command}")
        else:
            report_written(what, self.address, next_command)
