"""What the scheduler itself costs per run, with many runs in flight and no pipeline behind it.

python tests/bench/scheduler.py [runs in flight] [tokens]
"""

from __future__ import annotations

import sys
import time
from collections import deque
from itertools import count

from pipeinfer_cli.policy import DraftConfig, Policy
from pipeinfer_cli.runs import Fate, Result
from pipeinfer_cli.scheduler import Scheduler
from pipeinfer_cli.speculation import Draft

MISS_EVERY = 50  # tokens


def main() -> None:
    depth = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    n_tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 4000
    policy = Policy(draft=DraftConfig(n_max=1, p_min=0.0), depth=depth)
    scheduler = Scheduler([0], n_max=n_tokens, policy=policy, run_ids=count(1))
    in_flight, n_decided, n_steps, most = deque(), 0, 0, 0
    cancelled: set[int] = set()
    start = time.perf_counter()
    while n_decided < n_tokens:
        for first, last in scheduler.take_cancels():
            cancelled.update(range(first, last + 1))
        in_flight.extend(scheduler.take_runs())
        if (request := scheduler.take_draft_request()) is not None:
            for position in range(len(request.context), len(request.context) + request.n_max):
                token = position + 1 if position % MISS_EVERY == 0 else position
                scheduler.on_draft(Draft(request.epoch, position, token))
                in_flight.extend(scheduler.take_runs())
            scheduler.on_draft(Draft(request.epoch, 0, None))
        most = max(most, scheduler.n_live)
        run = in_flight.popleft()
        is_cancelled = run.run_id in cancelled
        rows = () if is_cancelled else tuple(t.position + 1 for t in run.tokens if t.want)
        fate = Fate.CANCELLED if is_cancelled else Fate.COMPLETED
        n_decided += len(
            scheduler.on_result(Result(run_id=run.run_id, epoch=0, fate=fate, rows=rows, times=()))
        )
        n_steps += 1
    elapsed_us = 1e6 * (time.perf_counter() - start)
    print(
        f"{n_steps} runs, up to {most} in flight, {n_decided} tokens: "
        f"{elapsed_us / n_steps:.1f} us per run (with the script's own part)"
    )


if __name__ == "__main__":
    main()
