"""Several requests in one scripted pipeline: each text is the model's, whatever the others do."""

import math
from itertools import count
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeinfer_cli.scheduler import kv_sequences
from pipeinfer_cli.scheduler.batcher import Batcher
from pipeinfer_cli.scheduler.exchange import Exchange
from pipeinfer_cli.scheduler.kv_sequences import SequencePool
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, N_BATCH, DraftConfig, Policy
from pipeinfer_cli.scheduler.scheduler import Knowledge, Scheduler
from scripted import N_VOCAB, ScriptedDrafts, ScriptedPipeline, plain, stage_times


class Player:
    """The head's loop for several requests, with every choice of time and draft drawn."""

    def __init__(self, random, pipeline, *, n_stages, n_batch, n_parallel):
        self.random, self.pipeline, self.n_parallel = random, pipeline, n_parallel
        self.pool, self.knowledge = SequencePool(), Knowledge.of(None, n_stages=n_stages)
        self.batcher = Batcher(
            self.pool,
            n_stages=n_stages,
            depth=n_stages + 1,
            n_batch=n_batch,
            run_ids=count(1),
            pacer=self.knowledge.pacer,
        )
        self.exchange = Exchange(self, self.batcher, open_drafts=self.open_drafts)
        self.requests, self.drafts, self.texts = {}, {}, {}
        self.n_wanted = {}
        self.n_merged = 0
        self.now_s = 0.0

    def play(self, jobs):
        """Jobs: [(prompt, n_max, policy)]; the texts in their order."""
        todo = list(enumerate(jobs))
        while todo or self.requests:
            while todo and len(self.requests) < self.n_parallel:
                self.admit(*todo.pop(0))
            self.exchange.take_drafts()
            self.exchange.submit(self.now_s)
            self.step()
        self.batcher.close()
        self.exchange.submit(self.now_s)
        while not self.batcher.is_idle:
            self.answer()
        assert self.knowledge.pacer.leave_s == 0, "it waits for a run that is over"
        return [self.texts[key][: job[1]] for key, job in enumerate(jobs)]

    def step(self):
        steps = [self.answer] * bool(self.pipeline.queue)
        if drafting := [each for each in self.drafts.values() if each.batches]:
            steps.append(self.random.choice(drafting).answer)
        if self.now_s < self.exchange.wake_s < math.inf:
            steps.append(self.wake)
        assert steps, "nothing is under way: the texts would never end"
        self.random.choice(steps)()
        self.now_s += self.random.choice([0.0, 0.001, 0.1])

    def wake(self):
        self.now_s = self.exchange.wake_s

    def admit(self, key, job):
        prompt, n_max, policy = job
        scheduler = Scheduler(
            prompt,
            n_max=n_max,
            policy=policy,
            run_ids=count(1),
            pool=self.pool,
            knowledge=self.knowledge,
        )
        self.requests[key] = self.batcher.admit(key, scheduler)
        self.exchange.on_begin(self.requests[key])
        self.texts[key], self.n_wanted[key] = [], n_max

    def open_drafts(self, request):
        return self.drafts.setdefault(request.key, ScriptedDrafts(self.random))

    def submit(self, run):
        self.n_merged += len({token.seq_ids[0] for token in run.tokens}) > 1
        self.pipeline.submit(run)

    def cancel(self, run_first, run_last):
        self.pipeline.cancel(run_first, run_last)

    def answer(self):
        for request, tokens in self.exchange.on_result(self.pipeline.answer(), self.now_s):
            key = request.key
            self.texts[key] += tokens
            if request.scheduler.counters.n_decided >= self.n_wanted[key]:
                self.batcher.end(request)
                del self.requests[key]
                self.drafts.pop(key, None)


heads = st.sampled_from([[], [3, 1, 4], [3, 1, 4, 1, 5, 9, 2, 6]])  # prompts have these in common
tails = st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=6)
drafts = st.builds(DraftConfig, n_max=st.integers(1, 4), p_min=st.just(0.0), width=st.just(1))
policies = st.one_of(
    st.builds(Policy, draft=st.none(), depth=st.just(4)),
    st.builds(Policy, draft=drafts, depth=st.integers(1, 4), is_synchronous=st.booleans()),
    st.builds(
        Policy,
        draft=st.just(DEFAULT_DRAFT),
        is_adaptive=st.just(True),
        n_stages=st.integers(1, 4),
        depth=st.integers(1, 4),
        is_synchronous=st.booleans(),
    ),
)
run_times = st.sampled_from([lambda n_tokens: (), lambda n_tokens: stage_times(0.01 * n_tokens)])


def play(random, jobs, *, times=lambda n_tokens: (), **sizes):
    player = Player(random, ScriptedPipeline(hear=random.randint, times=times), **sizes)
    texts = player.play(jobs)
    assert player.pool.n_used == 0, "a sequence id leaks"
    assert player.batcher._requests == [], "a request that is over is kept"
    return texts, player


@settings(max_examples=3 * settings.default.max_examples)
@given(
    jobs=st.lists(st.tuples(heads, tails, st.integers(1, 12)), min_size=1, max_size=7),
    policy=policies,
    n_stages=st.integers(1, 4),
    n_batch=st.integers(5, 9) | st.just(N_BATCH),
    n_parallel=st.integers(1, 5),
    times=run_times,
    random=st.randoms(use_true_random=True),
)
def test_each_text_is_the_models_whatever_the_others_do(
    jobs, policy, n_stages, n_batch, n_parallel, times, random
):
    if policy.is_synchronous:
        n_batch = max(n_batch, 1 + policy.n_draft_max)  # a request's run has to fit
    jobs = [(head + tail, n_max, policy) for head, tail, n_max in jobs]
    sizes = {"n_stages": n_stages, "n_batch": n_batch, "n_parallel": n_parallel}
    with mock.patch.object(kv_sequences, "N_HOLES_MAX", 3):
        texts, _ = play(random, jobs, times=times, **sizes)
    assert texts == [plain(prompt, n_max) for prompt, n_max, _ in jobs]


def test_decided_tokens_of_several_requests_share_runs():
    import random

    jobs = [([3, i], 30, Policy(depth=3)) for i in range(8)]
    texts, player = play(random.Random(1), jobs, n_stages=2, n_batch=32, n_parallel=8)
    assert texts == [plain(prompt, n_max) for prompt, n_max, _ in jobs]
    assert player.pipeline.last_run_id < 8 * 30 / 3, "four share a run, but for the beginning"
    assert player.n_merged > 40


@pytest.mark.parametrize("n_parallel", [1, 3])
def test_a_common_beginning_is_fed_once(n_parallel):
    import random

    common = [i % N_VOCAB for i in range(40)]
    jobs = [([*common, i], 5, Policy(depth=3, n_batch=8)) for i in range(6)]
    texts, player = play(random.Random(1), jobs, n_stages=2, n_batch=8, n_parallel=n_parallel)
    assert texts == [plain(prompt, n_max) for prompt, n_max, _ in jobs]
    assert player.pipeline.n_without_row == len(common)
