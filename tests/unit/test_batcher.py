"""Several requests in one scripted pipeline: each text is the model's, whatever the others do."""

from itertools import count
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeinfer_cli.scheduler import kv_sequences
from pipeinfer_cli.scheduler.batcher import Batcher
from pipeinfer_cli.scheduler.kv_sequences import SequencePool
from pipeinfer_cli.scheduler.policy import DraftConfig, Policy
from pipeinfer_cli.scheduler.scheduler import Scheduler
from pipeinfer_cli.scheduler.speculation import Draft
from scripted import N_VOCAB, ScriptedPipeline, next_token, plain


class Player:
    """The head's loop for several requests, with every choice of timing and draft drawn."""

    def __init__(self, random, batcher, pool, pipeline, n_parallel):
        self.random, self.batcher, self.pool, self.pipeline = random, batcher, pool, pipeline
        self.n_parallel = n_parallel
        self.requests, self.draft_requests, self.texts = {}, {}, {}
        self.n_merged = 0

    def play(self, jobs):
        """Jobs: [(prompt, n_max, policy)]; the texts in their order."""
        todo = list(enumerate(jobs))
        while todo or self.requests:
            while todo and len(self.requests) < self.n_parallel:
                self.admit(*todo.pop(0))
            self.exchange()
            if self.draft_requests and (not self.pipeline.queue or self.random.random() < 0.5):
                self.draft(self.random.choice(sorted(self.draft_requests)))
            else:
                assert self.pipeline.queue, "nothing is under way: the texts would never end"
                self.answer()
        self.batcher.close()
        self.exchange()
        while not self.batcher.is_idle:
            self.answer()
        return [self.texts[key][: job[1]] for key, job in enumerate(jobs)]

    def admit(self, key, job):
        prompt, n_max, policy = job
        scheduler = Scheduler(prompt, n_max=n_max, policy=policy, run_ids=count(1), pool=self.pool)
        self.requests[key] = self.batcher.admit(key, scheduler)
        self.texts[key] = []

    def exchange(self):
        for cancel in self.batcher.take_cancels():
            self.pipeline.cancel(*cancel)
        for run in self.batcher.take_runs():
            self.n_merged += len({token.seq_ids[0] for token in run.tokens}) > 1
            self.pipeline.submit(run)
        for request in self.batcher.drafting:
            if (draft_request := request.scheduler.take_draft_request()) is not None:
                self.draft_requests[request.key] = (draft_request, [])

    def answer(self):
        for request, tokens in self.batcher.on_result(self.pipeline.answer()):
            self.texts[request.key] += tokens
            n_max = request.scheduler.counters.n_decided >= self.wanted(request.key)
            if n_max:
                self.batcher.end(request)
                del self.requests[request.key]
                self.draft_requests.pop(request.key, None)

    def wanted(self, key):
        return self.n_wanted[key]

    def draft(self, key):
        draft_request, drafted = self.draft_requests[key]
        context = [*draft_request.context, *drafted]
        scheduler = self.requests[key].scheduler
        if len(drafted) == draft_request.n_max or self.random.randrange(8) == 0:
            del self.draft_requests[key]
            scheduler.on_draft(Draft(draft_request.epoch, len(context), None))
            return
        right = next_token(context)
        token = self.random.choice([right, right, (right + 1) % N_VOCAB])
        drafted.append(token)
        scheduler.on_draft(Draft(draft_request.epoch, len(context), token))


heads = st.sampled_from([[], [3, 1, 4], [3, 1, 4, 1, 5, 9, 2, 6]])  # prompts have these in common
tails = st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=6)
drafts = st.builds(DraftConfig, n_max=st.integers(1, 4), p_min=st.just(0.0), width=st.just(1))
policies = st.builds(Policy, draft=st.none(), depth=st.just(4)) | st.builds(
    Policy, draft=drafts, depth=st.integers(1, 4), is_synchronous=st.booleans()
)


def play(random, jobs, *, n_stages, n_batch, n_parallel):
    pool, pipeline = SequencePool(), ScriptedPipeline(hear=random.randint)
    batcher = Batcher(
        pool, n_stages=n_stages, depth=n_stages + 1, n_batch=n_batch, run_ids=count(1)
    )
    player = Player(random, batcher, pool, pipeline, n_parallel)
    player.n_wanted = [n_max for _, n_max, _ in jobs]
    texts = player.play(jobs)
    assert pool.n_used == 0, "a sequence id leaks"
    assert batcher._requests == [], "a request that is over is kept"
    return texts, player


@settings(max_examples=3 * settings.default.max_examples)
@given(
    jobs=st.lists(st.tuples(heads, tails, st.integers(1, 12)), min_size=1, max_size=7),
    policy=policies,
    n_stages=st.integers(1, 4),
    n_batch=st.integers(5, 9),
    n_parallel=st.integers(1, 5),
    random=st.randoms(use_true_random=True),
)
def test_each_text_is_the_models_whatever_the_others_do(
    jobs, policy, n_stages, n_batch, n_parallel, random
):
    jobs = [(head + tail, n_max, policy) for head, tail, n_max in jobs]
    sizes = {"n_stages": n_stages, "n_batch": n_batch, "n_parallel": n_parallel}
    with mock.patch.object(kv_sequences, "N_HOLES_MAX", 3):
        texts, _ = play(random, jobs, **sizes)
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
