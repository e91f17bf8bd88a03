"""A batch's items one by one: from a file that is read, or from stdin as its lines come."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from pipeinfer_cli.commands import json_lines
from pipeinfer_cli.commands.batch.items import BadItem, Item

CHUNK_BYTES = 65536
MAX_WAITING = 1024  # lines that were read ahead: whoever writes more of them waits

# Makes an item of its index, the number of its line and the line.
Read = Callable[[int, int, bytes], Item | BadItem]


class Feed(Protocol):
    """Gives items in their order."""

    @property
    def n_items(self) -> int | None:
        """How many there are in all; None: not known yet."""

    @property
    def is_through(self) -> bool:
        """Whether all have been taken."""

    def take(self, wait_s: float) -> Item | BadItem | None:
        """The next one; None if there is none within this time."""


class ListFeed:
    """All items are known."""

    def __init__(self, items: Sequence[Item | BadItem], n_done: int = 0) -> None:
        self.n_items: int | None = len(items)
        self._todo = deque(items[n_done:])

    @property
    def is_through(self) -> bool:
        """See Feed."""
        return not self._todo

    def take(self, wait_s: float) -> Item | BadItem | None:  # noqa: ARG002 (never waits)
        """See Feed."""
        return self._todo.popleft() if self._todo else None


class StreamFeed:
    """Items of lines that arrive on a file descriptor, which a thread of its own reads."""

    def __init__(self, fd: int, read: Read) -> None:
        self.n_items: int | None = None
        self.is_through = False
        self._read = read
        self._n_taken = 0
        self._lines: queue.Queue[tuple[int, bytes] | OSError | None] = queue.Queue(MAX_WAITING)
        # Nothing ends a thread that waits for a line: it must not keep the process from ending.
        threading.Thread(target=self._receive, args=(fd,), daemon=True).start()

    def take(self, wait_s: float) -> Item | BadItem | None:
        """See Feed. OSError if stdin cannot be read."""
        if self.is_through:
            return None
        try:
            line = self._lines.get(timeout=wait_s) if wait_s else self._lines.get_nowait()
        except queue.Empty:
            return None
        if isinstance(line, OSError):
            raise line
        if line is None:
            self.is_through, self.n_items = True, self._n_taken
            return None
        self._n_taken += 1
        return self._read(self._n_taken - 1, *line)

    def _receive(self, fd: int) -> None:
        try:
            for numbered in json_lines.received(lambda: os.read(fd, CHUNK_BYTES)):
                self._lines.put(numbered)
            self._lines.put(None)
        except OSError as error:
            self._lines.put(error)
