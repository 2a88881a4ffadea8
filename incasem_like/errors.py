"""The errors that users see: one sentence that says what was wrong, what was found and what to do."""


class IncasemError(Exception):
    """An error with a message for the user; a machine or internal error (exit status 1), unless a subclass differs."""

    exit_status = 1


class InputError(IncasemError):
    """The user's input is wrong: a path, a value or a combination (exit status 2)."""

    exit_status = 2


class ConfigError(InputError):
    """A configuration file or a ``key=value`` on the command line is wrong."""


class DataError(InputError):
    """A volume or image is missing, unreadable, incomplete, or contradicts its description."""


class VoxelValueError(DataError):
    """A voxel holds a value that its dataset cannot have: a negative label, a probability outside [0, 1], NaN."""


class RunNotFoundError(InputError):
    """The run store holds no run of that id, or the run lacks the requested data."""


class CheckpointError(InputError):
    """A checkpoint is missing, changed since it was tracked, or belongs to another architecture."""


class DivergedError(CheckpointError):
    """The network of a checkpoint outputs NaN or Inf."""


class StoreError(IncasemError):
    """The run store cannot be reached or written."""


class NoAnswerError(StoreError):
    """The run store's server does not answer; what it was asked to write it may or may not have written."""


class DamagedRecordError(StoreError):
    """The record of a run cannot be read."""


class RunTakenError(StoreError):
    """Another process has claimed the run that this one was writing."""


class DownloadError(IncasemError):
    """A file cannot be fetched, or its content is not the expected one."""


class DiskFullError(IncasemError):
    """No space is left on the disk of the output."""
