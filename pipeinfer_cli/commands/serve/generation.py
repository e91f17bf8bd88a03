"""A request between two threads: HTTP waits for its text, and the head's loop makes it.

HTTP has a thread with an event loop, the pipeline's loop is on the head's main thread. What one
hands to the other:

- Requests wait in a `RequestQueue`, of a given length; the head takes them when it has room. It is
  also the way for cancels.
- Text waits in its `Generation`, which is bounded by the length of the answer: the pipeline does
  not wait for slow readers.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from pipeinfer_cli.runtime.answer import Ends
from pipeinfer_cli.runtime.grammar.matcher import GrammarState
from pipeinfer_cli.scheduler.metrics import Stats
from pipeinfer_cli.scheduler.runs import SampleParams

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What the head needs to know of a request."""

    prompt: tuple[int, ...]  # token ids
    n_max: int  # at most this number of tokens
    sample: SampleParams
    ends: Ends
    constraint: GrammarState | None = None  # what the text must follow


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an answer has ended. `stats` is what it has cost."""

    finish_reason: FinishReason
    stop: str = ""  # the stop string that has ended it
    stats: Stats


class GenerationError(Exception):
    """The pipeline has ended before the answer."""


class TimeLimitError(GenerationError):
    """The answer has taken longer than a request may."""


class GrammarError(GenerationError):
    """The text cannot go on as its grammar wants."""


class QueueFullError(Exception):
    """As many requests as may wait do so already."""


class DrainingError(Exception):
    """The server is about to end."""


class Generation:
    """A request and what has come of its answer. Made on HTTP's thread, in its event loop."""

    def __init__(self, request: GenerationRequest, time_limit_s: float) -> None:
        self.request = request
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(time_limit_s, self._expire)
        self._has_news = asyncio.Event()
        self._pieces: deque[str] = deque()
        self._outcome: Outcome | GenerationError | None = None
        self.left_s: float | None = None  # when its client left, after the pipeline had taken it

    # the head's thread

    def put(self, text: str) -> None:
        """More of the text."""
        if text:
            self._pieces.append(text)
            self._tell()

    def end(self, outcome: Outcome | GenerationError) -> None:
        """The text is complete, or there is no more of it."""
        self._outcome = outcome
        self._tell()

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._has_news.set)
        except RuntimeError:  # HTTP's thread has ended
            pass

    # HTTP's thread

    async def texts(self) -> AsyncIterator[str]:
        """The text as it comes. GenerationError if its end does not."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            outcome = self._outcome  # before the pieces: they are complete then
            if text := "".join(self._pieces.popleft() for _ in range(len(self._pieces))):
                yield text
            if isinstance(outcome, GenerationError):
                raise outcome
            if outcome is not None:
                return

    @property
    def has_ended(self) -> bool:
        """Whether the head has nothing to do with it any more."""
        return self._outcome is not None and not isinstance(self._outcome, TimeLimitError)

    def close(self) -> None:
        """Nobody asks for its text any more."""
        self._timer.cancel()

    def _expire(self) -> None:
        if self._outcome is None:
            self.end(TimeLimitError())

    @property
    def outcome(self) -> Outcome:
        """How it has ended; after `texts`."""
        assert isinstance(self._outcome, Outcome)
        return self._outcome


class RequestQueue:
    """Requests that wait for the pipeline, and those that nobody wants any more."""

    def __init__(self, n_max: int) -> None:
        self._n_max = n_max
        self._lock = threading.Lock()
        self._waiting: deque[Generation] = deque()
        self._cancelled: list[Generation] = []
        self._wake: Callable[[], object] = lambda: None
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_closed(self) -> bool:
        """Whether no more requests are taken."""
        return self._is_closed

    # HTTP's thread

    def put(self, generation: Generation) -> None:
        """One more. QueueFullError or DrainingError if it has to be refused."""
        with self._lock:
            if self._is_closed:
                raise DrainingError
            if len(self._waiting) >= self._n_max:
                raise QueueFullError
            self._waiting.append(generation)
            self._wake()

    def cancel(self, generation: Generation) -> None:
        """Nobody wants its text any more. One that has ended is ignored."""
        with self._lock:
            if generation in self._waiting:
                self._waiting.remove(generation)
            else:
                generation.left_s = time.monotonic()
                self._cancelled.append(generation)
                self._wake()

    # the head's thread

    def listen(self, wake: Callable[[], object]) -> None:
        """From now on `wake` is called, on any thread, when there is something new."""
        with self._lock:
            self._wake = wake

    def take(self) -> Generation | None:
        """The one that has waited longest; None if there is none."""
        with self._lock:
            return self._waiting.popleft() if self._waiting else None

    def take_cancelled(self) -> list[Generation]:
        """Those that were taken, and that nobody wants any more."""
        with self._lock:
            cancelled, self._cancelled = self._cancelled, []
            return cancelled

    def close(self) -> None:
        """No more are taken in."""
        with self._lock:
            self._is_closed = True

    def deafen(self) -> None:
        """`wake` is not called any more: what it uses may go."""
        self.listen(lambda: None)
