"""--log-file: what a rank has done, in lines with time, rank and host. Quiet without it."""

from __future__ import annotations

import logging
import os
import socket
import sys

from pipeinfer_cli import console, files
from pipeinfer_cli.console import printable
from pipeinfer_cli.errors import UserError

LOG = logging.getLogger("pipeinfer")
LOG.propagate = False
LOG.addHandler(logging.NullHandler())


def begin(template: str | None, rank: int | str) -> int | None:
    """Opens this rank's log, and gives its file descriptor. UserError if it cannot be opened."""
    if template is None:
        return None
    path = template.replace("{rank}", str(rank))
    try:
        handler = _LogFile(path)
    except OSError as error:
        raise UserError(
            f"--log-file {template!r}: cannot write {path!r} ({error.strerror}): "
            "give a file that can be written"
        ) from None
    for old in LOG.handlers[:]:
        if isinstance(old, _LogFile):
            LOG.removeHandler(old)
            old.close()
    handler.setFormatter(_Lines(label(rank)))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    return handler.fd


def label(rank: int | str) -> str:
    """Who writes a line."""
    return f"rank {rank} {socket.gethostname()}"


def note(text: str, *, verbose: bool) -> None:
    """A line for the log; with -v on stderr, too."""
    LOG.info("%s", text)
    if verbose:
        print(f"pipeinfer: {printable(text)}", file=sys.stderr)


class _Lines(logging.Formatter):
    """One line per event: time, rank, host, level, text; a traceback follows it."""

    def __init__(self, who: str) -> None:
        super().__init__(f"%(asctime)s {who.replace('%', '%%')} %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """One line, whatever is in it."""
        return printable(super().formatMessage(record))


class _LogFile(logging.Handler):
    """Appends; a line is one write, so that those of several ranks do not mix in one file.

    A full disk is said once, and ends nothing but the log.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.fd = files.opener(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line, and the traceback that may belong to it."""
        try:
            os.write(self.fd, f"{self.format(record)}\n".encode(errors="replace"))
        except OSError as error:
            LOG.removeHandler(self)
            console.note(f"the log ends: {error.strerror}")

    def close(self) -> None:
        """Twice is fine."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        super().close()
