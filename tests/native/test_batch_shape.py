"""A token's logits are the same, bit for bit, whatever runs its text is cut into, for every type.

The reference is the same engine, one token at a time, with one thread. Its logits in turn are
those of the unpatched llama.cpp, one token at a time.
"""

import hashlib
import itertools

import numpy as np
import pytest

from architectures import N_VOCAB as TINY_VOCAB
from architectures import TINY_MODELS
from pipeinfer_cli.engine.config import EngineConfig
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.scheduler.runs import KvKind, KvOp, Run, RunToken
from small_models import FILE_TYPES, N_LAYER, N_VOCAB, convert, random_llama
from support import IS_WHOLE, PROMPTS, plain_decode, smollm2

pytestmark = pytest.mark.native

N_LAYER_SMOLLM2, N_VOCAB_SMOLLM2 = 30, 49152
N_BATCH = 512
N_ROWS = 32  # that a run may ask for
N_CTX = 1024
WAIT_S = 30
# llama.cpp looks at 256 cells at a time: at 512 from token 257 on, and from that number on its own
# flash attention divides one token's cells among threads
N_TOKENS = 300
N_PROMPT = 1000
N_PLAIN = 96
SIZES = [
    [2],
    [3],
    [4],
    [5],
    [8],
    [16],
    [32],
    [1, 7, 32, 2, 13, 31],
    [33, 100],
    [300],
]  # of runs, in turn
LONG_SIZES = [[512], [1, 2, 33, 64, 100, 511]]
LONG_TYPES = ["F16", "Q8_0", "Q4_K_M"]
CLEAR = (KvOp(kind=KvKind.REMOVE, seq_src=-1),)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    capture_log()
    return random_llama(tmp_path_factory.mktemp("random") / "random.gguf")


@pytest.fixture(scope="module", params=FILE_TYPES)
def model(request, source):
    path = convert(source, source.parent, request.param)
    yield path
    path.unlink()


def open_engine(path, n_layer, n_threads):
    return Engine(
        EngineConfig(
            model_path=path,
            layer_first=0,
            layer_last=n_layer,
            n_ctx=N_CTX,
            n_cells=N_CTX,
            n_batch=N_BATCH,
            n_threads=n_threads,
        )
    )


def cut(ids, sizes):
    """The token ids in runs of these sizes, in turn: (position of the first, ids)."""
    first = 0
    for size in itertools.cycle(sizes):
        if first >= len(ids):
            return
        yield first, ids[first : first + size]
        first += size


def decode(engine, ids, sizes, run_ids, n_vocab=N_VOCAB):
    """A run's last N_ROWS positions' tokens, and its last one's logits: ({}, {position: bytes}).

    Begins with an empty cache.
    """
    rows, logits = {}, {}
    for first, part in cut(ids, sizes):
        tokens = tuple(
            RunToken(id=token, position=first + i, want=i >= len(part) - N_ROWS)
            for i, token in enumerate(part)
        )
        engine.submit(Run(run_id=next(run_ids), tokens=tokens, kv_ops=CLEAR if first == 0 else ()))
        tokens_of_rows = engine.wait(WAIT_S).rows
        end = first + len(part)
        rows |= zip(range(end - len(tokens_of_rows), end), tokens_of_rows, strict=True)
        logits[first + len(part) - 1] = engine.last_logits(n_vocab).tobytes()
    return rows, logits


@pytest.fixture(scope="module")
def ids():
    return [int(token) for token in np.random.default_rng(1).integers(0, N_VOCAB, N_TOKENS)]


@pytest.fixture(scope="module")
def one_by_one(model, ids):
    with open_engine(model, N_LAYER, 1) as engine:
        return decode(engine, ids, [1], itertools.count(1))


@pytest.mark.parametrize("n_threads", [1, 2] if IS_WHOLE else [2])
def test_logits_do_not_depend_on_the_cut_into_runs(model, ids, one_by_one, n_threads):
    rows, logits = one_by_one
    assert len(logits) == N_TOKENS
    run_ids = itertools.count(1)
    with open_engine(model, N_LAYER, n_threads) as engine:
        for sizes in [[1], *SIZES]:
            rows_of_runs, logits_of_runs = decode(engine, ids, sizes, run_ids)
            assert rows_of_runs.items() <= rows.items(), sizes
            differ = [i for i, values in logits_of_runs.items() if values != logits[i]]
            assert not differ, f"runs of {sizes}: first at position {differ[0]}"


@pytest.mark.parametrize("file_type", LONG_TYPES)
def test_logits_of_a_long_prompt_do_not_depend_on_its_cut(source, file_type, tmp_path):
    path = convert(source, tmp_path, file_type)
    ids = [int(token) for token in np.random.default_rng(2).integers(0, N_VOCAB, N_PROMPT)]
    with open_engine(path, N_LAYER, 1) as engine:
        rows, logits = decode(engine, ids, [1], itertools.count(1))
    run_ids = itertools.count(1)
    with open_engine(path, N_LAYER, 3) as engine:
        for sizes in LONG_SIZES:
            rows_of_runs, logits_of_runs = decode(engine, ids, sizes, run_ids)
            assert rows_of_runs.items() <= rows.items(), sizes
            differ = [i for i, values in logits_of_runs.items() if values != logits[i]]
            assert not differ, f"runs of {sizes}: first at position {differ[0]}"


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_logits_equal_the_unpatched_llama_cpp(file_type, tmp_path):
    path = convert(smollm2(), tmp_path, file_type)
    prompt = Vocab(smollm2()).tokenize(" ".join(PROMPTS))[:N_PLAIN]
    request = {"model": str(path), "prompts": [prompt], "n_predict": 1, "n_ctx": N_CTX}
    plain = plain_decode(request)[0]["logits"]
    with open_engine(path, N_LAYER_SMOLLM2, 1) as engine:
        _, logits = decode(engine, prompt, [1], itertools.count(1), N_VOCAB_SMOLLM2)
    path.unlink()
    assert len(prompt) == N_PLAIN
    assert [hashlib.sha256(values).hexdigest() for values in logits.values()] == plain


@pytest.mark.parametrize("n_tokens", [300, 1000])
def test_any_number_of_threads_decodes_as_one(n_tokens, tmp_path):
    """The unpatched llama.cpp divides one token's cells among its threads: from 257 on."""
    tiny = next(tiny for tiny in TINY_MODELS if tiny.name == "llama")
    path = tiny.write(tmp_path / "tiny.gguf")
    ids = [int(token) for token in np.random.default_rng(3).integers(3, TINY_VOCAB, n_tokens)]
    request = {"model": str(path), "prompts": [ids], "n_predict": 1, "n_ctx": N_CTX}
    plain = plain_decode(request)[0]["logits"]
    for n_threads in (1, 2, 3):
        with open_engine(path, tiny.n_layer, n_threads) as engine:
            _, logits = decode(engine, ids, [1], itertools.count(1), TINY_VOCAB)
        assert [hashlib.sha256(values).hexdigest() for values in logits.values()] == plain

    of_two = plain_decode({**request, "n_threads": 2})[0]["logits"]
    assert of_two[:256] == plain[:256], "256 cells at a time"
    assert of_two[256:] != plain[256:], "unpatched: what the test above is for"
