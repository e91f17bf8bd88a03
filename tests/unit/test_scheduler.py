"""The scheduler against scripted models, drafters and pipelines: the text is always the model's."""

import math
from functools import partial
from itertools import count
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from games import Game
from pipeinfer_cli.scheduler import kv_sequences
from pipeinfer_cli.scheduler.costs.measured import PriorCosts
from pipeinfer_cli.scheduler.interfaces import DraftedBatch
from pipeinfer_cli.scheduler.kv_sequences import SequencePool, spare_cells
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, DraftConfig, Policy
from pipeinfer_cli.scheduler.runs import KvKind, KvOp
from pipeinfer_cli.scheduler.scheduler import Knowledge, Scheduler
from scripted import (
    N_VOCAB,
    ScriptedPipeline,
    draft_next,
    next_token,
    plain,
    stage_times,
    take_runs,
    text_of,
)

prompts = st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=12)
drafts = st.builds(
    DraftConfig,
    n_max=st.integers(1, 5),
    p_min=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
    p_recovery=st.sampled_from([0.0, 0.2]),
    p_decay=st.sampled_from([0.0, 0.2]),
    width=st.integers(1, 3),
    p_split=st.sampled_from([0.0, 0.2]),
)
# One stage for which runs cost the same, and a drafter that costs nothing: decided tokens wait.
FAST_DRAFTER = PriorCosts(by_size={1: (0.01, 0.01), 32: (0.01, 0.01)}, draft_s=1e-6)
STEEP = PriorCosts(by_size={1: (0.01, 0.03), 8: (0.05, 0.1)}, draft_s=0.002)
sizes = {
    "prior": st.sampled_from([None, FAST_DRAFTER, STEEP]),
    "depth": st.integers(1, 6),
    "n_batch": st.integers(1, 8),
    "no_cancel": st.booleans(),
}
fixed = {
    **sizes,
    "run_size": st.none() | st.integers(1, 5),
    "no_continuous": st.booleans(),
    "no_reactive": st.booleans(),
}
policies = st.one_of(
    st.builds(Policy, draft=st.none(), **fixed),
    st.builds(Policy, draft=drafts, is_synchronous=st.booleans(), **fixed),
    st.builds(
        Policy,
        draft=st.just(DEFAULT_DRAFT),
        is_adaptive=st.just(True),
        is_synchronous=st.booleans(),
        shares_cores=st.booleans(),
        n_stages=st.integers(1, 6),
        **sizes,
    ),
)
# How long each of the stages takes for a run of so many tokens.
run_times = st.sampled_from(
    [
        lambda n_tokens: (),
        lambda n_tokens: stage_times(0.01),
        lambda n_tokens: stage_times(0.01 * n_tokens),
        lambda n_tokens: stage_times(0.01 if n_tokens > 2 else 1e-6),
    ]
)


@settings(max_examples=8 * settings.default.max_examples)
@given(
    prompt=prompts,
    n_max=st.integers(1, 30),
    policy=policies,
    times=run_times,
    random=st.randoms(use_true_random=True),
)
def test_the_text_is_the_models_whatever_happens(prompt, n_max, policy, times, random):
    pipeline, pool = ScriptedPipeline(hear=random.randint, times=times), SequencePool()
    known = Knowledge.of(policy.prior, n_stages=policy.n_stages)
    game = Game(random, pipeline, prompt, n_max, policy, pool=pool, knowledge=known)
    with mock.patch.object(kv_sequences, "N_HOLES_MAX", 3):
        check_game(game, prompt)
        kept = game.close()
        # the next prompt goes on with the text, or is another
        after = [*prompt, *game.tokens[: random.randint(0, n_max)], 1]
        after = random.choice([after, prompt[::-1]])
        if random.random() < 0.3 and kept is not None:
            pool.drop(kept)
            kept = None
        n_common = kept.n_common(after) if kept else 0
        pipeline.n_without_row = 0
        game = Game(random, pipeline, after, n_max, policy, pool=pool, kept=kept, knowledge=known)
        check_game(game, after)
        assert game.scheduler.n_reused == n_common
        assert pipeline.n_without_row == len(after) - 1 - n_common


