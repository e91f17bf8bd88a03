"""A request on a virtual clock: the real scheduler, and everything around it as events.

The head's loop and the drafter do as token_stream.TokenStream and thread.DraftThread do; the
pipeline is in pipeline_model.py.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from pipeinfer_cli.cluster.acceptance import SyntheticDrafter, SyntheticText
from pipeinfer_cli.cluster.pipeline_model import RunTiming, SimulatedPipeline
from pipeinfer_cli.cluster.profile import Profile
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.interfaces import Candidate, Drafter
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus, StageTime
from pipeinfer_cli.scheduler.scheduler import Scheduler
from pipeinfer_cli.scheduler.speculation import Draft, DraftRequest

HEAD_US = 50.0  # the head's own time per run: scheduler, ctypes, hand-over to the comm thread


class Clock:
    """Events in the order of their times, in seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()  # events of one time happen in the order they were made

    def at(self, time_s: float, event: Callable[[], None]) -> None:
        """Lets something happen at a time, not before now."""
        heapq.heappush(self._events, (max(time_s, self.now_s), next(self._numbers), event))

    def step(self) -> None:
        """Goes to the next event."""
        assert self._events, "no event is left"
        self.now_s, _, event = heapq.heappop(self._events)
        event()


class SimulatedDrafter:
    """Takes its time for each token, and posts it; as thread.DraftThread, with its epochs."""

    def __init__(
        self, clock: Clock, drafter: Drafter, draft_s: float, post: Callable[[Draft], None]
    ) -> None:
        self.busy_s = 0.0
        self._clock = clock
        self._drafter = drafter
        self._draft_s = draft_s
        self._post = post
        self._requests: deque[DraftRequest] = deque()  # the first one is under way
        self._proposals: Iterator[Sequence[Candidate]] = iter(())
        self._n_posted = 0  # of the first one
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Ends drafts of earlier epochs, each after the token that it is at."""
        self._epoch = epoch

    def request(self, request: DraftRequest) -> None:
        """Starts a draft, after the token that the one under way is at."""
        self._epoch = request.epoch
        self._requests.append(request)
        if len(self._requests) == 1:
            self._begin()

    def _begin(self) -> None:
        self._proposals = self._drafter.propose(
            self._requests[0].context, self._requests[0].n_candidates
        )
        self._n_posted = 0
        self._draft_token()

    def _draft_token(self) -> None:
        self._clock.at(self._clock.now_s + self._draft_s, self._end_token)

    def _end_token(self) -> None:
        self.busy_s += self._draft_s
        request = self._requests[0]
        position = len(request.context)
        if request.epoch != self._epoch:
            return self._end()
        if (candidates := next(self._proposals, None)) is not None:
            (token, probability), *alternatives = candidates
            self._post(
                Draft(
                    request.epoch,
                    position + self._n_posted,
                    token,
                    probability,
                    tuple(alternatives),
                    took_us=round(1e6 * self._draft_s),
                )
            )
            self._n_posted += 1
            if self._n_posted < request.n_max and probability >= request.p_min:
                return self._draft_token()
        self._post(Draft(request.epoch, position, None))
        return self._end()

    def _end(self) -> None:
        self._requests.popleft()
        if self._requests:
            self._begin()


class Simulation:
    """One request on a simulated cluster: call `run`, then read what it has cost."""

    def __init__(
        self,
        profile: Profile,
        scheduler: Scheduler,
        text: SyntheticText,
        *,
        n_prompt: int,
        head_us: float = HEAD_US,
        auto: AutoSpeculation | None = None,
    ) -> None:
        self.token_times_s: list[float] = []
        self.n_cancels = 0  # messages to all stages
        self.pipeline = SimulatedPipeline(profile)
        self.clock = Clock()
        drafter = SyntheticDrafter(text)
        drafter.n_decided = n_prompt
        self.drafts = SimulatedDrafter(
            self.clock, drafter, profile.draft_ms / 1000, self._on_drafted
        )
        self._drafter = drafter
        self._profile = profile
        self._scheduler = scheduler
        self._auto = auto
        if auto is not None:
            scheduler.set_speculating(auto.is_speculating)
        self._text = text
        self._times_by_size: dict[int, tuple[StageTime, ...]] = {}
        self._head_s = head_us * 1e-6
        self._head_free_s = 0.0
        self._is_head_due = False
        self._results: deque[Result] = deque()
        self._drafted: deque[Draft] = deque()
        self._n_expected = 0  # grows with each change of when the next result comes

    def run(self, n_tokens: int) -> None:
        """Until this number of tokens is decided."""
        self._wake_head()
        while len(self.token_times_s) < n_tokens:
            self.clock.step()

    # what reaches the head

    def _expect_result(self) -> None:
        self._n_expected += 1
        if (time_s := self.pipeline.next_result_s()) is not None:
            self.clock.at(time_s, partial(self._on_result, self._n_expected))

    def _on_result(self, number: int) -> None:
        if number != self._n_expected:
            return  # it comes at another time
        timing = self.pipeline.take_first()
        is_cancelled = timing.given_up_at is not None
        result = Result(
            run_id=timing.run.run_id,
            status=RunStatus.CANCELLED if is_cancelled else RunStatus.COMPLETED,
            rows=(),
            times=_given_up_times(timing) if is_cancelled else self._times(timing.run),
        )
        self._results.append(self._text.with_verdicts(result, timing.run))
        self._wake_head()
        self._expect_result()

    def _times(self, run: Run) -> tuple[StageTime, ...]:
        """Of a completed run: the same for all runs of its size."""
        n_tokens = len(run.tokens)
        if n_tokens not in self._times_by_size:
            self._times_by_size[n_tokens] = _completed_times(self._profile, n_tokens)
        return self._times_by_size[n_tokens]

    def _on_drafted(self, draft: Draft) -> None:
        self._drafted.append(draft)
        self._wake_head()

    # the head

    def _wake_head(self) -> None:
        if not self._is_head_due:
            self._is_head_due = True
            self.clock.at(self._head_free_s, self._head_turn)

    def _head_turn(self) -> None:
        """One turn of token_stream.TokenStream's loop, from a wait to the next."""
        self._is_head_due = False
        if self._results:
            decided = self._scheduler.on_result(self._results.popleft())
            self.token_times_s += [self.clock.now_s] * len(decided)
            self._drafter.n_decided += len(decided)
            if self._auto is not None and decided:
                self._auto.decide(self._scheduler, len(decided), self.clock.now_s)
        while self._drafted:
            self._scheduler.on_draft(self._drafted.popleft())
        self._submit()
        if self._results:
            self._wake_head()

    def _submit(self) -> None:
        time_s = self.clock.now_s
        for first, last in self._scheduler.take_cancels():
            self.n_cancels += 1
            self.pipeline.cancel(first, last, time_s)
        for run in self._scheduler.take_runs():
            time_s += self._head_s
            self.pipeline.submit(run, time_s)
        self._head_free_s = time_s
        self._expect_result()
        self.drafts.set_epoch(self._scheduler.epoch)
        if (request := self._scheduler.take_draft_request()) is not None:
            self.drafts.request(request)


def _completed_times(profile: Profile, n_tokens: int) -> tuple[StageTime, ...]:
    return tuple(
        StageTime(index, RunStatus.COMPLETED, 0, 0, round(1000 * stage.ms(n_tokens)))
        for index, stage in enumerate(profile.stages)
    )


def _given_up_times(timing: RunTiming) -> tuple[StageTime, ...]:
    """The stages' times as those of one stage: nobody needs more of a run that was given up."""
    status = RunStatus.ABORTED if timing.is_aborted else RunStatus.CANCELLED
    compute_us = round(1e6 * float((timing.end_s - timing.start_s).sum()))
    return (StageTime(0, status, 0, 0, compute_us),)
