"""A pipeline and a drafter on a virtual clock, for tests of pictures: stages, hops, cancels.

Token ids are positions; the drafter is wrong at the positions that it is told: its second choice is
right there. Cancels reach the stages after a hop, and end what they compute at once.
"""

import heapq
from itertools import count, islice
from types import SimpleNamespace
from unittest import mock

from pipeinfer_cli.runtime import decode_loop
from pipeinfer_cli.runtime.text.token_stream import TokenStream
from pipeinfer_cli.scheduler.interfaces import DraftedBatch
from pipeinfer_cli.scheduler.policy import DraftConfig, Policy
from pipeinfer_cli.scheduler.runs import Result, RunStatus, StageTime
from pipeinfer_cli.scheduler.scheduler import Scheduler
from pipeinfer_cli.trace.recorder import Recorder

WRONG = 1_000_000  # added to a drafted token that is wrong
FIXED = DraftConfig(n_max=2)


class VirtualCluster:
    def __init__(self, n_stages=2, *, stage_us=8000, token_us=500, hop_us=100, draft_us=2000):
        self.now_us = 1_000_000
        self.n_stages, self.hop_us, self.draft_us = n_stages, hop_us, draft_us
        self.stage_us, self.token_us = stage_us, token_us
        self.events, self.order = [], count()
        self.queues = [[] for _ in range(n_stages)]
        self.current = [None] * n_stages
        self.cancelled, self.results, self.drafted = set(), [], []
        self.batches, self.epoch = [], 0  # the first one is under way
        self.wrong = frozenset()
        self.on_drafted = None

    def clock(self):
        return self.now_us / 1e6

    def after(self, delay_us, call, *args):
        heapq.heappush(self.events, (self.now_us + delay_us, next(self.order), call, args))

    # interfaces.Pipeline

    def submit(self, run):
        self.after(self.hop_us, self.arrive, 0, run, [])

    def cancel(self, run_first, run_last):
        self.after(self.hop_us, self.abort, set(range(run_first, run_last + 1)))

    def wait(self, timeout_s):
        until_us = self.now_us + 1e6 * timeout_s
        while not self.results and not self.drafted:
            assert self.events, "the head waits for nothing"
            if self.events[0][0] > until_us:
                self.now_us = until_us
                return None
            self.now_us, _, call, args = heapq.heappop(self.events)
            call(*args)
        return self.results.pop(0) if self.results else None

    # stages

    def arrive(self, stage, run, times):
        if stage == self.n_stages:
            is_cancelled = any(time.status is not RunStatus.COMPLETED for time in times)
            # what follows a wrong token is nobody's business: the position in any case
            rows = () if is_cancelled else tuple(t.position + 1 for t in run.tokens if t.want)
            status = RunStatus.CANCELLED if is_cancelled else RunStatus.COMPLETED
            result = Result(
                run_id=run.run_id,
                status=status,
                rows=rows,
                times=tuple(times),
                in_bytes=64,
            )
            self.results.append(result)
            return
        self.queues[stage].append((run, times, self.now_us))
        if self.current[stage] is None:
            self.begin(stage)

    def begin(self, stage):
        if self.current[stage] is not None or not self.queues[stage]:
            return
        run, times, arrived_us = self.queues[stage].pop(0)
        is_skipped = run.run_id in self.cancelled
        needed_us = 0 if is_skipped else self.stage_us + self.token_us * len(run.tokens)
        self.current[stage] = (run, times, arrived_us, self.now_us, is_skipped)
        self.after(needed_us, self.end, stage, run.run_id, RunStatus.COMPLETED)

    def end(self, stage, run_id, status):
        if self.current[stage] is None or self.current[stage][0].run_id != run_id:
            return  # aborted meanwhile
        run, times, arrived_us, began_us, is_skipped = self.current[stage]
        self.current[stage] = None
        status = RunStatus.CANCELLED if is_skipped else status
        done = StageTime(
            stage, status, began_us, began_us - arrived_us, self.now_us - began_us, in_bytes=4096
        )
        self.after(self.hop_us, self.arrive, stage + 1, run, [*times, done])
        self.begin(stage)

    def abort(self, run_ids):
        self.cancelled |= run_ids
        for stage, current in enumerate(self.current):
            if current is not None and current[0].run_id in run_ids and not current[4]:
                self.end(stage, current[0].run_id, RunStatus.ABORTED)

    # interfaces.Drafts

    def request(self, batch):
        self.epoch = batch.epoch
        self.batches.append(batch)
        if len(self.batches) == 1:
            self.begin_draft()

    def set_epoch(self, epoch):
        self.epoch = epoch

    def take(self):
        drafted, self.drafted = self.drafted, []
        return drafted

    def begin_draft(self):
        while self.batches and self.batches[0].epoch != self.epoch:
            self.batches.pop(0)
        if self.batches:
            self.after(self.draft_us, self.draft, self.now_us)

    def draft(self, began_us):
        """The batch under way is done; also one that is no longer wanted takes its time."""
        self.on_drafted(began_us / 1e6, self.clock())
        batch = self.batches.pop(0)
        if batch.epoch == self.epoch:
            candidates = tuple(
                self.candidates(batch.n_text + len(branch))[: batch.n_candidates]
                for branch in batch.branches
            )
            self.drafted.append(DraftedBatch(batch.epoch, candidates, self.draft_us))
        self.begin_draft()

    def candidates(self, position):
        is_wrong = position in self.wrong
        first, second = (position, position + WRONG)[:: -1 if is_wrong else 1]
        return (first, 0.8), (second, 0.2)


def generate(
    cluster,
    *,
    n_tokens=40,
    strategy="pipeinfer",
    wrong=(),
    n_prompt=3,
    draft=FIXED,
    on_recorder=None,
):
    """The tokens, the scheduler's counters and the recorder of one request."""
    cluster.wrong = frozenset(wrong)
    policy = Policy.of(strategy, draft, n_stages=cluster.n_stages, n_batch=32)
    scheduler = Scheduler(range(n_prompt), n_max=n_tokens, policy=policy, run_ids=count(1))
    recorder = Recorder(n_prompt=n_prompt, n_stages=cluster.n_stages, clock=cluster.clock)
    cluster.on_drafted = recorder.on_drafted
    if on_recorder is not None:
        on_recorder(recorder)
    stream = TokenStream(cluster, scheduler, timeout_s=60, drafts=cluster, observer=recorder)
    with mock.patch.object(decode_loop, "time", SimpleNamespace(monotonic=cluster.clock)):
        return list(islice(stream, n_tokens)), scheduler.counters, recorder
