"""A thread that drafts while the head does its other work."""

from __future__ import annotations

import abc
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Generic, Protocol, TypeVar

from pipeinfer_cli.scheduler.interfaces import BatchDrafter, DraftBatch, DraftedBatch, Drafter
from pipeinfer_cli.scheduler.speculation import Draft, DraftRequest


class _Worker:
    """A thread for one drafter at work after the other.

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

    def give_back(self) -> None:
        """Waits until that is done; then it is available to others."""
        self._is_done.wait()
        self._idle.append(self)

    def _work(self) -> None:
        while True:
            self._calls.get()()
            self._is_done.set()


class _Request(Protocol):
    @property
    def epoch(self) -> int: ...


RequestT = TypeVar("RequestT", bound=_Request)
PostedT = TypeVar("PostedT")


class _Thread(abc.ABC, Generic[RequestT, PostedT]):
    """Carries out requests to a drafter, the latest one only; `take` brings what it has so far.

    `notify` is called on the thread whenever there is something new, and not any more when `close`
    has begun: also if a signal ends the wait there, what `notify` uses may go.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._requests: queue.SimpleQueue[RequestT | None] = queue.SimpleQueue()
        self._posted: deque[PostedT] = deque()
        self._error: BaseException | None = None
        self._epoch = 0  # requests of earlier epochs are not wanted any more
        self._telling = threading.Lock()
        self._is_closed = False
        self._worker = _Worker.take()
        self._worker.start(self._serve)

    def request(self, request: RequestT) -> None:
        """Starts a draft; the one before it ends."""
        self.set_epoch(request.epoch)
        self._requests.put(request)

    def set_epoch(self, epoch: int) -> None:
        """Ends drafts of earlier epochs."""
        self._epoch = epoch

    def take(self) -> list[PostedT]:
        """What has been drafted since the last call; raises what the drafter raised."""
        if self._error is not None:
            raise self._error
        return [self._posted.popleft() for _ in range(len(self._posted))]

    def close(self) -> None:
        """Ends its work, between two tokens or pieces of a text; called once."""
        self.set_epoch(-1)
        with self._telling:
            self._is_closed = True
        self._requests.put(None)
        self._worker.give_back()

    @abc.abstractmethod
    def _draft(self, request: RequestT) -> None:
        """Carries out a request, on the thread."""

    def _is_wanted(self, request: RequestT) -> bool:
        return self._epoch == request.epoch

    def _serve(self) -> None:
        while (request := self._requests.get()) is not None:
            try:
                if self._is_wanted(request):
                    self._draft(request)
            except BaseException as error:  # noqa: BLE001 (the head's thread raises it)
                self._error = error
                self._tell()
                return

    def _tell(self) -> None:
        with self._telling:
            if not self._is_closed:
                self._notify()


class DraftThread(_Thread[DraftRequest, Draft]):
    """Carries out draft requests, token by token."""

    def __init__(self, drafter: Drafter, notify: Callable[[], None]) -> None:
        self._drafter = drafter
        super().__init__(notify)

    def _draft(self, request: DraftRequest) -> None:
        position = first = len(request.context)
        begin_ns = time.monotonic_ns()
        for candidates in self._drafter.propose(request.context, request.n_candidates):
            if not self._is_wanted(request):
                return
            if not candidates:
                continue
            (token, probability), *alternatives = candidates
            end_ns = time.monotonic_ns()
            draft = Draft(
                request.epoch,
                position,
                token,
                probability,
                tuple(alternatives),
                took_us=(end_ns - begin_ns) // 1000,
            )
            begin_ns = end_ns
            self._posted.append(draft)
            position += 1
            if position == first + request.n_max or probability < request.p_min:
                break
            if not request.is_whole:
                self._tell()
        self._posted.append(Draft(request.epoch, first, None))
        self._tell()


class BatchThread(_Thread[DraftBatch, DraftedBatch]):
    """Carries out batches: one answer for each that is wanted to its end."""

    def __init__(self, drafter: BatchDrafter, notify: Callable[[], None]) -> None:
        self._drafter = drafter
        super().__init__(notify)

    def _draft(self, request: DraftBatch) -> None:
        begin_ns = time.monotonic_ns()
        candidates = self._drafter.expand(request, lambda: self._is_wanted(request))
        took_us = (time.monotonic_ns() - begin_ns) // 1000
        if candidates is not None and self._is_wanted(request):
            self._posted.append(DraftedBatch(request.epoch, tuple(candidates), took_us))
            self._tell()