def check_game(game, prompt):
    policy, n_max = game.scheduler.policy, game.n_max
    assert game.play()[:n_max] == plain(prompt, n_max)
    n_spare = spare_cells(policy.draft, policy.depth) if policy.draft else 0
    assert game.pipeline.most_cells <= len(prompt) + n_max - 1 + n_spare
    counters = game.scheduler.counters
    assert counters.n_accepted <= counters.n_drafted
    assert counters.n_decided >= n_max
    assert game.most_live <= max(policy.depth + 1, 2 * policy.depth)
    assert sum(counters.ahead_drafted.values()) == counters.n_drafted
    for ahead, n_accepted in counters.ahead_accepted.items():
        assert n_accepted <= counters.ahead_drafted[ahead]
    assert counters.n_cancelled <= counters.n_invalidated + counters.n_superfluous
    assert not policy.no_cancel or counters.n_cancelled == 0
    assert counters.n_completed + counters.n_cancelled == counters.n_launched
    assert counters.n_late <= counters.n_expanded


def runs_of(policy, drafted, n_max=20, prompt=(1, 2, 3)):
    """Plays with a drafter that proposes `drafted` at once; the runs' sizes until the first row."""
    scheduler = Scheduler(prompt, n_max=n_max, policy=policy, run_ids=count(1))
    sizes = [len(run.tokens) for run in take_runs(scheduler)]
    for token in drafted:
        draft_next(scheduler, (token, 1.0))
        sizes += [len(run.tokens) for run in take_runs(scheduler)]
    return sizes


def test_asynchronous_runs_follow_one_another_while_drafting_goes_on():
    draft = DraftConfig(n_max=4, p_min=0.0)
    assert runs_of(Policy(draft=draft, depth=4), [5, 6, 7, 8, 9]) == [3, 1, 1, 1]


