"""A draft model expands branches of a text as it would expand each alone, token by token.

The candidates are the same, and their probabilities bit for bit.
"""

import random

import pytest

from architectures import N_VOCAB as N_TINY_VOCAB
from architectures import TINY_MODELS
from pipeinfer_cli.drafters.branch_cache import N_BRANCH_CELLS
from pipeinfer_cli.drafters.model import ModelDrafter
from pipeinfer_cli.engine.config import ONE_THREAD
from pipeinfer_cli.engine.draft import DraftModel
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.launch.environment import resident_bytes
from pipeinfer_cli.scheduler.interfaces import DraftBatch
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, KvKind, KvOp, Run, RunToken, SampleParams
from small_models import N_VOCAB, random_windowed
from support import smollm2

pytestmark = pytest.mark.native

DRAWN = SampleParams(temperature=0.8, seed=3)
N_CANDIDATES = 4


class OneByOne:
    """What follows a text, fed token by token; now and then from its first token on."""

    def __init__(self, path, n_ctx, sample):
        self.model = DraftModel(path, n_ctx=n_ctx, n_cells=n_ctx, n_batch=1, cores=ONE_THREAD)
        self.sample, self.fed = sample, []

    def candidates(self, text, *, afresh=False):
        n_keep = 0
        while n_keep < min(len(self.fed), len(text) - 1) and self.fed[n_keep] == text[n_keep]:
            n_keep += 1
        n_keep = 0 if afresh else n_keep
        ops = (KvOp(kind=KvKind.REMOVE, seq_src=0, pos_first=n_keep),)
        for position in range(n_keep, len(text)):
            token = RunToken(id=text[position], position=position, want=True)
            run = Run(run_id=1, tokens=(token,), kv_ops=ops)
            (row,) = self.model.expand(run, self.model.n_vocab, self.sample)
            ops = ()
        self.fed = list(text)
        return row[:N_CANDIDATES]


class Player:
    """Grows texts and branches at random, and compares what is said of them."""

    def __init__(self, path, *, n_vocab, n_ctx, sample=DEFAULT_SAMPLE, seed=0):
        self.random = random.Random(seed)
        self.n_vocab, self.n_ctx, self.sample = n_vocab, n_ctx, sample
        self.drafter = ModelDrafter(path, n_ctx=n_ctx, sample=sample)
        self.one_by_one = OneByOne(path, n_ctx, sample)
        self.text, self.branches = self.tokens(5), {(): []}
        self.n_asked = 0

    def tokens(self, n):
        return [self.random.randrange(self.n_vocab) for _ in range(n)]

    def ask(self, branches):
        batch = DraftBatch(1, self.text, len(self.text), tuple(branches), N_CANDIDATES)
        answers = None
        while answers is None:  # what was computed before it was not wanted is of use
            answers = self.drafter.expand(batch, lambda: self.random.random() < 0.7)
        for branch, found in zip(branches, answers, strict=True):
            text = [*self.text, *branch]
            afresh = self.random.random() < 0.05
            assert found == self.one_by_one.candidates(text, afresh=afresh)
            self.branches[branch] = [token for token, _ in found]
            self.n_asked += 1

    def step(self, n_branches=5):
        dice = self.random.random()
        if dice < 0.5:  # the text grows, mostly along a branch
            path = self.random.choice([*self.branches, tuple(self.tokens(1))])
            self.grow(list(path))
        elif dice < 0.6:
            self.grow(self.tokens(self.random.randint(1, 40)))
        elif dice < 0.65:  # another request, which begins like this one
            n_kept = self.random.randint(1, len(self.text))
            self.text, self.branches = self.text[:n_kept] + self.tokens(2), {(): []}
        elif dice < 0.67:
            self.drafter.forget(self.sample)
        self.ask(list(dict.fromkeys(self.branch() for _ in range(n_branches))))

    def grow(self, tokens):
        self.text += tokens
        self.branches = {(): []}
        if len(self.text) > self.n_ctx - 10:
            self.text = self.text[:7]

    def branch(self):
        """One that was asked for, or one or two tokens after it."""
        branch = self.random.choice(list(self.branches))
        if len(branch) >= 8:
            return branch
        likely = self.branches[branch] or [0]
        more = [self.random.choice(likely)] if self.random.random() < 0.8 else self.tokens(2)
        return (*branch, *more)

    def close(self):
        self.drafter.close()
        self.one_by_one.model.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    capture_log()
    return TINY_MODELS[0].write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.mark.parametrize("sample", [DEFAULT_SAMPLE, DRAWN], ids=["greedy", "drawn"])
