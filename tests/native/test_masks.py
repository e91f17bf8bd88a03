"""Rows under masks: drawn from the same logits, with what is forbidden at minus infinity."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from architectures import N_VOCAB as N_TINY_VOCAB
from architectures import TINY_MODELS
from pipeinfer_cli.engine.config import ONE_THREAD, EngineConfig
from pipeinfer_cli.engine.draft import DraftModel
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.engine.sampling import MAX_TOP, sample, sample_top
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.models.gguf.info import read_model_info
from pipeinfer_cli.scheduler.runs import (
    DEFAULT_SAMPLE,
    KvKind,
    KvOp,
    Mask,
    Run,
    RunToken,
    SampleParams,
)

pytestmark = pytest.mark.native

WAIT_S = 30
FORGET = (KvOp(kind=KvKind.REMOVE, seq_src=-1),)
N_WORDS = -(-N_TINY_VOCAB // 32)
ALL = (1 << N_TINY_VOCAB) - 1
EVERY_OTHER = int("01" * (N_TINY_VOCAB // 2), 2)
SAMPLES = (
    DEFAULT_SAMPLE,
    SampleParams(temperature=0.8, seed=3),
    SampleParams(temperature=1.5, top_k=0, top_p=1, min_p=0, seed=4),
    SampleParams(temperature=0.7, top_k=3, top_p=0.5, seed=5),
)
tokens = st.sets(st.integers(0, N_TINY_VOCAB - 1), min_size=1, max_size=40)
bits = st.one_of(
    tokens.map(lambda each: sum(1 << token for token in each)),  # few
    tokens.map(lambda each: ALL & ~sum(1 << token for token in each)),  # nearly all
    st.integers(1, ALL),  # half of them
    st.sampled_from([ALL, EVERY_OTHER, EVERY_OTHER << 1, 1, 1 << N_TINY_VOCAB - 1, 1 << 31]),
)


def mask_of(bits):
    return Mask(bits.to_bytes(4 * N_WORDS, "little"))


def masked(logits, bits):
    allowed = [bits >> token & 1 for token in range(len(logits))]
    return np.where(np.array(allowed, bool), logits, np.float32("-inf")).astype(np.float32)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    capture_log()
    return TINY_MODELS[0].write(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


def open_engine(path):
    return Engine(
        EngineConfig(
            model_path=path,
            layer_first=0,
            layer_last=read_model_info(path).n_layer,
            n_ctx=64,
            n_cells=256,
            n_batch=32,
            n_threads=1,
        )
    )


class Caller:
    """An engine, and runs of one text."""

    def __init__(self, engine):
        self.engine, self.n_runs = engine, 0

    def rows(self, text, masks, params=None):
        """A row for each of the last tokens, as many as there are masks; and the last logits."""
        self.n_runs += 1
        n_plain = len(text) - len(masks)
        run = Run(
            run_id=self.n_runs,
            kv_ops=FORGET,
            tokens=tuple(
                RunToken(id=token, position=position)
                if position < n_plain
                else RunToken(
                    id=token,
                    position=position,
                    want=True,
                    sample=params,
                    mask=masks[position - n_plain],
                )
                for position, token in enumerate(text)
            ),
        )
        self.engine.submit(run)
        return self.engine.wait(WAIT_S).rows, self.engine.last_logits(N_TINY_VOCAB)


@pytest.fixture(scope="module")
def caller(tiny):
    with open_engine(tiny) as engine:
        yield Caller(engine)


@given(
    st.lists(st.integers(0, N_TINY_VOCAB - 1), min_size=1, max_size=5),
    st.lists(bits, min_size=1, max_size=4),
    st.sampled_from(SAMPLES),
)
def test_a_row_is_drawn_among_the_allowed_tokens(caller, text, allowed, params):
    """Several rows of a run, with masks of their own or in common, are what each is alone."""
    allowed = allowed[: len(text)]
    masks = [mask_of(each) for each in [*allowed[:-1], allowed[0]]][: len(allowed)]
    rows, _ = caller.rows(text, masks, params)
    for index, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        end = len(text) - len(masks) + index + 1
        (alone,), logits = caller.rows(text[:end], [mask], params)
        number = int.from_bytes(mask.bits, "little")
        token, _ = sample(masked(logits, number), end, params)
        assert row == alone == token
        assert mask.allows(row)


def test_all_tokens_allowed_is_no_mask(caller):
    text = [5, 9, 3]
    assert caller.rows(text, [mask_of(ALL)])[0] == caller.rows(text, [None])[0]


@pytest.mark.parametrize("n_bytes", [4, 4 * N_WORDS + 400])
def test_a_mask_of_another_vocabulary_fails_in_one_line(tiny, n_bytes):
    mask = Mask(b"\x55" * n_bytes)
    with open_engine(tiny) as engine, pytest.raises(RunError, match="a mask of allowed tokens"):
        Caller(engine).rows([1], [mask])


def test_a_mask_without_tokens_fails_in_one_line(tiny):
    empty = object.__new__(Mask)
    object.__setattr__(empty, "bits", bytes(4 * N_WORDS))
    with open_engine(tiny) as engine, pytest.raises(RunError) as caught:
        Caller(engine).rows([1, 2], [empty])
    assert str(caught.value).endswith("the grammar allows no token of the vocabulary at position 2")


def test_a_drafts_candidates_are_allowed_ones_with_shares_of_these(tiny, caller):
    model = DraftModel(tiny, n_ctx=64, n_cells=64, n_batch=8, cores=ONE_THREAD)
    for number in (EVERY_OTHER, 0b1011 << 40, ALL):
        token = RunToken(id=7, position=0, want=True, mask=mask_of(number))
        for params in SAMPLES[:2]:
            run = Run(run_id=1, tokens=(token,), kv_ops=FORGET)
            (row,) = model.expand(run, model.n_vocab, params)
            _, logits = caller.rows([7], [None])
            assert row == sample_top(masked(logits, number), 1, params, MAX_TOP)
    free = replace(token, id=8, position=1, mask=None)
    rows = model.expand(Run(run_id=1, tokens=(token, free), kv_ops=FORGET), 100, DEFAULT_SAMPLE)
    assert [len(row) for row in rows] == [MAX_TOP, MAX_TOP]
    beyond = replace(token, mask=mask_of(1 << 120))
    assert model.expand(Run(run_id=1, tokens=(beyond,), kv_ops=FORGET), 100, DEFAULT_SAMPLE) == [[]]
    model.close()
