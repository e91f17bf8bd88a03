"""Where a conversation's lines come from: a terminal with editing, a pipe, or our parent."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Protocol

from pipeinfer_cli.console import printable
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import local_rank

PROMPT = "> "
GREETING = "/reset forgets the conversation, /quit or Ctrl-D ends, Ctrl-C ends an answer"


class Lines(Protocol):
    """Gives one line after the other."""

    def read(self) -> str | None:
        """The next line, without its end; None after the last one."""


class OwnLines:
    """Those of this process's stdin."""

    def read(self) -> str | None:
        """See `read_line`."""
        return read_line()


class ParentLines:
    """Those that the process with the terminal reads for us: see local_input.StdinForwarder."""

    def __init__(self) -> None:
        place = local_rank.folder()
        assert place is not None
        self._ask_fd = os.open(place / local_rank.ASK_FIFO, os.O_WRONLY)

    def read(self) -> str | None:
        """Asks for a line, and waits for it."""
        os.write(self._ask_fd, b"?")
        line: str | None = json.loads(sys.stdin.buffer.readline())
        return line


def open_lines() -> Lines:
    """Those of the person or program that this conversation is with."""
    return OwnLines() if local_rank.folder() is None else ParentLines()


def greet() -> None:
    """Tells a person on a terminal what there is besides messages."""
    if sys.stdin is not None and sys.stdin.isatty():
        note(GREETING)


def note(text: str) -> None:
    """Prints something that is not part of the conversation."""
    print(f"pipeinfer: {printable(text)}", file=sys.stderr, flush=True)


def read_line() -> str | None:
    """The next line on stdin, without its end; None after the last one.

    With a prompt and line editing if stdin is a terminal. UserError if it is not UTF-8.
    """
    if sys.stdin is None:
        raise UserError("there is no stdin to read messages from: use generate --chat")
    try:
        if sys.stdin.isatty():
            return _edited_line()
        line = sys.stdin.buffer.readline()
        return line.decode().rstrip("\r\n") if line else None
    except UnicodeDecodeError as error:
        raise UserError(
            f"a message on stdin is not UTF-8 text (byte {error.start}): convert it, for example "
            "with iconv"
        ) from None


def _edited_line() -> str | None:
    with _terminal_as_stdout():
        with contextlib.suppress(ImportError):  # not everywhere; lines are plain then
            import readline  # noqa: F401 (input edits with it)
        try:
            return input(PROMPT).encode(errors="surrogateescape").decode()
        except EOFError:
            print()  # the prompt's line ends
            return None
        except BaseException:  # a signal; what is said then begins a line
            print()
            raise


@contextlib.contextmanager
def _terminal_as_stdout() -> Iterator[None]:
    """Python edits lines, and shows prompts, on stdout only: it is the terminal for a moment."""
    if sys.stdout.isatty():
        yield
        return
    terminal = os.open(os.ttyname(sys.stdin.fileno()), os.O_WRONLY)
    stdout = os.dup(1)
    os.write(terminal, b"\r")  # over the ^C that ended an answer which is not on the terminal
    os.dup2(terminal, 1)
    os.close(terminal)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)
