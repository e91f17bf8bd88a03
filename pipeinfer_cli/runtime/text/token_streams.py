"""The token ids of several requests at a time on one loaded pipeline; see batcher.py."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeinfer_cli.drafters.thread import DraftThread
from pipeinfer_cli.runtime.decode_loop import DecodeLoop
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.batcher import Batcher, ScheduledRequest
from pipeinfer_cli.scheduler.exchange import Exchange
from pipeinfer_cli.scheduler.interfaces import Drafter, Observer, Pipeline
from pipeinfer_cli.scheduler.scheduler import Scheduler

Key = TypeVar("Key", bound=Hashable)
# A drafter of its own for each request that drafts at the time: `slot` is 0, 1, ...
DrafterMaker = Callable[[int], Drafter | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamsState:
    """What the requests hold of the pipeline."""

    n_requests: int  # whose texts are not over
    n_cached: int  # texts that are over whose cells are kept
    n_cached_tokens: int
    n_sequences: int  # sequence ids in use: of requests, their branches, and texts that are kept


@dataclass(slots=True, eq=False)
class _Served(Generic[Key]):
    """A request, and what the head has for it."""

    request: ScheduledRequest[Key]
    make_drafter: DrafterMaker
    slot: int | None = None
    thread: DraftThread | None = None


class TokenStreams(Generic[Key]):
    """Serves several requests: `begin` them, `step` until their texts are long enough, `end` them.

    Close it, and all drafters are at rest. RunError: see DecodeLoop.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        batcher: Batcher[Key],
        *,
        timeout_s: float,
        nudge: Callable[[], object],
        auto: AutoSpeculation | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._batcher = batcher
        self._nudge = nudge
        self._auto = auto
        self._exchange = Exchange(
            pipeline, batcher, open_drafts=self._open_drafts, auto=auto, observer=observer
        )
        self._loop = DecodeLoop(pipeline, self._exchange, timeout_s=timeout_s)
        self._served: dict[Key, _Served[Key]] = {}

    def begin(self, key: Key, scheduler: Scheduler, make_drafter: DrafterMaker) -> None:
        """A request joins; it has a key of its own."""
        assert key not in self._served
        if self._auto is not None and not self._served:
            self._auto.begin_text()  # the time since the last one is not this one's
        request = self._batcher.admit(key, scheduler)
        self._exchange.on_begin(request)
        self._served[key] = _Served(request, make_drafter)

    def end(self, key: Key) -> None:
        """The request's text is long enough."""
        served = self._served.pop(key)
        if served.thread is not None:
            served.thread.close()
        self._batcher.end(served.request)

    def step(self) -> list[tuple[Key, list[int]]]:
        """Submits, and waits for at most one result: the tokens that it has decided, by request."""
        return [(request.key, tokens) for request, tokens in self._loop.turn()]

    @property
    def state(self) -> StreamsState:
        """What the requests hold of the pipeline now."""
        cache = self._batcher.cache
        return StreamsState(
            n_requests=len(self._served),
            n_cached=len(cache),
            n_cached_tokens=cache.n_tokens,
            n_sequences=self._batcher.n_sequences,
        )

    def is_drafted(self, run_id: int) -> bool:
        """Whether a run in flight has only drafted tokens, of one request."""
        return self._batcher.is_drafted(run_id)

    def close(self) -> None:
        """Ends all requests, and waits for what is in flight."""
        for key in list(self._served):
            self.end(key)
        self._batcher.close()
        self._loop.drain()

    def _open_drafts(self, request: ScheduledRequest[Key]) -> DraftThread:
        """The request may draft now: its drafter, in the first free slot."""
        served = self._served[request.key]
        slots = {each.slot for each in self._served.values()}
        served.slot = next(i for i in range(len(slots) + 1) if i not in slots)
        drafter = served.make_drafter(served.slot)
        assert drafter is not None, "the policy has something to draft with"
        served.thread = DraftThread(drafter, self._nudge)
        return served.thread
