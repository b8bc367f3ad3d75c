"""Every error emray raises on purpose, and the exit code each one means.

    EmrayError
    ├── UserError            exit 2: the input is wrong; nothing was written
    │   ├── SpecError            the sweep file or --set
    │   └── DataError            a dataset, question file or model folder
    ├── StageError           exit 1: the world failed us; everything earned is kept, run again to go on
    │   └── EndpointUnreachable     no connection to the judge after bounded retries
    └── StoreError           exit 1: the run folder is damaged or held by another sweep

Not for programming mistakes: those are `assert` and tracebacks. All survive pickling, since they cross
process borders inside Ray: each takes one message and nothing else.
"""

import errno

from emray.printable import printable_line


class EmrayError(Exception):
    """One clear line: what was wrong, what was given, what is allowed, what to do."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(printable_line(message))


class UserError(EmrayError):
    """The input is wrong; nothing was written."""

    exit_code = 2


class SpecError(UserError):
    """The sweep file, or a `--set`, is wrong."""


class DataError(UserError):
    """A dataset, question file or model folder is wrong."""


class StageError(EmrayError):
    """A stage could not finish; everything earned so far is recorded."""


class EndpointUnreachable(StageError):
    """The judge endpoint did not answer at all within bounded retries."""


class StoreError(EmrayError):
    """The run folder is damaged, or another sweep is using it."""


_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_OURS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def of_disk(error: BaseException | None) -> EmrayError | None:
    """What a disk that is full or must not be written means to a command; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in (*_FULL, *_NOT_OURS):
        return None
    said = f"{error.filename2 or error.filename or 'the disk'}: {error.strerror}"
    if error.errno in _FULL:
        return StageError(f"{said}; make room and run the same command again, all that is done is kept")
    return UserError(f"{said}; give another folder, or the right to write there")
