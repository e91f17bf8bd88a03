"""A thread that drafts while the head does its other work."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar

from pipeinfer_cli.scheduler.interfaces import DraftBatch, DraftedBatch, Drafter

FAILURE_POLL_S = 0.5


class _Worker:
    """A thread for one DraftThread after the other.

    New threads for each request would leave memory behind, some 300 bytes each, once MPI is there.
    """

    _idle: ClassVar[list[_Worker]] = []

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._is_done = threading.Event()
        threading.Thread(target=self._work, name="drafter", daemon=True).start()

    @classmethod
    def take(cls) -> _Worker:
        """One that has nothing to do."""
        return cls._idle.pop() if cls._idle else cls()

    def start(self, call: Callable[[], None]) -> None:
        """Has it do something."""
        self._is_done.clear()
        self._calls.put(call)

    def give_back(self, notify: Callable[[], object]) -> None:
        """Waits until that is done; then it is available to others.

        A failed pipeline does not wait: where llama.cpp's assertions fail, threads never return.
        """
        while not self._is_done.wait(FAILURE_POLL_S):
            if notify() is False:
                return
        self._idle.append(self)

    def _work(self) -> None:
        while True:
            self._calls.get()()
            self._is_done.set()


class DraftThread:
    """Carries out batches, the latest one only: an answer for each that is wanted to its end.

    `notify` is called on the thread whenever there is something new, and not any more when `close`
    has begun: also if a signal ends the wait there, what `notify` uses may go. `close` itself calls
    it now and then while it waits. It returns False if the pipeline has failed.
    """

    def __init__(self, drafter: Drafter, notify: Callable[[], object]) -> None:
        self._drafter = drafter
        self._notify = notify
        self._requests: queue.SimpleQueue[DraftBatch | None] = queue.SimpleQueue()
        self._drafted: deque[DraftedBatch] = deque()
        self._error: BaseException | None = None
        self._epoch = 0  # drafts of earlier epochs are not wanted any more
        self._telling = threading.Lock()
        self._is_closed = False
        self._worker = _Worker.take()
        self._worker.start(self._serve)

    def request(self, batch: DraftBatch) -> None:
        """Starts on a batch; the one under way ends."""
        self.set_epoch(batch.epoch)
        self._requests.put(batch)

    def set_epoch(self, epoch: int) -> None:
        """Batches of earlier epochs are not wanted any more."""
        self._epoch = epoch

    def take(self) -> list[DraftedBatch]:
        """What has been drafted since the last call; raises what the drafter raised."""
        if self._error is not None:
            raise self._error
        return [self._drafted.popleft() for _ in range(len(self._drafted))]

    def close(self) -> None:
        """Ends its work, between two pieces of a text; called once."""
        self.set_epoch(-1)
        with self._telling:
            self._is_closed = True
        self._requests.put(None)
        self._worker.give_back(self._notify)

    def _serve(self) -> None:
        while (batch := self._requests.get()) is not None:
            try:
                self._draft(batch)
            except BaseException as error:  # noqa: BLE001 (the head's thread raises it)
                self._error = error
                self._tell()
                return

    def _draft(self, batch: DraftBatch) -> None:
        def is_wanted() -> bool:
            return self._epoch == batch.epoch

        if not is_wanted():
            return
        begin_ns = time.monotonic_ns()
        candidates = self._drafter.expand(batch, is_wanted)
        took_us = (time.monotonic_ns() - begin_ns) // 1000
        if candidates is not None and is_wanted():
            self._drafted.append(
                DraftedBatch(batch.epoch, tuple(candidates), took_us, batch.drafter)
            )
            self._tell()

    def _tell(self) -> None:
        with self._telling:
            if not self._is_closed:
                self._notify()
