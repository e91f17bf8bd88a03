"""One turn of the loop that schedules, submits and waits, for one request and for several alike.

What flows, and who owns it:

- Runs and cancels go from the requests to the pipeline. A request that has the pipeline to itself
  (`OneRequest`) hands on what its scheduler says; of several, the `Batcher` gives runs the
  pipeline's ids, puts decided tokens of different requests into one run, and translates cancels.
- Results come back in the order of submission, to whoever made the runs, and decide token ids. They
  leave by request, for the caller to make texts of.
- Batches of nodes to expand go from each scheduler to its request's drafter, and candidates come
  back. A drafter is its request's own; whoever has made it closes it.
- The pacer hears of all runs: it predicts when the next one may leave.
- Whether to speculate is decided once for all requests, by `AutoSpeculation`.

Nothing here waits or asks for the time: runtime/decode_loop.py does both by the clock, and
cluster/simulator.py by a virtual one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.batcher import ScheduledRequest
from pipeinfer_cli.scheduler.costs.pacer import StagePacer
from pipeinfer_cli.scheduler.interfaces import Drafts, Observer, RunSink
from pipeinfer_cli.scheduler.runs import Result, Run
from pipeinfer_cli.scheduler.scheduler import Scheduler

Key = TypeVar("Key", bound=Hashable)
Decided = list[tuple[ScheduledRequest[Key], list[int]]]  # token ids, by request


class Requests(Protocol[Key]):
    """What has runs to submit: OneRequest, or batcher.Batcher."""

    @property
    def is_idle(self) -> bool:
        """True if no run is in flight."""

    @property
    def active(self) -> Sequence[ScheduledRequest[Key]]:
        """The requests whose text is not over."""

    @property
    def drafting(self) -> Sequence[ScheduledRequest[Key]]:
        """The requests that may draft now."""

    @property
    def expected_gain(self) -> float | None:
        """The expected speed of speculation over plain decoding's; None: unknown."""

    def take_cancels(self) -> list[tuple[int, int]]:
        """Ranges `[first, last]` of run ids to give up now, in this order."""

    @property
    def pacer(self) -> StagePacer:
        """Of the pipeline."""

    @property
    def wake_s(self) -> float:
        """When a run may leave though nothing else has happened by then; infinite: never."""

    def next_run(self, now_s: float) -> Run | None:
        """The run to submit now; None if there is nothing to submit yet."""

    def on_result(self, result: Result, now_s: float) -> Decided[Key]:
        """The token ids that this result, come now, has decided, by request."""


class OneRequest:
    """A request that has the pipeline to itself: its scheduler's decisions as they are."""

    def __init__(self, scheduler: Scheduler, drafts: Drafts | None = None) -> None:
        self._scheduler = scheduler
        self._request: ScheduledRequest[None] = ScheduledRequest(None, scheduler, drafts)
        self.active = self.drafting = (self._request,)

    @property
    def is_idle(self) -> bool:
        """True if no run is in flight."""
        return self._scheduler.is_idle

    @property
    def expected_gain(self) -> float | None:
        """See Scheduler.expected_gain."""
        return self._scheduler.expected_gain

    def take_cancels(self) -> list[tuple[int, int]]:
        """See Scheduler.take_cancels."""
        return self._scheduler.take_cancels()

    @property
    def pacer(self) -> StagePacer:
        """See Requests."""
        return self._scheduler.knowledge.pacer

    @property
    def wake_s(self) -> float:
        """See Scheduler.wake_s."""
        return self._scheduler.wake_s

    def next_run(self, now_s: float) -> Run | None:
        """See Scheduler.next_run."""
        return self._scheduler.next_run(now_s)

    def on_result(self, result: Result, now_s: float) -> Decided[None]:
        """The token ids that this result has decided."""
        tokens = self._scheduler.on_result(result, now_s)
        return [(self._request, tokens)] if tokens else []


class Exchange(Generic[Key]):
    """Carries runs, results and drafts between requests, pipeline and drafters.

    A turn is `take_drafts`, `submit`, a wait, and `on_result` if a result has come.
    """

    def __init__(
        self,
        pipeline: RunSink,
        requests: Requests[Key],
        *,
        open_drafts: Callable[[ScheduledRequest[Key]], Drafts] | None = None,
        auto: AutoSpeculation | None = None,
        observer: Observer | None = None,
    ) -> None:
        """`open_drafts` is called when a request without a drafter may draft for the first time."""
        self._pipeline = pipeline
        self._requests = requests
        self._open_drafts = open_drafts
        self._auto = auto
        self._observer = observer
        for request in requests.active:
            self.on_begin(request)

    @property
    def is_idle(self) -> bool:
        """True if no run is in flight."""
        return self._requests.is_idle

    @property
    def wake_s(self) -> float:
        """When a run may leave though nothing else has happened by then; infinite: never."""
        return self._requests.wake_s

    def on_begin(self, request: ScheduledRequest[Key]) -> None:
        """The request has joined the others."""
        if self._auto is not None:
            request.scheduler.speculate(self._auto.way)

    def take_drafts(self) -> None:
        """Hands the schedulers what has been drafted. Raises what a drafter has raised."""
        for request in self._requests.active:
            for draft in request.drafts.take() if request.drafts is not None else ():
                request.scheduler.on_drafted(draft)

    def submit(self, now_s: float) -> None:
        """Sends cancels and runs, and asks for drafts."""
        pacer = self._requests.pacer
        for run_first, run_last in self._requests.take_cancels():
            if self._observer is not None:
                self._observer.on_cancel(run_first, run_last)
            pacer.on_cancel(run_first, run_last)
            self._pipeline.cancel(run_first, run_last)
        while (run := self._requests.next_run(now_s)) is not None:
            if self._observer is not None:
                self._observer.on_submit(run)
            pacer.on_submit(run.run_id, len(run.tokens), now_s)
            self._pipeline.submit(run)
        for request in self._requests.drafting:
            self._draft(request)

    def on_result(self, result: Result, now_s: float) -> Decided[Key]:
        """The token ids that this result has decided, by request; it came at `now_s`."""
        self._requests.pacer.on_result(result.run_id, now_s)
        n_accepted = self._n_accepted
        decided = self._requests.on_result(result, now_s)
        tokens = [token for _, each in decided for token in each]
        if self._observer is not None:
            self._observer.on_result(result, tokens, self._n_accepted - n_accepted)
        if self._auto is not None and tokens:
            schedulers = [request.scheduler for request in self._requests.active]
            gain = self._requests.expected_gain
            self._auto.decide(schedulers, len(tokens), now_s, gain=gain)
        return decided

    @property
    def _n_accepted(self) -> int:
        """Drafted tokens that have turned out right, of all requests."""
        return sum(each.scheduler.counters.n_accepted for each in self._requests.active)

    def _draft(self, request: ScheduledRequest[Key]) -> None:
        scheduler = request.scheduler
        if scheduler.policy.draft is None:
            return
        if request.drafts is None:
            assert self._open_drafts is not None, "the policy has something to draft with"
            request.drafts = self._open_drafts(request)
        request.drafts.set_epoch(scheduler.epoch)
        if (batch := scheduler.take_batch()) is not None:
            request.drafts.request(batch)
