"""A request on a virtual clock: the real scheduler, and everything around it as events.

The head takes the same turns as a real one (scheduler/exchange.py), the drafter does as
thread.DraftThread does; the pipeline is in pipeline_model.py.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from pipeinfer_cli.cluster.acceptance.source import SimulatedSource
from pipeinfer_cli.cluster.acceptance.text import SyntheticText
from pipeinfer_cli.cluster.pipeline_model import RunTiming, SimulatedPipeline
from pipeinfer_cli.cluster.profile import Profile
from pipeinfer_cli.scheduler.auto import AutoSpeculation
from pipeinfer_cli.scheduler.exchange import Exchange, OneRequest
from pipeinfer_cli.scheduler.interfaces import DraftBatch, DraftedBatch, Drafter
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus, StageTime
from pipeinfer_cli.scheduler.scheduler import Scheduler

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


class Source(Drafter, Protocol):
    """A drafter whose batches take a known time."""

    def batch_s(self, batch: DraftBatch) -> float:
        """How long the batch takes."""


class SimulatedDrafter:
    """Takes its time for each batch, and notifies then; as thread.DraftThread, with its epochs."""

    def __init__(
        self,
        clock: Clock,
        source: Source,
        notify: Callable[[], None],
    ) -> None:
        self.busy_s = 0.0
        self._clock = clock
        self._source = source
        self._notify = notify
        self._drafted: list[DraftedBatch] = []
        self._batches: deque[DraftBatch] = deque()  # the first one is under way
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Batches of earlier epochs are not wanted any more; the one under way goes on."""
        self._epoch = epoch

    def request(self, batch: DraftBatch) -> None:
        """Starts on a batch, after the one under way."""
        self._epoch = batch.epoch
        self._batches.append(batch)
        if len(self._batches) == 1:
            self._begin()

    def take(self) -> list[DraftedBatch]:
        """What has been drafted since the last call."""
        drafted, self._drafted = self._drafted, []
        return drafted

    def _begin(self) -> None:
        while self._batches and self._batches[0].epoch != self._epoch:
            self._batches.popleft()
        if self._batches:
            took_s = self._source.batch_s(self._batches[0])
            self._clock.at(self._clock.now_s + took_s, partial(self._end, took_s))

    def _end(self, took_s: float) -> None:
        self.busy_s += took_s
        batch = self._batches.popleft()
        if batch.epoch == self._epoch:
            candidates = self._source.expand(batch, lambda: True) or []
            took_us = round(1e6 * took_s)
            self._drafted.append(
                DraftedBatch(batch.epoch, tuple(candidates), took_us, batch.drafter)
            )
            self._notify()
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
        source: SimulatedSource | None = None,
    ) -> None:
        """`source`: what drafts; None: the profile's draft model, as good as the text says."""
        self.token_times_s: list[float] = []
        self.n_cancels = 0  # messages to all stages
        self.pipeline = SimulatedPipeline(profile)
        self.clock = Clock()
        self._source = source or SimulatedSource(text, profile.draft_batch_s)
        self._source.note_decided(n_prompt)
        self.drafts = SimulatedDrafter(self.clock, self._source, self._wake_head)
        self._profile = profile
        self._exchange = Exchange(self, OneRequest(scheduler, self.drafts), auto=auto)
        self._text = text
        self._times_by_size: dict[int, tuple[StageTime, ...]] = {}
        self._head_s = head_us * 1e-6
        self._head_free_s = 0.0
        self._is_head_due = False
        self._results: deque[Result] = deque()
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

    # the head

    def _wake_head(self) -> None:
        if not self._is_head_due:
            self._is_head_due = True
            self.clock.at(self._head_free_s, self._head_turn)

    def _head_turn(self) -> None:
        """One turn of the head's loop, from a wait to the next."""
        self._is_head_due = False
        self._head_free_s = self.clock.now_s
        if self._results:
            now_s = self.clock.now_s
            for _, tokens in self._exchange.on_result(self._results.popleft(), now_s):
                self.token_times_s += [now_s] * len(tokens)
                self._source.note_decided(len(tokens))
        self._exchange.take_drafts()
        self._exchange.submit(self.clock.now_s)
        self._expect_result()
        if self.clock.now_s < (wake_s := self._exchange.wake_s) < math.inf:
            self.clock.at(wake_s, self._wake_head)
        if self._results:
            self._wake_head()

    # interfaces.RunSink: what the head sends, and its own time for it

    def submit(self, run: Run) -> None:
        """The head has spent its time on the run, and sends it."""
        self._head_free_s += self._head_s
        self.pipeline.submit(run, self._head_free_s)

    def cancel(self, run_first: int, run_last: int) -> None:
        """A cancel goes to all stages."""
        self.n_cancels += 1
        self.pipeline.cancel(run_first, run_last, self.clock.now_s)


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
