"""What the scheduler itself costs per run, with many runs in flight and no pipeline behind it.

    python benchmarks/scheduler.py [runs in flight] [tokens]

Chains, of which every 50th token is wrong, and trees of three candidates, whose second one is right
as often. Drafts included; the script's own part, too. Time is the process's CPU time.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from itertools import count

from pipeinfer_cli.scheduler.policy import DraftConfig, Policy
from pipeinfer_cli.scheduler.runs import Result, Run, RunStatus
from pipeinfer_cli.scheduler.scheduler import Scheduler
from pipeinfer_cli.scheduler.speculation import Draft, DraftRequest

MISS_EVERY = 50  # tokens


class Play:
    """A scheduler whose runs are all answered in order; the text counts: 0, 1, 2, ..."""

    def __init__(self, depth: int, n_tokens: int, width: int) -> None:
        policy = Policy(draft=DraftConfig(n_max=1, p_min=0.0, width=width), depth=depth)
        self.scheduler = Scheduler([0], n_max=n_tokens, policy=policy, run_ids=count(1))
        self.n_tokens = n_tokens
        self.in_flight: deque[Run] = deque()
        self.cancelled: set[int] = set()
        self.n_drafts = 0

    def play(self) -> str:
        n_runs = n_decided = most = 0
        start_s = time.process_time()
        while n_decided < self.n_tokens:
            self.submit()
            while (request := self.scheduler.take_draft_request()) is not None:
                self.draft(request)
            most = max(most, self.scheduler.n_live)
            n_decided += len(self.scheduler.on_result(self.answer()))
            n_runs += 1
        elapsed_us = 1e6 * (time.process_time() - start_s)
        return (
            f"{n_runs} runs, up to {most} in flight, {n_decided} tokens, {self.n_drafts} drafted: "
            f"{elapsed_us / n_runs:.1f} us per run, {elapsed_us / n_decided:.1f} per token"
        )

    def submit(self) -> None:
        for first, last in self.scheduler.take_cancels():
            self.cancelled.update(range(first, last + 1))
        self.in_flight.extend(self.scheduler.take_runs())

    def draft(self, request: DraftRequest) -> None:
        n_before = len(request.context)
        for position in range(n_before, n_before + request.n_max):
            tokens = [position, position + 1, position + 2]
            if position % MISS_EVERY == 0:
                tokens = [position + 1, position, position + 2]
            alternatives = [(token, 0.2) for token in tokens[1 : request.n_candidates]]
            draft = Draft(request.epoch, position, tokens[0], 0.6, tuple(alternatives))
            self.scheduler.on_draft(draft)
            self.n_drafts += 1
            self.submit()
        if request.n_candidates == 1:
            self.scheduler.on_draft(Draft(request.epoch, 0, None))

    def answer(self) -> Result:
        run = self.in_flight.popleft()
        is_cancelled = run.run_id in self.cancelled
        rows = () if is_cancelled else tuple(t.position + 1 for t in run.tokens if t.want)
        status = RunStatus.CANCELLED if is_cancelled else RunStatus.COMPLETED
        return Result(run_id=run.run_id, status=status, rows=rows, times=())


def main() -> None:
    depth = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    n_tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 4000
    for name, width in (("chains", 1), ("trees of width 3", 3)):
        print(f"{name}: {Play(depth, n_tokens, width).play()}")


if __name__ == "__main__":
    main()
