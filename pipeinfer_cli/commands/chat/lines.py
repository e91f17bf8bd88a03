"""Where a conversation's lines come from: a terminal with editing, a pipe, or our parent."""

from __future__ import annotations

import json
import os
import sys
from typing import Protocol

from pipeinfer_cli.commands.chat.terminal import read_message
from pipeinfer_cli.console import printable
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import local_rank

GREETING = "/reset forgets the conversation, /quit or Ctrl-D ends, Ctrl-C ends an answer, /help"


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
    """The next message on stdin, without its end; None after the last one.

    On a terminal with a prompt and editing, and it may have several lines. UserError if it is not
    UTF-8.
    """
    if sys.stdin is None:
        raise UserError("there is no stdin to read messages from: use generate --chat")
    try:
        if sys.stdin.isatty():
            message = read_message(note)
            return message and message.encode(errors="surrogateescape").decode()
        line = sys.stdin.buffer.readline()
        return line.decode().rstrip("\r\n") if line else None
    except UnicodeDecodeError as error:
        raise UserError(
            f"a message on stdin is not UTF-8 text (byte {error.start}): convert it, for example "
            "with iconv"
        ) from None
