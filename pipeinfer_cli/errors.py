"""The errors that people see. `pipeinfer_cli.cli.main` alone turns them into exit codes."""

from __future__ import annotations

import errno
import os
import signal
from typing import ClassVar

RESUME = "give --resume to continue"


class PipeinferError(Exception):
    """An error with a message for a person: what, which value, what to do. One line."""

    exit_code: ClassVar[int] = 1


class UserError(PipeinferError):
    """What was asked for cannot be done: a bad option, file, model or installation."""

    exit_code = 2


class RunError(PipeinferError):
    """Something failed while running: a rank died, the network or the disk gave up."""

    exit_code = 1


class OutputError(RunError):
    """Our stdout cannot be written: the disk is full."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(f"cannot write to stdout: {reason.strerror}: the rest of it is lost")


class OutputClosedError(PipeinferError):
    """The reader of our stdout went away (`| head`): end quietly, as SIGPIPE would."""

    exit_code = 128 + signal.SIGPIPE


class Interrupted(BaseException):
    """A signal asked us to end; not an Exception, so that no handler of errors swallows it."""

    def __init__(self, signum: int, *, resume: str = "") -> None:
        super().__init__(signum)
        self.signum = signum
        self.resume = resume  # how to continue, if nothing is lost

    @property
    def exit_code(self) -> int:
        """75 if nothing is lost, else the shell's convention: 130, 143, 138 (SIGUSR1), ..."""
        return os.EX_TEMPFAIL if self.resume else 128 + self.signum


def exit_code_of(error: BaseException | None) -> int:
    """The exit code that belongs to an exception; 0 for none."""
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, BrokenPipeError):
        return OutputClosedError.exit_code
    return int(getattr(error, "exit_code", 1))


def is_disk_full(error: BaseException) -> bool:
    """Whether a file could not be written, since there is no room for it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
