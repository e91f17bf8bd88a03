"""What scheduler, planner and exchange cost per run, with a full pipeline on a virtual clock.

    python benchmarks/scheduler.py [runs in flight] [tokens] [--profile]

Chains and trees as they are given, and adaptive ones. The best of three candidates is wrong at
every 50th or 5th token, where the second one is right. The drafter answers four batches per run.
Time is the process's CPU time, the script's own part included. `--profile` lists the hot spots of
the last one.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
import time
from collections import deque
from itertools import count

from pipeinfer_cli.scheduler.costs.measured import PriorCosts
from pipeinfer_cli.scheduler.exchange import Exchange, OneRequest
from pipeinfer_cli.scheduler.interfaces import DraftBatch, DraftedBatch
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig, Policy
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus, StageTime
from pipeinfer_cli.scheduler.scheduler import Scheduler

STAGE_S = 0.010  # for a token; each further one adds a tenth
DRAFT_S = STAGE_S / 4
SIZES = (1, 2, 4, 8, 16, 32)


class Play:
    """A scheduler whose runs are answered in order; the text counts: 0, 1, 2, ..."""

    def __init__(self, policy: Policy, n_tokens: int, miss_every: int) -> None:
        self.scheduler = Scheduler([0], n_max=n_tokens, policy=policy, run_ids=count(1))
        self.exchange = Exchange(self, OneRequest(self.scheduler, self))
        self.n_tokens, self.miss_every = n_tokens, miss_every
        self.now_s = 0.0
        self.n_stages = policy.n_stages
        self.in_flight: deque[tuple[float, Run]] = deque()  # with the times of their results
        self.cancelled: set[int] = set()
        self.batches: list[DraftBatch] = []
        self.epoch = self.n_drafts = 0
        self.drafted: list[DraftedBatch] = []
        self.n_passes = self.n_runs = self.n_fed = 0
        self.times = {size: self.times_of(size) for size in range(1, SIZES[-1] + 1)}

    def play(self) -> str:
        n_decided = most = 0
        start_s = time.process_time()
        while n_decided < self.n_tokens:
            self.exchange.take_drafts()
            self.exchange.submit(self.now_s)
            self.draft()
            most = max(most, self.scheduler.n_live)
            self.now_s += DRAFT_S
            while self.in_flight and self.in_flight[0][0] <= self.now_s:
                for _, tokens in self.exchange.on_result(self.answer(), self.now_s):
                    n_decided += len(tokens)
        elapsed_us = 1e6 * (time.process_time() - start_s)
        return (
            f"{self.n_runs} runs of {self.n_fed / self.n_runs:.1f} tokens, up to {most} in flight, "
            f"{n_decided} tokens, {self.n_drafts} nodes in {self.n_passes} batches: "
            f"{elapsed_us / self.n_runs:.1f} us per run, {elapsed_us / n_decided:.1f} per token"
        )

    # the drafter

    def request(self, batch: DraftBatch) -> None:
        self.epoch = batch.epoch
        self.batches.append(batch)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def take(self) -> list[DraftedBatch]:
        drafted, self.drafted = self.drafted, []
        return drafted

    def draft(self) -> None:
        for batch in self.batches:
            if batch.epoch == self.epoch:
                candidates = tuple(
                    self.candidates(batch.n_text + len(branch))[: batch.n_candidates]
                    for branch in batch.branches
                )
                self.drafted.append(DraftedBatch(batch.epoch, candidates, round(1e6 * DRAFT_S)))
                self.n_drafts += len(candidates)
                self.n_passes += 1
        self.batches.clear()

    def candidates(self, position: int) -> list[tuple[int, float]]:
        best, second, third = position, position + 1, position + 2
        if position % self.miss_every == 0:
            best, second = second, best
        return [(best, 0.8), (second, 0.15), (third, 0.04)]

    # the pipeline

    def submit(self, run: Run) -> None:
        first_s = self.in_flight[-1][0] if self.in_flight else 0.0
        stage_s = STAGE_S * (9 + len(run.tokens)) / 10
        self.in_flight.append(
            (max(first_s, self.now_s + stage_s * (self.n_stages - 1)) + stage_s, run)
        )
        self.n_runs += 1
        self.n_fed += len(run.tokens)

    def cancel(self, run_first: int, run_last: int) -> None:
        self.cancelled.update(range(run_first, run_last + 1))

    def answer(self) -> Result:
        _, run = self.in_flight.popleft()
        if run.run_id in self.cancelled:
            return Result(run_id=run.run_id, status=RunStatus.CANCELLED, rows=(), times=())
        rows = tuple(t.position + 1 for t in run.tokens if t.want)
        times = self.times[len(run.tokens)]
        return Result(run_id=run.run_id, status=RunStatus.COMPLETED, rows=rows, times=times)

    def times_of(self, size: int) -> tuple[StageTime, ...]:
        compute_us = round(1e5 * STAGE_S * (9 + size))
        return tuple(
            StageTime(stage, RunStatus.COMPLETED, 0, 0, compute_us)
            for stage in range(self.n_stages)
        )


def policies(n_stages: int) -> dict[str, Policy]:
    """What is compared."""
    by_size = {
        size: (STAGE_S * (9 + size) / 10, n_stages * STAGE_S * (9 + size) / 10) for size in SIZES
    }
    prior = PriorCosts(by_size=by_size, draft_s=DRAFT_S)
    found = {
        name: Policy(
            draft=DraftConfig(n_max=1, p_min=0.0, width=width), depth=n_stages, n_stages=n_stages
        )
        for name, width in (("chains", 1), ("trees of width 3", 3))
    }
    found["adaptive"] = Policy.of("pipeinfer", DEFAULT_DRAFT, n_stages=n_stages, prior=prior)
    return found


def main() -> None:
    numbers = [int(each) for each in sys.argv[1:] if each.isdigit()]
    n_stages = numbers[0] if numbers else 64
    n_tokens = numbers[1] if len(numbers) > 1 else 4000
    profile = cProfile.Profile()
    for miss_every in (50, 5):
        for name, policy in policies(n_stages).items():
            play = Play(policy, n_tokens, miss_every)
            print(f"every {miss_every}th wrong, {name}: {play.play()}", flush=True)
    if "--profile" in sys.argv:
        play = Play(policies(n_stages)["adaptive"], n_tokens, 5)
        profile.runcall(play.play)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
