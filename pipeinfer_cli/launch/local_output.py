"""Copies bytes from pipes to our own output in one poll loop that nothing can block."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from dataclasses import dataclass, field

CHUNK_BYTES = 65536
# A pipe that poll calls writable takes this many bytes without blocking.
ATOMIC_BYTES = select.PIPE_BUF
DRAIN_POLL_S = 0.05
GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


@dataclass(slots=True)
class OutputForwarder:
    """One source; its bytes go to the sink, or are kept (the last ones) if there is none."""

    source: int
    sink: int | None = None
    keep_bytes: int = 0
    closed: bool = False  # the sink takes nothing any more; what comes is dropped
    error: OSError | None = None  # why, unless its reader went away
    ended: bool = False  # the source is at its end
    kept: bytearray = field(default_factory=bytearray)
    pending: bytes = b""

    def read(self) -> bool:
        """Takes what is available; False if nothing is."""
        try:
            data = os.read(self.source, CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self.ended = True
        elif self.sink is None:
            self.kept += data
            del self.kept[: -self.keep_bytes]
        elif not self.closed:
            self.pending = data
        return bool(data)

    def write(self) -> None:
        """Passes on a piece that a writable sink takes without blocking."""
        assert self.sink is not None
        try:
            written = os.write(self.sink, self.pending[:ATOMIC_BYTES])
        except BlockingIOError:
            return
        except OSError as error:
            self.error = None if isinstance(error, BrokenPipeError) else error
            self.close()
            return
        self.pending = self.pending[written:]

    def close(self) -> None:
        """Gives the sink up."""
        self.closed, self.pending = True, b""


class OutputForwarders:
    """All forwarders of a job, and a file descriptor that wakes the loop (signals)."""

    def __init__(self, wake_fd: int) -> None:
        self._wake_fd = wake_fd
        self._forwarders: list[OutputForwarder] = []
        self._owned: list[int] = []

    def __enter__(self) -> OutputForwarders:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._owned:
            os.close(fd)

    def own(self, fd: int) -> int:
        """Closes the file descriptor in the end; returns it."""
        self._owned.append(fd)
        return fd

    def add(self, source: int, sink: int) -> OutputForwarder:
        """Forwards `source`, which is ours from now on, to `sink`."""
        self._forwarders.append(OutputForwarder(self.own(source), sink))
        return self._forwarders[-1]

    def capture(self, source: int, keep_bytes: int) -> OutputForwarder:
        """Keeps the last bytes of `source`."""
        os.set_blocking(source, False)
        self._forwarders.append(OutputForwarder(source, keep_bytes=keep_bytes))
        return self._forwarders[-1]

    def step(self, timeout_s: float) -> bool:
        """Waits until something can be moved and moves it; False if nothing could be."""
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        for each in self._forwarders:
            if not each.pending and not each.ended:
                poller.register(each.source, select.POLLIN)
            if each.sink is not None and not each.closed:
                # Also with nothing to write: a reader that goes away is noticed at once.
                poller.register(each.sink, select.POLLOUT if each.pending else 0)
        events = dict(poller.poll(timeout_s * 1000))
        if self._wake_fd in events:
            os.read(self._wake_fd, CHUNK_BYTES)
        moved = [
            self._move(each, events) for each in self._forwarders
        ]  # all of them, in every step
        return any(moved)

    def drain(self, enough: Callable[[], bool]) -> None:
        """Moves what is left in the pipes, to slow readers too, until `enough()`."""
        while not enough():
            waiting = any(each.pending for each in self._forwarders)
            if not self.step(DRAIN_POLL_S if waiting else 0.0) and not waiting:
                return

    def _move(self, each: OutputForwarder, events: dict[int, int]) -> bool:
        if each.sink is not None and not each.closed and events.get(each.sink, 0) & GONE:
            each.close()
        if each.pending:
            if events.get(each.sink or -1, 0) & select.POLLOUT:
                each.write()
                return True
            return False
        if not each.ended and each.source in events:
            return each.read()
        return False
