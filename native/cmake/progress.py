"""Runs a command that prints much, and shows a line instead: how far ninja is, and for how long.

    python progress.py TITLE -- COMMAND [ARGUMENT...]

Off a terminal it is a line now and then. What the command prints is in build/log.txt, and the last
of it is shown if it fails. The exit code is the command's.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LOG = Path("build", "log.txt")
STEP = re.compile(rb"\[(\d+)/(\d+)\]")  # as ninja counts
WAIT_S = 0.5
LINE_S = 30.0  # between lines, off a terminal
CHUNK_BYTES = 65536
N_SHOWN = 40  # lines, of a command that has failed


class Shown:
    """The line."""

    def __init__(self, title: str, *, is_terminal: bool) -> None:
        self._title = title
        self._is_terminal = is_terminal
        self._start_s = time.monotonic()
        self._next_s = self._start_s
        self._step = ""

    def read(self, data: bytes) -> None:
        """What the command has printed."""
        if found := STEP.findall(data):
            self._step = " [{}/{}]".format(*(number.decode() for number in found[-1]))

    def update(self) -> None:
        """Shows it, if it is time."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (WAIT_S if self._is_terminal else LINE_S)
        self._put(f"{self._title}{self._step} {self._elapsed()}", end="")

    def end(self, outcome: str) -> None:
        """The last one."""
        self._put(f"{self._title}: {outcome} {self._elapsed()}", end="\n")

    def _put(self, text: str, end: str) -> None:
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{text[:width]}{end}")
        else:
            sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def _elapsed(self) -> str:
        minutes, seconds = divmod(round(time.monotonic() - self._start_s), 60)
        return f"{minutes}:{seconds:02}"


def run(title: str, command: Sequence[str]) -> int:
    """Runs the command; its exit code."""
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    shown = Shown(title, is_terminal=is_terminal)
    LOG.parent.mkdir(exist_ok=True)
    with (
        LOG.open("ab+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        begin = log.tell()
        assert process.stdout is not None
        is_over = False
        while not is_over:
            shown.update()
            if select.select([process.stdout], [], [], WAIT_S)[0]:
                data = process.stdout.read1(CHUNK_BYTES)  # type: ignore[attr-defined]
                is_over = not data
                log.write(data)
                shown.read(data)
        code = process.wait()
        shown.end("done in" if code == 0 else "failed after")
        if code != 0:
            log.seek(begin)
            lines = log.read().decode(errors="replace").splitlines()[-N_SHOWN:]
            sys.stderr.write("".join(f"{line}\n" for line in [*lines, f"(all of it: {LOG})"]))
    return code if code >= 0 else 128 - code


def main() -> int:
    """The exit code."""
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        sys.stderr.write(f"{__doc__}\n")
        return 2
    try:
        return run(sys.argv[1], sys.argv[3:])
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
