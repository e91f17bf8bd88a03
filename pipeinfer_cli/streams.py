"""Standard streams that were closed when we were started: stand-ins, as if from /dev/null."""

from __future__ import annotations

import fcntl
import os
import sys

from pipeinfer_cli.errors import UserError


def open_closed() -> None:
    """Opens each of stdin, stdout and stderr that is closed: at its end, or dropping all.

    Call it before anything else is opened: files would get their numbers, and stderr's text would
    go into a model, or into the pipe of a rank. A stdin that cannot be read, or a stderr that
    cannot be written, is as good as closed.
    """
    if sys.stdin is None or _mode(0) == os.O_WRONLY:
        sys.stdin = os.fdopen(_opened(0), encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(_opened(1), "w", encoding="utf-8", closefd=False)
    if sys.stderr is None or _mode(2) == os.O_RDONLY:
        sys.stderr = os.fdopen(_opened(2), "w", encoding="utf-8", closefd=False)


def check_stdout() -> None:
    """UserError if it is open, but not for writing: that is a slip (`1< file`)."""
    if _mode(1) == os.O_RDONLY:
        raise UserError("stdout is open for reading only: redirect it with >")


def discard(fd: int) -> None:
    """What was not written to it yet goes nowhere.

    Python would try again at exit, fail, and end with exit code 120.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


def _mode(fd: int) -> int:
    """How the descriptor may be used: O_RDONLY, O_WRONLY or O_RDWR; the last one if unknown."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError:
        return os.O_RDWR


def _opened(fd: int) -> int:
    """The descriptor, now of /dev/null."""
    null = os.open(os.devnull, os.O_RDONLY if fd == 0 else os.O_WRONLY)
    if null != fd:
        os.dup2(null, fd)  # which children inherit
        os.close(null)
    else:
        os.set_inheritable(fd, True)
    return fd
