"""Cells of the KV cache: where a run finds some, and what happens when there are none."""

import itertools

import pytest

from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import RunError
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunStatus, RunToken
from small_models import N_LAYER, N_VOCAB, random_llama, random_windowed

pytestmark = pytest.mark.native

N_BATCH = 32
N_CELLS = 256  # llama.cpp's padding of N_CTX
N_CTX = 250
WAIT_S = 30
COMPACT = KvOp(kind=KvKind.COMPACT)
REMOVE_ALL = KvOp(kind=KvKind.REMOVE, seq_src=-1)


@pytest.fixture(scope="module", params=[random_llama, random_windowed], ids=["llama", "windowed"])
def model(request, tmp_path_factory):
    capture_log()
    return request.param(tmp_path_factory.mktemp("random") / "random.gguf")


class Caller:
    """Submits runs one at a time to an engine of one stage."""

    def __init__(self, engine):
        self.engine = engine
        self.run_ids = itertools.count(1)

    def run(self, n_tokens, first=0, seq=0, ops=()):
        """Decodes tokens that depend on their position only; returns the last one's logits."""
        tokens = tuple(
            RunToken(id=p * 7 % N_VOCAB, position=p, seq_ids=(seq,), want=True)
            for p in range(first, first + n_tokens)
        )
        self.engine.submit(Run(run_id=next(self.run_ids), tokens=tokens, kv_ops=ops))
        assert self.engine.wait(WAIT_S).status is RunStatus.COMPLETED
        return self.engine.last_logits(N_VOCAB).tobytes() if tokens else None


@pytest.fixture
def caller(model):
    config = EngineConfig(
        model_path=model,
        layer_first=0,
        layer_last=N_LAYER,
        n_ctx=N_CTX,
        n_cells=N_CTX,
        n_batch=N_BATCH,
        n_threads=1,
    )
    with Engine(config) as engine:
        yield Caller(engine)


def fork(seq, last):
    return KvOp(kind=KvKind.COPY, seq_src=0, seq_dst=seq, pos_last=last)


def remove(seq, first=0):
    return KvOp(kind=KvKind.REMOVE, seq_src=seq, pos_first=first)


def fill(caller, n_positions, first=0, seq=0, ops=()):
    for start in range(first, n_positions, N_BATCH):
        logits = caller.run(min(N_BATCH, n_positions - start), start, seq, ops)
        ops = ()
    return logits


@pytest.mark.parametrize("ops", [(), (COMPACT,)], ids=["by itself", "when told"])
def test_all_cells_of_removed_branches_are_used_again(caller, ops):
    """A trunk of 200 tokens with branches between them, which are removed; then it grows on."""
    plain = fill(caller, N_CELLS)
    caller.run(0, ops=(REMOVE_ALL,))
    fill(caller, 100)
    fill(caller, 120, 100, seq=1, ops=(fork(1, 100),))
    fill(caller, 180, 100)
    fill(caller, 210, 180, seq=2, ops=(fork(2, 180),))
    fill(caller, 206, 180)
    assert caller.engine.kv_positions() == 206 + 120 + 210
    assert fill(caller, N_CELLS, 206, ops=(remove(1), remove(2), *ops)) == plain
    assert caller.engine.kv_positions() == N_CELLS
    caller.run(0, ops=(REMOVE_ALL, COMPACT))
    assert caller.engine.kv_positions() == 0
    assert fill(caller, N_CELLS) == plain


def test_a_run_that_finds_no_cells_is_a_failure_that_says_so(caller):
    fill(caller, N_CELLS - 3)
    with pytest.raises(RunError, match="no room in the KV cache of 256 cells for a run of 4 tok"):
        caller.run(4, N_CELLS - 3)


def test_compacting_an_empty_cache_and_one_without_holes_changes_nothing(caller):
    caller.run(0, ops=(COMPACT,))
    plain = fill(caller, 64)
    caller.run(0, ops=(COMPACT, remove(0, 63), COMPACT))
    assert caller.run(1, 63, ops=(COMPACT,)) == plain
    assert caller.engine.kv_positions() == 64
