"""Texts under a constraint: those of plain decoding under it, whatever is drafted and when."""

from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from games import Game, Player
from pipeinfer_cli.drafters.fallback import FallbackDrafter
from pipeinfer_cli.drafters.ngram import NgramDrafter
from pipeinfer_cli.scheduler.interfaces import DraftBatch, DraftedBatch
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, N_BATCH, DraftConfig, Policy
from pipeinfer_cli.scheduler.runs import Mask
from pipeinfer_cli.scheduler.scheduler import Scheduler
from pipeinfer_cli.scheduler.token_tree import TokenTree
from scripted import N_VOCAB, ScriptedConstraint, ScriptedPipeline, plain, take_runs

prompts = st.lists(st.integers(0, N_VOCAB - 1), min_size=1, max_size=8)
chains = DraftConfig(n_max=4, p_min=0.0, width=2, p_split=0.0)
policies = st.sampled_from(
    [
        Policy(draft=None),
        Policy(draft=chains, n_stages=2),
        Policy(draft=chains, is_synchronous=True),
        Policy(draft=DEFAULT_DRAFT, is_adaptive=True, n_stages=3, depth=4),
        Policy(draft=DEFAULT_DRAFT, is_adaptive=True, is_synchronous=True),
    ]
)


def mask_of(*tokens):
    return Mask(sum(1 << token for token in tokens).to_bytes(4, "little"))


@settings(max_examples=2 * settings.default.max_examples)
@given(prompts, st.integers(1, 30), policies, st.randoms(use_true_random=True))
def test_one_request(prompt, n_max, policy, random):
    pipeline = ScriptedPipeline(hear=random.randint)
    pipeline.constrain = ScriptedConstraint
    start = ScriptedConstraint(prompt)
    game = Game(random, pipeline, prompt, n_max, policy, constraint=start)
    assert game.play()[:n_max] == plain(prompt, n_max, start)
    game.pool.drop(game.close())
    assert game.pool.n_used == 0


@given(
    st.lists(st.tuples(prompts, st.integers(1, 12), policies), min_size=1, max_size=6), st.data()
)
def test_several_requests(jobs, data):
    random = data.draw(st.randoms(use_true_random=True))
    pipeline = ScriptedPipeline(hear=random.randint)
    pipeline.constrain = ScriptedConstraint
    player = Player(random, pipeline, n_stages=2, n_batch=N_BATCH, n_parallel=3)
    expected = [plain(prompt, n_max, ScriptedConstraint(prompt)) for prompt, n_max, _ in jobs]
    assert player.play(jobs) == expected


class Fixed:
    """Allows these tokens, one set after the other; the text ends after the last of them."""

    def __init__(self, *allowed):
        self.allowed = allowed
        self.is_over = not allowed
        self.mask = mask_of(*allowed[0]) if allowed else None

    def after(self, token):
        assert self.mask.allows(token)
        return Fixed(*self.allowed[1:])


@pytest.mark.parametrize("is_adaptive", [True, False])
def test_single_tokens_are_drafted_by_themselves_and_nothing_after_an_end(is_adaptive):
    constraint = Fixed({4}, {5}, {6, 7}, {8, 9}, {10})
    policy = Policy(draft=DEFAULT_DRAFT, is_adaptive=is_adaptive, depth=4)
    scheduler = Scheduler([1, 2], n_max=20, policy=policy, run_ids=count(1), constraint=constraint)
    runs = take_runs(scheduler)
    (batch,) = [scheduler.take_batch()]
    assert batch.branches == ((4, 5),)
    assert batch.masks == (mask_of(6, 7),)
    fed = [(token.id, token.mask) for run in runs for token in run.tokens if token.want]
    assert fed[:3] == [(2, mask_of(4)), (4, mask_of(5)), (5, mask_of(6, 7))][: len(fed)]
    scheduler.on_drafted(DraftedBatch(batch.epoch, (((3, 0.9), (7, 0.8), (1, 0.1)),)))
    batch = scheduler.take_batch()
    assert batch.branches == ((4, 5, 7),)
    scheduler.on_drafted(DraftedBatch(batch.epoch, (((9, 0.9),),)))
    assert scheduler.take_batch() is None, "10 is alone, and ends the text"
    assert scheduler.n_drafted == 5


def test_without_a_constraint_nothing_is_masked():
    tree = TokenTree([1])
    node = tree.add(tree.root, 2, 0.5)
    assert (tree.root.mask, node.mask, node.is_end) == (None, None, False)
    assert node.allowed([(3, 0.5)]) == [(3, 0.5)]
    assert tree.batch([node], 1, 4).masks == ()
    assert tree.add_forced(node) is None


def test_a_batchs_parts_keep_their_masks():
    masks = (mask_of(1), None, mask_of(2, 3))
    batch = DraftBatch(1, [5, 6, 5, 6], 4, ((), (7,), (8,)), 2, masks=masks)
    assert batch.part([2, 0]).masks == (masks[2], masks[0])
    asked = []

    class Silent:
        def expand(self, batch, is_wanted):
            asked.append((batch.branches, batch.masks))
            return [()] * len(batch.branches)

    FallbackDrafter(NgramDrafter(), Silent()).expand(batch, lambda: True)
    assert asked == [(((7,), (8,)), (None, masks[2]))]


@given(st.sets(st.integers(0, 63), min_size=1))
def test_masks(tokens):
    mask = Mask(sum(1 << token for token in tokens).to_bytes(8, "little"))
    assert {token for token in range(64) if mask.allows(token)} == tokens
    assert mask.only == (min(tokens) if len(tokens) == 1 else None)
