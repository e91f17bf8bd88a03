"""What a draft model is fed for branches of a text, against a scripted model with a KV cache."""

from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeinfer_cli.drafters import branch_cache
from pipeinfer_cli.drafters.branch_cache import BranchCache
from pipeinfer_cli.scheduler import kv_sequences
from pipeinfer_cli.scheduler.interfaces import DraftBatch
from scripted import N_VOCAB, CountedText, ScriptedCache, next_token

N_CTX = 60


def candidates_after(text):
    """What the scripted draft model says may follow."""
    token = next_token(text)
    return [((token + rank) % N_VOCAB, 0.5**rank) for rank in range(1, 4)]


class ScriptedModel:
    """Computes runs at once, and keeps count."""

    def __init__(self):
        self.cells = ScriptedCache()
        self.fed = []  # the texts up to and with each token that was fed
        self.runs = []
        self.most_cells = 0

    def decode(self, run):
        assert 0 < len(run.tokens) <= branch_cache.N_BATCH
        for op in run.kv_ops:
            self.cells.apply(op)
        texts = self.cells.decode(run.tokens)
        self.fed += map(tuple, texts)
        self.runs.append(run)
        self.most_cells = max(self.most_cells, len(self.cells.cells))
        pairs = zip(texts, run.tokens, strict=True)
        return [candidates_after(text) for text, token in pairs if token.want]


@pytest.fixture
def model():
    return ScriptedModel()


def always():
    return True


def never():
    return False


def ask(cache, text, *branches, n_text=None, n_candidates=3, is_wanted=always):
    n_text = len(text) if n_text is None else n_text
    return cache.expand(DraftBatch(1, text, n_text, branches, n_candidates), is_wanted)


def expected(text, *branches, n_ctx=N_CTX):
    texts = [[*text, *branch] for branch in branches]
    return [candidates_after(each) if len(each) < n_ctx else () for each in texts]


@settings(max_examples=4 * settings.default.max_examples)
@given(
    n_batch=st.integers(1, 8),
    n_branch_cells=st.sampled_from([1, 4, 12, 256]),
    n_branches=st.sampled_from([1, 2, 4, 192]),
    random=st.randoms(use_true_random=True),
)
def test_answers_are_those_of_fresh_contexts_whatever_was_asked_before(
    n_batch, n_branch_cells, n_branches, random
):
    model = ScriptedModel()
    cache = BranchCache(model.decode, n_ctx=N_CTX)
    text, branches = [1], [()]
    with (
        mock.patch.object(branch_cache, "N_BATCH", n_batch),
        mock.patch.object(branch_cache, "N_BRANCH_CELLS", n_branch_cells),
        mock.patch.object(branch_cache, "N_SEQUENCES", n_branches),
        mock.patch.object(kv_sequences, "N_HOLES_MAX", 3),
    ):
        for _ in range(40):
            what = random.random()
            if what < 0.3:  # the text grows along a branch, or beside all of them
                text += random.choice([*branches, (random.randrange(N_VOCAB),)])
                branches = [()]
            elif what < 0.4:
                text += random.choices(range(N_VOCAB), k=random.randint(1, 12))
                branches = [()]
            elif what < 0.5:  # another text, or a shorter one
                text = [*text[: random.randint(1, len(text))], random.randrange(N_VOCAB)]
                branches = [()]
            elif what < 0.55:
                cache.forget()
            if len(text) > N_CTX:
                text, branches = text[:3], [()]
            for _ in range(random.randint(0, 4)):
                branch = random.choice(branches)
                more = random.choices(range(3), k=random.randint(1, 3))
                branches.append((*branch, *more))
            asked = random.choices(branches, k=random.randint(1, 6))
            n_text = random.choice([len(text), len(text), random.randint(1, len(text))])
            wanted = iter(random.choices([True, False], k=5))
            answers = ask(
                cache,
                text,
                *asked,
                n_text=n_text,
                is_wanted=lambda wanted=wanted: next(wanted, True),
            )
            if answers is not None:
                assert answers == expected(text[:n_text], *asked)
    slack = n_branch_cells + N_CTX + 3 + 2 * n_batch
    assert model.most_cells <= N_CTX + slack


def test_a_shared_prefix_is_fed_once_and_all_branches_by_one_run(model):
    cache, text = BranchCache(model.decode, n_ctx=N_CTX), [4, 5, 6]
    branches = [(), (1,), (2,), (1, 1), (1, 2), (1, 2, 3), (7, 8)]
    assert ask(cache, text, *branches) == expected(text, *branches)
    assert len(model.runs) == 1
    assert len(model.fed) == len(set(model.fed)) == 3 + 7
    assert model.runs[0].n_rows == len(branches), "what was not asked for costs no row"
    assert ask(cache, text, *reversed(branches)) == expected(text, *reversed(branches))
    assert len(model.runs) == 1, "what is known is not computed again"


