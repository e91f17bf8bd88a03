"""Several requests in one scripted pipeline: each text is the model's, whatever the others do."""

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from games import Player
from pipeinfer_cli.scheduler import kv_sequences
from pipeinfer_cli.scheduler.kv_sequences import CachedPrefix, PrefixCache, SequencePool
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, N_BATCH, DraftConfig, Policy
from scripted import N_VOCAB, ScriptedPipeline, plain, stage_times

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


@settings(max_examples=2 * settings.default.max_examples)
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


@given(
    jobs=st.lists(st.tuples(heads, tails, st.integers(1, 12)), min_size=2, max_size=9),
    policy=policies,
    n_stages=st.integers(1, 4),
    n_parallel=st.integers(1, 5),
    n_cached=st.sampled_from([0, 12, 40, 1000]),
    random=st.randoms(use_true_random=True),
)
def test_a_client_that_leaves_changes_no_other_text(
    jobs, policy, n_stages, n_parallel, n_cached, random
):
    jobs = [(head + tail, n_max, policy) for head, tail, n_max in jobs]
    sizes = {"n_stages": n_stages, "n_batch": N_BATCH, "n_parallel": n_parallel}
    with mock.patch.object(kv_sequences, "N_HOLES_MAX", 3):
        texts, player = play(random, jobs, n_cached=n_cached, leave_share=0.1, **sizes)
    for key, (prompt, n_max, _) in enumerate(jobs):
        whole = plain(prompt, n_max)
        n_tokens = len(texts[key]) if key in player.left else n_max
        assert texts[key] == whole[:n_tokens]


def test_what_is_in_flight_for_a_client_that_leaves_is_cancelled():
    player = Player(None, ScriptedPipeline(), n_stages=2, n_batch=8, n_parallel=2)
    player.admit(0, ([i % N_VOCAB for i in range(40)], 5, Policy(depth=3, n_batch=8)))
    player.exchange.submit(0.0)
    n_runs = len(player.pipeline.queue)
    assert n_runs > 1
    player.end(0)
    player.exchange.submit(0.0)
    assert player.pipeline.cancels == [(1, n_runs)]
    while not player.batcher.is_idle:
        player.answer()
    assert player.pipeline.stages[0].cells == [], "a prompt that nobody wants was computed"


def test_what_another_builds_upon_is_computed():
    common = [i % N_VOCAB for i in range(40)]
    player = Player(None, ScriptedPipeline(), n_stages=2, n_batch=64, n_parallel=2)
    for key, more in enumerate(([1], [2, 3])):
        player.admit(key, ([*common, *more], 5, Policy(depth=3, n_batch=64)))
        player.exchange.submit(0.0)
    player.end(0)
    player.exchange.submit(0.0)
    while player.requests:
        player.answer()
        player.exchange.submit(0.0)
    assert player.texts[1][:5] == plain([*common, 2, 3], 5)
    assert player.pipeline.n_without_row < len(common) + 4


def cached(sequence, n_tokens, first=0):
    return CachedPrefix(tokens=tuple(range(first, first + n_tokens)), sequence=sequence)


def test_the_cache_drops_what_was_of_use_least_recently():
    pool = SequencePool()
    cache = PrefixCache(pool, 30)
    texts = [cached(pool.take(), 10, first=100 * i) for i in range(4)]
    for text in texts[:3]:
        cache.add(text)
    cache.touch(texts[0])
    cache.add(texts[3])
    assert cache.texts == [texts[2], texts[0], texts[3]]
    assert (cache.n_tokens, pool.n_used) == (30, 3)
    longer = cached(pool.take(), 12, first=200)  # begins with texts[2]
    cache.add(longer)
    assert cache.texts == [texts[3], longer]
    cache.add(cached(pool.take(), 99, first=1000))
    assert len(cache) == 1, "a text is kept, however long it is"
    cache.clear()
    assert pool.n_used == 0


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
