"""For each architecture that splits: logits do not depend on the runs that a text is cut into."""

import itertools

import numpy as np
import pytest

from architectures import N_CTX, N_VOCAB, TINY_MODELS
from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunToken

pytestmark = pytest.mark.native

WAIT_S = 30
IDS = [int(token) for token in np.random.default_rng(1).integers(3, N_VOCAB, 80)]
SIZES = [[2], [5], [8], [32], [1, 7, 32, 2, 13]]  # of runs, in turn
CLEAR = (KvOp(kind=KvKind.REMOVE, seq_src=-1),)


def decode(engine, sizes, run_ids):
    """The logits of each run's last position: {position: bytes}. Begins with an empty cache."""
    logits, first = {}, 0
    for size in itertools.cycle(sizes):
        part = IDS[first : first + size]
        if not part:
            return logits
        tokens = tuple(
            RunToken(id=token, position=first + i, want=True) for i, token in enumerate(part)
        )
        kv_ops = CLEAR if first == 0 else ()
        engine.submit(Run(run_id=next(run_ids), tokens=tokens, kv_ops=kv_ops))
        assert engine.wait(WAIT_S) is not None
        first += len(part)
        logits[first - 1] = engine.last_logits(N_VOCAB).tobytes()
    raise AssertionError


@pytest.mark.parametrize("tiny", TINY_MODELS, ids=lambda tiny: tiny.name)
def test_logits_do_not_depend_on_the_cut_into_runs(tiny, tmp_path):
    capture_log()
    config = EngineConfig(
        model_path=tiny.write(tmp_path / "tiny.gguf"),
        layer_first=0,
        layer_last=tiny.n_layer,
        n_ctx=N_CTX,
        n_batch=32,
        n_threads=2,
    )
    run_ids = itertools.count(1)
    with Engine(config) as engine:
        one_by_one = decode(engine, [1], run_ids)
        assert len(set(one_by_one.values())) == len(IDS)
        for sizes in SIZES:
            of_runs = decode(engine, sizes, run_ids)
            differ = [i for i, values in of_runs.items() if values != one_by_one[i]]
            assert not differ, f"runs of {sizes}: first at position {differ[0]}"