def test_the_run_of_a_corrected_token_leaves_at_once_with_the_removal():
    policy = Policy(draft=DraftConfig(n_max=2, p_min=0.0), depth=3, run_size=2)
    scheduler = Scheduler((1, 2), n_max=9, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()
    pipeline.submit(take_runs(scheduler)[0])
    right = next_token([1, 2])
    for token in [right, (next_token([1, 2, right]) + 1) % N_VOCAB, 0, 0]:
        draft_next(scheduler, (token, 1.0))
    for run in take_runs(scheduler):
        pipeline.submit(run)
    assert [len(run.tokens) for run in pipeline.queue] == [2, 2, 2]
    assert scheduler.on_result(pipeline.answer()) == [right]
    decided = scheduler.on_result(pipeline.answer())
    assert decided == [next_token([1, 2, right])]
    assert scheduler.take_cancels() == [(3, 3)]
    (corrected,) = take_runs(scheduler)
    assert [(token.id, token.position) for token in corrected.tokens] == [(decided[0], 3)]
    assert corrected.kv_ops == (KvOp(kind=KvKind.REMOVE, seq_src=0, pos_first=3),)
    assert scheduler.counters.n_invalidated == 1


@pytest.mark.parametrize("ends_early", [False, True])
def test_a_decided_token_waits_for_a_fast_drafter_if_nothing_else_is_in_flight(ends_early):
    draft = DraftConfig(n_max=3, p_min=0.0)
    policy = Policy(draft=draft, depth=2, prior=FAST_DRAFTER)
    scheduler = Scheduler((1, 2), n_max=20, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()
    pipeline.submit(take_runs(scheduler)[0])
    draft_next(scheduler)  # it has read the prompt
    (decided,) = scheduler.on_result(pipeline.answer())
    for n_drafted in range(2):
        assert take_runs(scheduler) == []
        assert draft_next(scheduler, (7, 1.0)) == (1, 2, decided, *[7] * n_drafted)
    assert take_runs(scheduler) == []
    draft_next(scheduler, *[] if ends_early else [(7, 1.0)])
    (run,) = take_runs(scheduler)
    assert [token.id for token in run.tokens] == [decided, 7, 7, 7][: 3 if ends_early else 4]


def test_several_requests_do_not_wait_for_drafts():
    policy = Policy(draft=DraftConfig(n_max=3), depth=2, prior=FAST_DRAFTER)
    scheduler = Scheduler((1, 2), n_max=20, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()
    pipeline.submit(take_runs(scheduler)[0])
    scheduler.on_result(pipeline.answer())
    assert scheduler.n_decided_max == 1
    assert len(scheduler.next_decided(may_wait=False).tokens) == 1


@pytest.mark.parametrize("draft", [DEFAULT_DRAFT, DraftConfig(n_max=31, p_min=0.0)])
def test_a_synchronous_run_leaves_the_room_that_its_draft_does_not_need(draft):
    """To other requests, whose decided tokens go with it."""
    policy = Policy.of("speculative", draft, n_stages=2)
    scheduler = Scheduler((1, 2), n_max=20, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()
    pipeline.submit(take_runs(scheduler)[0])
    scheduler.on_result(pipeline.answer())
    draft_next(scheduler, (7, 0.9))
    assert scheduler.n_decided_max == 2


def test_a_synchronous_run_waits_for_the_whole_draft():
    draft = DraftConfig(n_max=3, p_min=0.0)
    policy = Policy(draft=draft, is_synchronous=True, depth=4)
    scheduler = Scheduler((1, 2), n_max=9, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()
    pipeline.submit(take_runs(scheduler)[0])
    assert scheduler.take_batch() is None
    text = [1, 2, *scheduler.on_result(pipeline.answer())]
    for _ in range(3):
        assert take_runs(scheduler) == []
        assert draft_next(scheduler, (next_token(text), 1.0)) == tuple(text)
        text.append(next_token(text))
    assert scheduler.take_batch() is None
    (run,) = take_runs(scheduler)
    assert [token.id for token in run.tokens] == text[2:]
    pipeline.submit(run)
    assert len(scheduler.on_result(pipeline.answer())) == 4  # three accepted, and the bonus


def branching(width=2, n_max=2, depth=4, n_tokens=20):
    """A scheduler whose prompt's run is in flight, its pipeline, and a function that drafts."""
    draft = DraftConfig(n_max=n_max, p_min=0.0, width=width, p_split=0.0)
    policy = Policy(draft=draft, depth=depth, run_size=n_max)
    scheduler = Scheduler((1, 2), n_max=n_tokens, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()

    def submit():
        for cancel in scheduler.take_cancels():
            pipeline.cancel(*cancel)
        for run in take_runs(scheduler):
            pipeline.submit(run)
        return [[token.id for token in run.tokens] for run in pipeline.queue]

    submit()
    return scheduler, pipeline, submit, partial(draft_next, scheduler)


def test_the_most_probable_node_is_drafted_and_fed_first():
    _, _, submit, draft = branching()
    assert draft((5, 0.6), (6, 0.4)) == (1, 2)
    assert draft((7, 0.5), (8, 0.1)) == (1, 2, 5)  # 0.3 and 0.06
    assert draft((9, 1.0)) == (1, 2, 6)
    assert submit() == [[1, 2], [5, 6], [9, 7]]  # 8 waits for a full run


def test_a_branch_copies_the_cells_before_it_and_shares_those_of_its_run():
    _, pipeline, submit, draft = branching(n_max=3)
    draft((5, 1.0))
    draft((6, 0.9), (7, 0.8))
    submit()
    run = pipeline.queue[-1]
    assert [token.seq_ids for token in run.tokens] == [(0, 1), (0,), (1,)]
    assert run.kv_ops == (KvOp(kind=KvKind.COPY, seq_src=0, seq_dst=1, pos_last=2),)


def test_a_wrong_run_is_not_cancelled_while_another_runs_dead_half_rests_on_it():
    scheduler, pipeline, submit, draft = branching(width=3, n_max=2, depth=3)
    first = next_token([1, 2])
    right = next_token([1, 2, first])
    draft((first, 1.0), (first + 1, 0.01))
    submit()
    draft((right + 1, 0.9), (right + 2, 0.5), (right, 0.2))
    submit()
    draft((4, 1.0))
    scheduler.on_result(pipeline.answer())
    assert submit() == [[first, first + 1], [right + 1, right + 2], [4, right]]
    scheduler.on_result(pipeline.answer())
    assert scheduler.take_cancels() == []
    assert scheduler.n_live == 2


def test_branches_leave_no_holes_in_the_long_run():
    scheduler, pipeline, submit, _ = branching(n_max=3, depth=2, n_tokens=400)
    text, kinds = [1, 2], set()
    while len(text) < 400:
        while scheduler.n_drafted < 6:
            batch = scheduler.take_batch()
            if batch is None:
                break
            (branch,) = batch.branches
            before = text_of(batch, branch)
            right = next_token(before)
            wrong = (right + 1 + len(before) % 3) % N_VOCAB
            both = [(wrong, 0.6), (right, 0.4)]
            candidates = both if len(before) % 2 else both[::-1]
            scheduler.on_drafted(DraftedBatch(batch.epoch, (candidates,)))
        submit()
        kinds |= {op.kind for op in pipeline.queue[0].kv_ops}
        text += scheduler.on_result(pipeline.answer())
    assert text[2:] == plain((1, 2), len(text) - 2)
    assert kinds == set(KvKind)
    assert pipeline.most_cells <= 400 + spare_cells(scheduler.policy.draft, depth=2)


def test_an_unsure_token_waits_until_the_pipeline_would_idle():
    draft = DraftConfig(n_max=1, p_min=0.5, p_decay=0.2)
    scheduler = Scheduler((1,), n_max=9, policy=Policy(draft=draft, depth=3), run_ids=count(1))
    assert len(take_runs(scheduler)) == 1
    draft_next(scheduler, (4, 0.2))
    assert take_runs(scheduler) == []  # the cutoff falls to 0.3
    (run,) = take_runs(scheduler)  # and to 0.1
    assert [token.id for token in run.tokens] == [4]


def test_a_drafter_that_knows_nothing_is_asked_again_when_the_text_is_longer():
    policy = Policy(draft=DraftConfig(), depth=3)
    scheduler = Scheduler((1,), n_max=9, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline()
    pipeline.submit(take_runs(scheduler)[0])
    draft_next(scheduler)
    assert scheduler.take_batch() is None
    scheduler.on_result(pipeline.answer())
    assert scheduler.take_batch() is not None


@pytest.mark.parametrize("n_batch", [1, 2, 7])
def test_prefill_goes_in_pieces_and_only_its_last_token_wants_a_row(n_batch):
    policy = Policy(depth=9, n_batch=n_batch)
    scheduler = Scheduler([5, 6, 7, 8, 9], n_max=3, policy=policy, run_ids=count(1))
    runs = take_runs(scheduler)
    assert [token.want for run in runs for token in run.tokens] == [False] * 4 + [True]
    assert all(len(run.tokens) <= n_batch for run in runs)


def adaptive(*, is_synchronous=False, prior=STEEP, depth=4, n_max=40):
    """A scheduler whose prompt's run is in flight, and its pipeline."""
    policy = Policy(
        draft=DEFAULT_DRAFT,
        is_adaptive=True,
        n_stages=3,
        depth=depth,
        prior=prior,
        is_synchronous=is_synchronous,
    )
    scheduler = Scheduler((1, 2), n_max=n_max, policy=policy, run_ids=count(1))
    pipeline = ScriptedPipeline(times=lambda n_tokens: stage_times(0.01 * n_tokens, 3))
    submit(scheduler, pipeline)
    return scheduler, pipeline


def submit(scheduler, pipeline, now_s=0.0):
    """What leaves now: token ids by run."""
    runs = []
    while (run := scheduler.next_run(now_s)) is not None:
        scheduler.knowledge.pacer.on_submit(run.run_id, len(run.tokens), now_s)
        pipeline.submit(run)
        runs.append([token.id for token in run.tokens])
    return runs


def draft_all(scheduler, answer):
    """Batches until none is wanted, or 50; the branches of each."""
    asked = []
    while len(asked) < 50 and (batch := scheduler.take_batch()) is not None:
        asked.append(batch.branches)
        candidates = tuple(answer(text_of(batch, branch)) for branch in batch.branches)
        scheduler.on_drafted(DraftedBatch(batch.epoch, candidates, took_us=1000))
    return asked


def two(text):
    """The right token, and another."""
    right = next_token(text)
    return [(right, 0.7), ((right + 1) % N_VOCAB, 0.25)]


def test_adaptive_speculation_expands_several_nodes_of_a_tree_together():
    scheduler, _ = adaptive(n_max=200)
    asked = draft_all(scheduler, two)
    assert asked[0] == ((),)
    assert max(map(len, asked)) > 2, "a batch takes as long as a node"
    branches = [branch for batch in asked for branch in batch]
    assert len(set(branches)) == len(branches), "nothing is drafted twice"
    seen = set()
    for batch in asked:
        assert all(not branch or branch[:-1] in seen for branch in batch), "parents come first"
        seen.update(batch)


def test_adaptive_runs_leave_one_by_one_when_the_slowest_stage_is_free():
    scheduler, pipeline = adaptive()
    draft_all(scheduler, two)
    leave_s = scheduler.knowledge.pacer.leave_s
    assert submit(scheduler, pipeline, 0.9 * leave_s) == []
    assert scheduler.wake_s == leave_s
    (first,) = submit(scheduler, pipeline, leave_s)
    assert first[0] == next_token([1, 2]), "the most probable node goes first"
    assert scheduler.wake_s == scheduler.knowledge.pacer.leave_s > leave_s
    for _ in range(10):
        submit(scheduler, pipeline, scheduler.knowledge.pacer.leave_s)
    assert scheduler.n_live == scheduler.policy.depth
    assert scheduler.wake_s == math.inf


def test_an_idle_pipeline_does_not_wait_for_the_pacer():
    """It only predicts."""
    scheduler, pipeline = adaptive()
    scheduler.on_result(pipeline.answer(), 0.0)
    scheduler.knowledge.pacer.on_submit(99, 32, 0.0)
    assert scheduler.knowledge.pacer.leave_s > 0.1
    draft_all(scheduler, lambda text: [])
    assert len(submit(scheduler, pipeline, 0.0)) == 1, "the decided token"


def test_a_decided_token_waits_for_a_batch_only_while_there_is_one():
    scheduler, pipeline = adaptive(prior=FAST_DRAFTER)
    batch = scheduler.take_batch()
    scheduler.on_drafted(DraftedBatch(batch.epoch, ((),), 1000))
    (decided,) = scheduler.on_result(pipeline.answer(), 0.1)
    assert submit(scheduler, pipeline, 0.1) == []
    batch = scheduler.take_batch()
    assert submit(scheduler, pipeline, 0.2) == []
    scheduler.on_drafted(DraftedBatch(batch.epoch, ((),), 1000))
    assert submit(scheduler, pipeline, 0.3) == [[decided]]


def test_a_decided_token_does_not_wait_for_a_drafter_that_reads_the_prompt():
    scheduler, pipeline = adaptive(prior=FAST_DRAFTER)
    assert scheduler.take_batch() is not None
    (decided,) = scheduler.on_result(pipeline.answer(), 0.1)
    assert submit(scheduler, pipeline, 0.1) == [[decided]]


def test_a_miss_finds_drafts_below_the_second_choice():
    scheduler, pipeline = adaptive()
    right = next_token([1, 2])
    wrong = (right + 1) % N_VOCAB

    def mistaken(text):
        return [(wrong, 0.6), (right, 0.35)] if text == (1, 2) else two(text)

    draft_all(scheduler, mistaken)
    scheduler.on_result(pipeline.answer(), 0.05)
    n_drafted = scheduler.n_drafted
    assert n_drafted > 0
    draft_all(scheduler, two)  # it may wait for what else is drafted
    (run, *_) = submit(scheduler, pipeline, 0.05)
    assert run[0] == right


def test_an_answer_that_comes_too_late_is_counted_and_ignored():
    scheduler, pipeline = adaptive()
    right = next_token([1, 2])
    batch = scheduler.take_batch()
    scheduler.on_drafted(DraftedBatch(batch.epoch, ([((right + 1) % N_VOCAB, 0.9)],), 1000))
    late = scheduler.take_batch()
    assert [len(branch) for branch in late.branches] == [1]
    scheduler.on_result(pipeline.answer(), 0.05)  # a miss: all of the batch is dead
    assert scheduler.epoch > late.epoch
    assert scheduler.counters.n_late == 1
    scheduler.on_drafted(DraftedBatch(late.epoch, ([(5, 0.9)],), 1000))
    assert scheduler.n_drafted == 0
    assert scheduler.take_batch().branches == ((),)


def test_an_adaptive_round_drafts_while_it_pays_and_verifies_in_one_run():
    scheduler, pipeline = adaptive(is_synchronous=True, prior=FAST_DRAFTER)
    assert scheduler.take_batch() is None, "nothing is drafted while a run is in flight"
    text = [1, 2, *scheduler.on_result(pipeline.answer(), 0.05)]
    batch = scheduler.take_batch()
    assert batch.branches == ((),)
    assert submit(scheduler, pipeline, 0.06) == [], "the batch is under way"
    scheduler.on_drafted(DraftedBatch(batch.epoch, (two(text),), 1000))
    draft_all(scheduler, two)
    (run,) = submit(scheduler, pipeline, 0.1)
    assert run[:2] == [text[-1], next_token(text)]
    decided = scheduler.on_result(pipeline.answer(), 0.2)
    assert len(decided) > 1
    assert decided == plain(text, len(decided))


def test_what_is_learned_of_a_drafter_outlives_the_request():
    known, believed = Knowledge.of(STEEP, n_stages=3), []
    for _ in range(2):
        policy = Policy(draft=DEFAULT_DRAFT, is_adaptive=True, n_stages=3, depth=4)
        scheduler = Scheduler((1, 2), n_max=99, policy=policy, run_ids=count(1), knowledge=known)
        pipeline = ScriptedPipeline()
        while scheduler.counters.n_decided < 30:
            for cancel in scheduler.take_cancels():
                pipeline.cancel(*cancel)
            draft_all(scheduler, lambda text: [((next_token(text) + 1) % N_VOCAB, 0.9)])
            submit(scheduler, pipeline, known.pacer.leave_s)
            scheduler.on_result(pipeline.answer())
        believed += known.confidences[""].probabilities([(0, 0.9)])
    assert believed[1] < believed[0] < 0.3, "it is always wrong"


def test_what_a_drafter_takes_to_read_a_text_says_nothing_of_its_batches():
    """Also of one that takes over from another in the middle of a text."""
    known = Knowledge.of(None, n_stages=3, drafters=("model", "ngram"))
    policy = Policy(draft=DEFAULT_DRAFT, is_adaptive=True, n_stages=3, depth=4)
    scheduler = Scheduler((1, 2), n_max=99, policy=policy, run_ids=count(1), knowledge=known)
    pipeline = ScriptedPipeline()
    submit(scheduler, pipeline, 0.0)
    for drafter in ("ngram", "model"):
        scheduler.speculate(drafter)
        for took_us in (1_000_000, 2_000):
            batch = scheduler.take_batch()
            assert batch.drafter == drafter
            found = tuple([(3, 0.5), (4, 0.3)] for _ in batch.branches)
            scheduler.on_drafted(DraftedBatch(batch.epoch, found, took_us, drafter))
        assert 0 < known.costs.table.draft_s[1] < 0.01
