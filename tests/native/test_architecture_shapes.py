"""For each architecture that splits: logits do not depend on the runs that a text is cut into.

Nor on another text that grows in the same cells, nor on how many cells there are: they are those of
the unpatched llama.cpp that decodes the text alone, in a context of its size.
"""

import hashlib
import itertools

import pytest

from architectures import N_CTX, N_VOCAB, TINY_MODELS, WHOLE_MODELS
from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.scheduler.policy import StateConfig
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunToken
from tiny_texts import IDS, plain_logits

pytestmark = pytest.mark.native

WAIT_S = 30
OTHER_IDS = IDS[::-1]
N_BATCH = 33
SIZES = [[1], [2], [5], [8], [32], [1, 7, 32, 2, 13]]  # of runs, in turn
STATES = StateConfig(n_places=8, n_runs=2, n_tokens=4)  # of hybrids
CLEAR = (KvOp(kind=KvKind.REMOVE, seq_src=-1),)


def decode(engine, sizes, run_ids, start):
    """The logits of each run's last token: {index: SHA-256}. Begins with an empty cache, at the
    position `start`.

    Each run also has a token of another text, with a sequence of its own.
    """
    logits, first, others = {}, 0, enumerate(OTHER_IDS)
    for size in itertools.cycle(sizes):
        part = IDS[first : first + size]
        if not part:
            return logits
        position, other = next(others)
        tokens = (
            RunToken(id=other, position=start + position, seq_ids=(1,)),
            *(
                RunToken(id=token, position=start + first + i, want=True)
                for i, token in enumerate(part)
            ),
        )
        kv_ops = CLEAR if first == 0 else ()
        engine.submit(Run(run_id=next(run_ids), tokens=tokens, kv_ops=kv_ops))
        assert engine.wait(WAIT_S) is not None
        first += len(part)
        values = engine.last_logits(N_VOCAB).tobytes()
        logits[first - 1] = hashlib.sha256(values).hexdigest()
    raise AssertionError


@pytest.mark.parametrize("tiny", [*TINY_MODELS, *WHOLE_MODELS], ids=lambda tiny: tiny.name)
def test_logits_do_not_depend_on_the_cut_into_runs(tiny, tmp_path):
    capture_log()
    path = tiny.write(tmp_path / "tiny.gguf")
    plain = plain_logits(path, tiny.first_position)
    assert len(set(plain)) == len(IDS)
    config = EngineConfig(
        model_path=path,
        layer_first=0,
        layer_last=tiny.n_layer,
        n_ctx=N_CTX,
        n_cells=4 * N_CTX,
        n_batch=N_BATCH,
        n_threads=2,
        states=STATES,
    )
    run_ids = itertools.count(1)
    with Engine(config) as engine:
        for sizes in SIZES:
            of_runs = decode(engine, sizes, run_ids, tiny.first_position)
            differ = [i for i, digest in of_runs.items() if digest != plain[i]]
            assert not differ, f"runs of {sizes}: first at position {differ[0]}"
