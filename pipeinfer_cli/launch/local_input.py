"""What the parent passes to rank 0: all of its stdin, or a line of its terminal when rank 0 asks.

For lines there are two more FIFOs in the private folder: through one rank 0 asks, a byte for a
line; through the other the line comes, in JSON, or null after the last one. While an answer is
under way, Ctrl-C goes to rank 0 as ANSWER_SIGNAL; the next one ends the job, and so do two at an
empty prompt.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from pipeinfer_cli.errors import Interrupted
from pipeinfer_cli.launch import local_output, local_rank

ReadLine = Callable[[], str | None]
CHECK_S = 0.2  # how soon the end of a rank is noticed at the prompt


class _Over(BaseException):
    """The job has ended while a person was typing."""


def forward_stdin(place: Path) -> None:
    """Begins to copy our stdin to rank 0's, as it comes. Call it before the ranks start."""
    guard = local_rank.make_fifo(place / local_rank.STDIN_FIFO)
    # Nothing ends a thread that waits for a line: it must not keep the process from ending.
    threading.Thread(target=_copy, args=(place, guard), daemon=True).start()


def _copy(place: Path, guard: int) -> None:
    """Until its end, which rank 0 sees when no process has the FIFO open for writing."""
    with suppress(OSError), (place / local_rank.STDIN_FIFO).open("wb", buffering=0) as fifo:
        with suppress(BrokenPipeError):
            while data := _read_stdin():
                while data:
                    data = data[fifo.write(data) :]
        # Before rank 0 has opened it, too, what is in it would be lost.
        while place.exists() and not (place / "rank-0.pid").exists():
            time.sleep(CHECK_S)
    os.close(guard)


def _read_stdin() -> bytes:
    """What there is, as soon as there is something; nothing at the end, or after saying why not."""
    while True:
        try:
            return os.read(0, local_output.CHUNK_BYTES)
        except BlockingIOError:  # whoever else has the same file open made it so
            select.select([0], [], [])
        except OSError as error:
            print(
                f"pipeinfer: warning: stdin cannot be read: {error.strerror}: it ends here",
                file=sys.stderr,
                flush=True,
            )
            return b""


class StdinForwarder:
    """The parent's side. Make it before the ranks start."""

    def __init__(
        self, place: Path, forwarders: local_output.OutputForwarders, read_line: ReadLine
    ) -> None:
        self._place = place
        self._forwarders = forwarders
        self._read_line = read_line
        request_fd = forwarders.own(local_rank.make_fifo(place / local_rank.ASK_FIFO))
        self._requests = forwarders.capture(request_fd, keep_bytes=1)
        self._lines_fd = forwarders.own(local_rank.make_fifo(place / local_rank.STDIN_FIFO))
        self._unsent = b""
        self._is_answering = False  # and has not been interrupted

    def step(self, received: list[int], is_over: Callable[[], bool]) -> None:
        """Passes on what there is, and reads a line if rank 0 waits for one.

        `received` are the signals that ask us to end: some are taken out, some may come.
        """
        if self._is_answering and received == [signal.SIGINT]:
            received.clear()
            self._is_answering = False
            pid = int((self._place / "rank-0.pid").read_text())
            local_rank.kill(pid, local_rank.ANSWER_SIGNAL)
        if self._requests.kept and not received:
            self._requests.kept.clear()
            self._forwarders.drain(lambda: bool(received))  # the answer stands before the prompt
            self._read(received, is_over)
        self._send()

    def _read(self, received: list[int], is_over: Callable[[], bool]) -> None:
        try:
            with _prompting(received, is_over):
                line = self._read_line()
        except _Over:
            return
        except Interrupted as interrupted:
            received.append(interrupted.signum)
            return
        self._unsent = json.dumps(line).encode() + b"\n"
        self._is_answering = line is not None

    def _send(self) -> None:
        """A long line may take several steps, while rank 0 reads it."""
        if self._unsent:
            with suppress(BlockingIOError):
                self._unsent = self._unsent[os.write(self._lines_fd, self._unsent) :]


@contextmanager
def _prompting(received: list[int], is_over: Callable[[], bool]) -> Iterator[None]:
    """Reading a line blocks: signals and the job's end get out of it by an exception."""

    def interrupt(signum: int, _frame: FrameType | None) -> None:
        raise Interrupted(signum)

    def check(_signum: int, _frame: FrameType | None) -> None:
        if is_over():
            raise _Over

    handlers = {**dict.fromkeys(local_rank.ENDING_SIGNALS, interrupt), signal.SIGALRM: check}
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    signal.setitimer(signal.ITIMER_REAL, CHECK_S, CHECK_S)
    try:
        if received:  # it came just before
            raise _Over
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in before.items():
            signal.signal(signum, handler)