def test_random_trees_of_random_texts(tiny, sample):
    """Hundreds of growths, switches and rewinds, with more branch tokens than there are cells."""
    player = Player(tiny, n_vocab=N_TINY_VOCAB, n_ctx=300, sample=sample)
    for step in range(400):
        player.step()
        if step == 100:
            bytes_before = resident_bytes()
    assert player.n_asked > 4 * N_BRANCH_CELLS
    assert resident_bytes() - bytes_before < 8 << 20
    player.close()


def test_trees_of_a_model_whose_layers_see_a_window(tmp_path):
    path = random_windowed(tmp_path / "windowed.gguf")
    player = Player(path, n_vocab=N_VOCAB, n_ctx=150, seed=1)
    for _ in range(40):
        player.step(n_branches=4)
    player.close()


def test_trees_of_a_real_quantized_model():
    player = Player(smollm2(), n_vocab=40000, n_ctx=150, seed=2)
    for _ in range(12):
        player.step(n_branches=6)
    player.close()


def test_a_long_text_with_branches_all_along(tiny):
    """Cells of dead branches are closed up as the text grows to the end of the context."""
    n_ctx = 900
    player = Player(tiny, n_vocab=N_TINY_VOCAB, n_ctx=n_ctx)
    while len(player.text) < n_ctx - 8:
        player.text += player.tokens(player.random.randint(1, 3))
        branches = [(), *((a, b) for a in range(3) for b in range(2))]
        batch = DraftBatch(1, player.text, len(player.text), tuple(branches), N_CANDIDATES)
        answers = player.drafter.expand(batch, lambda: True)
        if len(player.text) % 50 == 0:
            for branch, found in zip(branches, answers, strict=True):
                assert found == player.one_by_one.candidates([*player.text, *branch])
    player.close()


def test_more_branches_than_sequence_ids(tiny):
    player = Player(tiny, n_vocab=N_TINY_VOCAB, n_ctx=300)
    branches = [(token,) for token in range(N_TINY_VOCAB)]
    player.ask(branches)
    player.ask([*((token, token) for token in range(0, N_TINY_VOCAB, 3)), ()])
    player.close()


def test_a_chain_as_long_as_the_context(tiny):
    player = Player(tiny, n_vocab=N_TINY_VOCAB, n_ctx=400)
    chain = tuple(player.tokens(400 - len(player.text) - 1))
    player.ask([chain, chain[:200], ()])
    player.ask([(*chain[:300], 1), (*chain[:250], 2)])
    (beyond,) = player.drafter.expand(
        DraftBatch(1, player.text, len(player.text), ((*chain, 1),), 1), lambda: True
    )
    assert beyond == ()
    player.close()


def test_a_run_that_breaks_a_rule_is_refused(tiny):
    model = DraftModel(tiny, n_ctx=8, n_cells=8, n_batch=4, cores=ONE_THREAD)
    token = RunToken(id=1, position=0, want=True)
    with pytest.raises(RunError, match="more tokens than n_batch"):
        model.expand(Run(run_id=1, tokens=(token,) * 5), model.n_vocab, DEFAULT_SAMPLE)
    with pytest.raises(RunError, match="positions of a sequence must follow"):
        model.expand(Run(run_id=1, tokens=(token, token)), model.n_vocab, DEFAULT_SAMPLE)
    (row,) = model.expand(Run(run_id=1, tokens=(token,)), model.n_vocab, DEFAULT_SAMPLE)
    assert len(row) == 16
    model.close()
