"""Runs on their way through simulated stages: when each reaches, begins and leaves every stage.

Nothing comes between the submission of a run and its result but the runs before it and a cancel.
So the times of a run at all stages are computed at once when it is submitted, from those of the
run before it, and again when a cancel changes them; hundreds of stages cost little more than one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeinfer_cli.cluster.profile import Profile
from pipeinfer_cli.scheduler.runs import Run

Times = npt.NDArray[np.float64]  # [n_stages + 1], s; the last place is the head, for the result


@dataclass(slots=True)
class RunTiming:
    """One run. `end_s[i]` is when stage i is through with it; `end_s[-1]` when its result comes."""

    run: Run
    sent_s: float
    cancel_s: Times | None = None  # when a cancel of it is at each stage
    start_s: Times = field(default_factory=lambda: np.empty(0))  # of its compute
    end_s: Times = field(default_factory=lambda: np.empty(0))
    departure_s: Times = field(default_factory=lambda: np.empty(0))  # the link is free again
    given_up_at: int | None = None  # the stage that gave it up

    @property
    def is_aborted(self) -> bool:
        """True if it was given up in mid-compute."""
        stage = self.given_up_at
        return stage is not None and bool(self.end_s[stage] > self.start_s[stage])


@dataclass(frozen=True, slots=True)
class _Cost:
    """Of one kind of run, at each stage and on the link into it."""

    link_s: Times  # how long it occupies the link
    compute_s: Times
    fixed_s: Times  # the two and the latency: arrival to end if nothing is in the way
    sum_s: Times  # cumulated


class SimulatedPipeline:
    """All stages and links of a profile. Runs enter and results leave it in the same order."""

    def __init__(self, profile: Profile) -> None:
        links = [*profile.links, profile.result_link]
        self._profile = profile
        self._latency_s = np.array([link.latency_s() for link in links])
        self._byte_s = np.array([link.busy_s(1) for link in links])
        self._costs: dict[int, _Cost] = {}  # by tokens; 0: a run that was given up
        start = np.zeros(len(links))
        self._before = RunTiming(Run(run_id=0), 0.0, None, start, start, start)
        self._in_flight: list[RunTiming] = []
        self._busy_s = np.zeros(profile.n_stages)

    def submit(self, run: Run, sent_s: float) -> None:
        """A run leaves the head."""
        timing = RunTiming(run, sent_s)
        self._compute(timing, self._in_flight[-1] if self._in_flight else self._before)
        self._in_flight.append(timing)

    def cancel(self, first: int, last: int, sent_s: float) -> None:
        """Gives up the runs `[first, last]`."""
        changed = [each for each in self._in_flight if each.run.run_id >= first]
        before = self._before
        if len(changed) < len(self._in_flight):
            before = self._in_flight[-len(changed) - 1]
        for each in changed:
            if each.run.run_id <= last and each.cancel_s is None:
                each.cancel_s = sent_s + self._latency_s
            self._compute(each, before)
            before = each

    def next_result_s(self) -> float | None:
        """When the oldest run's result comes, as far as is known; None if nothing is under way."""
        return float(self._in_flight[0].end_s[-1]) if self._in_flight else None

    def take_first(self) -> RunTiming:
        """The oldest run, whose result has come."""
        self._before = self._in_flight.pop(0)
        self._busy_s += _busy_s([self._before], np.inf)
        return self._before

    def busy_s(self, now_s: float) -> Times:
        """`[n_stages]` compute until now."""
        return np.asarray(self._busy_s + _busy_s(self._in_flight, now_s))

    def _compute(self, job: RunTiming, before: RunTiming) -> None:
        """The times of a run from those of the one before it."""
        cost = self._cost(len(job.run.tokens))
        job.end_s, job.departure_s = self._pass(job.sent_s, cost, before, slice(None))
        job.start_s = job.end_s - cost.compute_s
        job.given_up_at = None
        if job.cancel_s is None:
            return
        is_late = job.end_s > job.cancel_s
        stage = int(is_late.argmax())
        if stage == self._profile.n_stages or not is_late[stage]:
            return  # every stage was through
        job.given_up_at = stage
        end_s = max(float(job.start_s[stage]), float(job.cancel_s[stage]))
        job.end_s[stage] = end_s
        rest = slice(stage + 1, None)
        job.end_s[rest], job.departure_s[rest] = self._pass(end_s, self._cost(0), before, rest)
        job.start_s[rest] = job.end_s[rest]

    def _pass(
        self, sent_s: float, cost: _Cost, before: RunTiming, stages: slice
    ) -> tuple[Times, Times]:
        """When a run that leaves at `sent_s` is through with these stages, and off their links.

        At each stage `end = max(sent, link is free) + link + latency`, then
        `max(that, stage is free) + compute`; `sent` of the next stage is this `end`. As
        `end[i] = max(end[i - 1] + fixed[i], other[i])` this is a running maximum once the fixed
        times before each stage are taken off.
        """
        fixed_s, sum_s = cost.fixed_s[stages], cost.sum_s[stages]
        link_free_s, stage_free_s = before.departure_s[stages], before.end_s[stages]
        other_s = np.maximum(link_free_s + fixed_s, stage_free_s + cost.compute_s[stages])
        gone_s = sum_s - (sum_s[:1] - fixed_s[:1])  # fixed times from the first of these stages on
        end_s = gone_s + np.maximum(sent_s, np.maximum.accumulate(other_s - gone_s))
        sent = np.concatenate(([sent_s], end_s[:-1])) if len(end_s) else end_s
        return end_s, np.maximum(sent, link_free_s) + cost.link_s[stages]

    def _cost(self, n_tokens: int) -> _Cost:
        if n_tokens not in self._costs:
            n_stages = self._profile.n_stages
            n_bytes = [self._profile.run_bytes(i, n_tokens) for i in range(n_stages)]
            compute_s = [stage.ms(n_tokens) / 1000 for stage in self._profile.stages]
            link_s = np.array([*n_bytes, 0]) * self._byte_s
            computed_s = np.array([*compute_s, 0.0])
            fixed_s = link_s + self._latency_s + computed_s
            self._costs[n_tokens] = _Cost(link_s, computed_s, fixed_s, np.cumsum(fixed_s))
        return self._costs[n_tokens]


def _busy_s(runs: Iterable[RunTiming], until_s: float) -> Times:
    parts = [
        np.minimum(each.end_s, until_s)[:-1] - np.minimum(each.start_s, until_s)[:-1]
        for each in runs
    ]
    return np.asarray(sum(parts, np.zeros(())))
