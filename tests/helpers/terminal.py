"""A command on a terminal: what a person would see of it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyte

N_COLUMNS, N_LINES = 60, 40
WAIT_S = 60


@dataclass(frozen=True)
class Seen:
    code: int
    lines: list[str]  # on the screen at the end, without what is empty below
    is_cursor_hidden: bool
    frames: set[str]  # all lines that were seen at some time
    stdout: str  # if it was not the terminal


class Screen:
    def __init__(self) -> None:
        self._screen = pyte.Screen(N_COLUMNS, N_LINES)
        self._stream = pyte.ByteStream(self._screen)
        self.frames: set[str] = set()

    def feed(self, data: bytes) -> None:
        self._stream.feed(data)
        self.frames |= set(self.lines)

    @property
    def lines(self) -> list[str]:
        lines = [line.rstrip() for line in self._screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def is_cursor_hidden(self) -> bool:
        return bool(self._screen.cursor.hidden)


def run_on_terminal(
    command: list[str],
    *,
    pipe_stdout: bool = False,
    interrupt_at: str = "",
    timeout_s: float = WAIT_S,
) -> Seen:
    """Runs it with stderr (and stdout) on a terminal; Ctrl-C once `interrupt_at` is on the screen.

    The text on stdout may be more than a pipe holds: it is read at the end, so keep it short.
    """
    main, terminal = os.openpty()
    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", N_LINES, N_COLUMNS, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if pipe_stdout else terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    os.close(terminal)
    screen, give_up_s = Screen(), time.monotonic() + timeout_s
    try:
        while time.monotonic() < give_up_s and (data := _read(main)) is not None:
            screen.feed(data)
            if interrupt_at and any(interrupt_at in line for line in screen.lines):
                process.send_signal(signal.SIGINT)
                interrupt_at = ""
        stdout = process.communicate(timeout=10)[0]
    finally:
        process.kill()
        os.close(main)
    return Seen(
        process.returncode,
        screen.lines,
        screen.is_cursor_hidden,
        screen.frames,
        stdout.decode() if stdout else "",
    )


class Person:
    """A command on a terminal of its own, and somebody who types.

    stdin and stderr are the terminal; stdout is a file.
    """

    def __init__(self, command: list[str], stdout: Path) -> None:
        self._main, terminal = os.openpty()
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", N_LINES, N_COLUMNS, 0, 0))
        with stdout.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                stdin=terminal,
                stdout=file,
                stderr=terminal,
                env={**os.environ, "TERM": "xterm-256color"},
                start_new_session=True,
                # the terminal's Ctrl-C becomes a signal then
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
            )
        os.close(terminal)
        self._screen = Screen()
        self.is_raw = False  # whether the program has left it in raw mode

    @property
    def lines(self) -> list[str]:
        return self._screen.lines

    @property
    def reads_keys(self) -> bool:
        """Whether the program gets each key as it is typed, not lines at their end."""
        return not termios.tcgetattr(self._main)[3] & termios.ICANON

    def type(self, keys: bytes) -> None:
        os.write(self._main, keys)

    def wait_until(self, is_so: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        give_up_s = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < give_up_s, self.lines
            assert self.process.poll() is None, self.lines
            if data := _read(self._main):
                self._screen.feed(data)

    def wait(self) -> int:
        """The exit code; `lines` are those at the end."""
        give_up_s = time.monotonic() + WAIT_S
        try:
            while (data := _read(self._main)) is not None:
                self._screen.feed(data)
                assert time.monotonic() < give_up_s, self.lines
            self.is_raw = self.reads_keys
            return self.process.wait(timeout=20)
        finally:
            self.process.kill()
            os.close(self._main)


def _read(main: int) -> bytes | None:
    """What has come within a while; None once nobody has the terminal open."""
    if not select.select([main], [], [], 0.5)[0]:
        return b""
    try:
        return os.read(main, 65536) or None
    except OSError:
        return None


def wrapped(text: str) -> list[str]:
    """The text as a terminal shows it."""
    return [
        line[first : first + N_COLUMNS].rstrip()
        for line in text.split("\n")
        for first in range(0, max(len(line), 1), N_COLUMNS)
    ]