def test_the_text_grows_along_a_branch_that_was_fed(model):
    cache, text = BranchCache(model.decode, n_ctx=N_CTX), [4, 5, 6]
    ask(cache, text, (1,), (2,), (2, 3), (2, 4))
    n_fed = len(model.fed)
    text += [2, 4]
    assert ask(cache, text, (), (9,)) == expected(text, (), (9,))
    assert model.fed[n_fed:] == [(*text, 9)]
    text += [3, 3]
    assert ask(cache, text, ()) == expected(text, ())
    assert model.fed[n_fed + 1 :] == [(*text[:-1],), (*text,)]


def test_what_follows_a_node_between_others_is_found_without_feeding_those_again(model):
    cache, text = BranchCache(model.decode, n_ctx=N_CTX), [4, 5, 6]
    ask(cache, text, (1, 2), (1, 3, 4))
    n_fed = len(model.fed)
    assert ask(cache, text, (1,), (), (1, 3)) == expected(text, (1,), (), (1, 3))
    assert len(model.fed) == n_fed + 3
    assert ask(cache, text, (1, 3, 4, 5), (1,)) == expected(text, (1, 3, 4, 5), (1,))
    assert len(model.fed) == n_fed + 4


def test_another_text_is_fed_from_where_it_differs(model):
    cache, text = BranchCache(model.decode, n_ctx=N_CTX), list(range(8))
    ask(cache, text, (), (1,))
    for other in ([*text[:6], 9], [*text[:6], 9, 4], text[:5], [9]):
        n_fed = len(model.fed)
        assert ask(cache, other, ()) == expected(other, ())
        assert model.fed[n_fed:] == [tuple(other)] or other == [*text[:6], 9, 4] or other == [9]
    assert model.fed[-1] == (9,)


def test_a_batch_that_is_not_wanted_ends_between_runs_and_goes_on_from_there(model):
    cache = BranchCache(model.decode, n_ctx=1000)
    text = list(range(2 * branch_cache.N_BATCH + 5))
    assert ask(cache, text, (), is_wanted=never) is None
    assert len(model.fed) == branch_cache.N_BATCH
    assert ask(cache, text, (), is_wanted=never) is None
    assert ask(cache, text, (), is_wanted=never) == expected(text, (), n_ctx=1000)
    assert len(model.fed) == len(text)


def test_a_long_text_costs_a_step_what_a_short_one_costs(model):
    """No step looks at the text that was seen before, and nothing piles up."""

    cache, text = BranchCache(model.decode, n_ctx=5000), CountedText([1, 2])
    ask(cache, text, ())
    text.n_read, n_steps = 0, 1500
    for step in range(n_steps):
        branches = [(0,), (1,), (0, 0), (1, 1)]
        assert ask(cache, text, *branches) == expected(list(text), *branches, n_ctx=5000)
        text.append(step % 3)
        model.fed.clear()
        model.runs.clear()
    assert text.n_read <= n_steps
    assert model.most_cells <= len(text) + 4 + 2 * kv_sequences.N_HOLES_MAX
    tree = cache._tree
    assert tree.n_drafted + len(cache._rows) + len(tree._open) + len(tree._unfed) < 300


def test_there_is_always_room_for_what_is_asked(model):
    """More branches than sequence ids, and more tokens than cells for branches."""
    cache, text = BranchCache(model.decode, n_ctx=N_CTX), [4, 5, 6]
    for first in range(0, 600, 50):
        branches = [(token // 20, token % 20) for token in range(first, first + 50)]
        assert ask(cache, text, *branches) == expected(text, *branches)
    n_max = branch_cache.n_cells(N_CTX)
    assert model.most_cells <= n_max
    branches = [(token,) for token in range(400)]
    assert ask(cache, text, *branches) == expected(text, *branches)
    assert model.most_cells <= n_max


def test_nothing_is_known_beyond_the_context(model):
    cache, text = BranchCache(model.decode, n_ctx=5), [1, 2, 3]
    assert ask(cache, text, (), (1,), (1, 1)) == expected(text, (), (1,), (1, 1), n_ctx=5)
    assert ask(cache, [1, 2, 3, 4, 5], (), (1,)) == [(), ()]
