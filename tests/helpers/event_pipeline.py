"""Stages and links event by event: slow and plain, to compare cluster/pipeline_model.py with."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pipeinfer_cli.cluster.profile import Link, Profile
from pipeinfer_cli.cluster.simulator import Clock


@dataclass
class Job:
    run_id: int
    n_tokens: int
    is_cancelled: bool = False
    arrival_s: float = 0.0


class EventLink:
    def __init__(self, link: Link) -> None:
        self.link = link
        self.free_s = 0.0

    def arrival_s(self, sent_s: float, n_bytes: int) -> float:
        self.free_s = max(sent_s, self.free_s) + self.link.busy_s(n_bytes)
        return self.free_s + self.link.latency_s()


class EventStage:
    """One run at a time; looks for a cancel when it begins and when a cancel comes."""

    def __init__(self, clock: Clock, compute_s: Callable[[int], float], end: Callable) -> None:
        self.clock, self.compute_s, self.end = clock, compute_s, end
        self.queue: deque[Job] = deque()
        self.current: Job | None = None
        self.begun_s = self.busy_s = 0.0
        self.cancelled: set[int] = set()
        self.n_begun = 0

    def receive(self, job: Job) -> None:
        self.queue.append(job)
        self.next()

    def next(self) -> None:
        if self.current is None and self.queue:
            self.current = self.queue.popleft()
            self.begun_s = self.clock.now_s
            self.n_begun += 1
            job = self.current
            job.is_cancelled |= job.run_id in self.cancelled
            compute_s = 0.0 if job.is_cancelled else self.compute_s(job.n_tokens)
            self.clock.at(self.begun_s + compute_s, partial(self.finish, self.n_begun))

    def cancel(self, first: int, last: int) -> None:
        self.cancelled.update(range(first, last + 1))
        if self.current is not None and first <= self.current.run_id <= last:
            self.current.is_cancelled = True
            self.finish(self.n_begun)

    def finish(self, number: int) -> None:
        if self.current is None or number != self.n_begun:
            return
        job, self.current = self.current, None
        self.busy_s += self.clock.now_s - self.begun_s
        self.end(job)
        self.next()


class EventPipeline:
    """The results of runs with given times of submission and of cancels."""

    def __init__(self, profile: Profile) -> None:
        self.clock = Clock()
        self.profile = profile
        self.links = [EventLink(link) for link in profile.links]
        self.result_link = EventLink(profile.result_link)
        self.results: dict[int, tuple[float, bool]] = {}  # when it came, and was it cancelled
        self.stages = [
            EventStage(self.clock, partial(self.compute_s, i), partial(self.send, i + 1))
            for i in range(profile.n_stages)
        ]

    def compute_s(self, stage: int, n_tokens: int) -> float:
        return self.profile.stages[stage].ms(n_tokens) / 1000

    def send(self, stage: int, job: Job) -> None:
        now_s = self.clock.now_s
        if stage == len(self.stages):
            self.results[job.run_id] = (self.result_link.arrival_s(now_s, 0), job.is_cancelled)
            return
        n_bytes = 0 if job.is_cancelled else self.profile.run_bytes(stage, job.n_tokens)
        arrival_s = self.links[stage].arrival_s(now_s, n_bytes)
        self.clock.at(arrival_s, partial(self.stages[stage].receive, job))

    def submit_at(self, time_s: float, run_id: int, n_tokens: int) -> None:
        self.clock.at(time_s, partial(self.send, 0, Job(run_id, n_tokens)))

    def cancel_at(self, time_s: float, first: int, last: int) -> None:
        for stage, link in zip(self.stages, self.profile.links, strict=True):
            self.clock.at(time_s + link.latency_s(), partial(stage.cancel, first, last))

    def run_until(self, n_results: int) -> None:
        while len(self.results) < n_results:
            self.clock.step()
