"""The head's loop for several requests at a time on one loaded pipeline; see batcher.py."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeinfer_cli.drafters.thread import DraftThread
from pipeinfer_cli.runtime.token_stream import Waiting
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.batcher import ActiveRequest, Batcher
from pipeinfer_cli.scheduler.interfaces import Drafter, Pipeline
from pipeinfer_cli.scheduler.scheduler import Scheduler

Key = TypeVar("Key", bound=Hashable)
# A drafter of its own for each request that drafts at the time: `slot` is 0, 1, ...
DrafterMaker = Callable[[int], Drafter | None]


@dataclass(slots=True, eq=False)
class _Served(Generic[Key]):
    """A request, and what the head has for it."""

    request: ActiveRequest[Key]
    make_drafter: DrafterMaker
    slot: int | None = None
    drafts: DraftThread | None = None


class TokenStreams(Generic[Key]):
    """Serves several requests: `begin` them, `step` until their texts are long enough, `end` them.

    Close it, and all drafters are at rest. RunError if a stage fails or no result comes for
    `timeout_s`.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        batcher: Batcher[Key],
        *,
        timeout_s: float,
        nudge: Callable[[], None],
        auto: AutoSpeculation | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._batcher = batcher
        self._waiting = Waiting(pipeline, timeout_s)
        self._nudge = nudge
        self._auto = auto  # for all requests together
        self._served: dict[Key, _Served[Key]] = {}

    def begin(self, key: Key, scheduler: Scheduler, make_drafter: DrafterMaker) -> None:
        """A request joins; it has a key of its own."""
        assert key not in self._served
        if self._auto is not None:
            scheduler.set_speculating(self._auto.is_speculating)
        self._served[key] = _Served(self._batcher.admit(key, scheduler), make_drafter)

    def end(self, key: Key) -> None:
        """The request's text is long enough."""
        served = self._served.pop(key)
        if served.drafts is not None:
            served.drafts.close()
        self._batcher.end(served.request)

    def step(self) -> list[tuple[Key, list[int]]]:
        """Submits, and waits for at most one result: the tokens that it has decided, by request."""
        self._submit()
        decided = self._take()
        if self._auto is not None and decided:
            schedulers = [served.request.scheduler for served in self._served.values()]
            self._auto.on_tokens(
                sum(len(tokens) for _, tokens in decided),
                time.monotonic(),
                n_drafted=sum(each.n_drafted for each in schedulers),
            )
            for each in schedulers:
                each.set_speculating(self._auto.is_speculating)
        for served in self._served.values():
            for draft in served.drafts.take() if served.drafts is not None else ():
                served.request.scheduler.on_draft(draft)
        return decided

    def close(self) -> None:
        """Ends all requests, and waits for what is in flight."""
        for key in list(self._served):
            self.end(key)
        self._batcher.close()
        self._submit()
        while not self._batcher.is_idle:
            self._take()

    def _submit(self) -> None:
        for run_first, run_last in self._batcher.take_cancels():
            self._pipeline.cancel(run_first, run_last)
        for run in self._batcher.take_runs():
            self._pipeline.submit(run)
        for request in self._batcher.drafting:
            self._draft(self._served[request.key])

    def _take(self) -> list[tuple[Key, list[int]]]:
        result = self._waiting.result(is_idle=self._batcher.is_idle)
        if result is None:
            return []
        return [(request.key, tokens) for request, tokens in self._batcher.on_result(result)]

    def _draft(self, served: _Served[Key]) -> None:
        scheduler = served.request.scheduler
        if scheduler.policy.draft is None:
            return
        if served.slot is None:
            slots = {each.slot for each in self._served.values()}
            served.slot = next(i for i in range(len(slots) + 1) if i not in slots)
            drafter = served.make_drafter(served.slot)
            assert drafter is not None, "the policy has something to draft with"
            served.drafts = DraftThread(drafter, self._nudge)
        assert served.drafts is not None
        served.drafts.set_epoch(scheduler.epoch)
        if (draft_request := scheduler.take_draft_request()) is not None:
            served.drafts.request(draft_request)
