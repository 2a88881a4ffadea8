"""The errors a person sees: one sentence that says what was wrong, what was found and what to do."""


class IncasemError(Exception):
    """An error with a message for a person; the machine's or ours, unless a subclass says otherwise."""

    exit_status = 1


class InputError(IncasemError):
    """The person's input is at fault: a wrong path, value or combination."""

    exit_status = 2


class ConfigError(InputError):
    """A configuration file or a ``key=value`` on the command line is wrong."""


class DataError(InputError):
    """A volume or image is missing, unreadable, incomplete or contradicts what was said about it."""


class VoxelValueError(DataError):
    """A voxel holds a value that its dataset cannot have: a negative label, a probability outside [0, 1], NaN."""


class RunNotFoundError(InputError):
    """The run store holds no run of that id, or the run lacks what was asked of it."""


class CheckpointError(InputError):
    """A checkpoint is missing, changed since it was tracked, or belongs to another architecture."""


class DivergedError(CheckpointError):
    """The network of a checkpoint gives values that are not numbers."""


class StoreError(IncasemError):
    """The run store cannot be reached or written."""


class DamagedRecordError(StoreError):
    """The record of a run cannot be read."""


class RunTakenError(StoreError):
    """Another process goes on with the run that this one was writing."""


class DownloadError(IncasemError):
    """A file cannot be fetched, or what came is not what was asked for."""


class DiskFullError(IncasemError):
    """No space is left where the output goes."""
