"""Every type of the KV cache: logits are the unpatched llama.cpp's with the same type, bit for bit.

That one decodes one token at a time, with one thread; ours runs of any size, with any number of
threads, also after compaction has moved cells.
"""

import hashlib
import itertools

import numpy as np
import pytest

from architectures import N_CTX as TINY_N_CTX
from architectures import N_VOCAB as TINY_VOCAB
from architectures import TINY_MODELS
from cache_cases import ALL, CUTS, N_TOKENS
from pipeinfer_cli.engine.config import (
    CACHE_TYPES,
    F16_CACHE,
    ONE_THREAD,
    CacheTypes,
    EngineConfig,
)
from pipeinfer_cli.engine.cpu.exactness import EXACT_CACHE_TYPES
from pipeinfer_cli.engine.draft import DraftModel
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.errors import PipeinferError
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, KvKind, KvOp, Run, RunToken
from small_models import N_LAYER, N_VOCAB, convert, talking_llama
from support import plain_decode

pytestmark = pytest.mark.native

N_BATCH = 32
N_CTX = 1024
WAIT_S = 30
CLEAR = KvOp(kind=KvKind.REMOVE, seq_src=-1)
COMPACT = KvOp(kind=KvKind.COMPACT)


def shown(types):
    return f"{types.k}-{types.v}"


def sha256(values):
    return hashlib.sha256(values.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    capture_log()
    folder = tmp_path_factory.mktemp("cache")
    return convert(talking_llama(folder / "talking.gguf"), folder, "Q8_0")


@pytest.fixture(scope="module")
def ids():
    return [int(token) for token in np.random.default_rng(4).integers(3, N_VOCAB, N_TOKENS)]


def open_engine(path, types, *, n_layer=N_LAYER, n_threads=1, n_cells=N_CTX, n_ctx=N_CTX):
    return Engine(
        EngineConfig(
            model_path=path,
            layer_first=0,
            layer_last=n_layer,
            n_ctx=n_ctx,
            n_cells=n_cells,
            cache_types=types,
            n_batch=N_BATCH,
            n_threads=n_threads,
        )
    )


def plain(path, ids, types, n_ctx=N_CTX):
    """SHA-256 of each position's logits, from the unpatched library."""
    request = {"model": str(path), "prompts": [ids], "n_predict": 1, "n_ctx": n_ctx}
    return plain_decode({**request, "cache_types": types.ids})[0]["logits"]


def differing(engine, ids, sizes, expected, n_vocab=N_VOCAB):
    """Positions at the end of runs whose logits are others."""
    first, found = 0, []
    for run_id, size in enumerate(itertools.cycle(sizes), start=1):
        part = ids[first : first + size]
        if not part:
            return found
        tokens = tuple(
            RunToken(id=token, position=first + i, want=i == len(part) - 1)
            for i, token in enumerate(part)
        )
        engine.submit(Run(run_id=run_id, tokens=tokens))
        assert engine.wait(WAIT_S) is not None
        first += len(part)
        if sha256(engine.last_logits(n_vocab)) != expected[first - 1]:
            found.append(first - 1)
    raise AssertionError


@pytest.mark.parametrize("types", ALL, ids=shown)
def test_logits_are_those_of_the_unpatched_llama_cpp(model, ids, types):
    expected = plain(model, ids, types)
    for sizes, n_threads, n_tokens in CUTS:
        with open_engine(model, types, n_threads=n_threads) as engine:
            found = differing(engine, ids[:n_tokens], sizes, expected)
        assert not found, f"runs of {sizes}, {n_threads} threads: first at position {found[0]}"


def test_types_give_texts_of_their_own(model, ids):
    """F32 is computed as F16: llama.cpp casts it. All others differ."""
    last = {name: plain(model, ids, CacheTypes(name, name))[-1] for name in CACHE_TYPES}
    assert last.pop("f32") == last["f16"]
    assert len(set(last.values())) == len(last)


def test_all_types_are_covered():
    assert frozenset(CACHE_TYPES) == EXACT_CACHE_TYPES
    assert {types.k for types in ALL} == {types.v for types in ALL} == set(CACHE_TYPES)


@pytest.mark.parametrize("types", ALL, ids=shown)
def test_compaction_moves_whole_rows(model, ids, types):
    """A trunk with branches between its cells, which go; the rest moves, and the text grows on."""
    expected = plain(model, ids, types)
    with open_engine(model, types, n_cells=256) as engine:
        run_ids = itertools.count(1)

        def feed(first, last, seq=0, ops=()):
            for start in range(first, last, N_BATCH):
                at = range(start, min(start + N_BATCH, last))
                tokens = tuple(
                    RunToken(id=ids[p], position=p, seq_ids=(seq,), want=p == at[-1]) for p in at
                )
                engine.submit(Run(run_id=next(run_ids), tokens=tokens, kv_ops=ops))
                assert engine.wait(WAIT_S) is not None
                ops = ()
            return sha256(engine.last_logits(N_VOCAB))

        def fork(seq, last):
            return KvOp(kind=KvKind.COPY, seq_src=0, seq_dst=seq, pos_last=last)

        def remove(seq):
            return KvOp(kind=KvKind.REMOVE, seq_src=seq)

        for _ in range(2):
            feed(0, 70, ops=(CLEAR, COMPACT))
            feed(70, 91, seq=1, ops=(fork(1, 70),))
            feed(70, 130)
            feed(130, 133, seq=2, ops=(fork(2, 130),))
            feed(130, 131)
            logits = feed(131, 256, ops=(remove(1), remove(2), COMPACT))
            assert logits == expected[255]


@pytest.mark.parametrize(
    "types", [CacheTypes("q8_0", "q8_0"), CacheTypes("q4_0", "q4_0")], ids=shown
)
@pytest.mark.parametrize(
    "name", ["gemma2", "gemma3", "gpt-oss", "qwen3", "deepseek2", "deepseek2-lite"]
)
def test_other_architectures(name, types, tmp_path):
    """Windows, capped logits, sinks, norms, latent states; heads that llama.cpp does not rotate."""
    capture_log()
    tiny = next(tiny for tiny in TINY_MODELS if tiny.name == name)
    path = tiny.write(tmp_path / "tiny.gguf")
    ids = [int(token) for token in np.random.default_rng(5).integers(3, TINY_VOCAB, 100)]
    expected = plain(path, ids, types, TINY_N_CTX)
    assert len(set(expected)) == len(ids)
    for sizes, n_threads in (([1], 1), ([5], 2), ([32], 1)):
        with open_engine(
            path, types, n_layer=tiny.n_layer, n_threads=n_threads, n_ctx=TINY_N_CTX
        ) as engine:
            found = differing(engine, ids, sizes, expected, TINY_VOCAB)
        assert not found, f"runs of {sizes}: first at position {found[0]}"


def open_draft(path, types):
    return DraftModel(
        path, n_ctx=256, n_cells=256, n_batch=N_BATCH, cores=ONE_THREAD, cache_types=types
    )


def test_a_draft_model_has_types_of_its_own(model, ids):
    tokens = tuple(RunToken(id=token, position=i, want=i > 20) for i, token in enumerate(ids[:24]))
    found = []
    for types in (F16_CACHE, CacheTypes("f32", "f32"), CacheTypes("q8_0", "q4_0")):
        draft = open_draft(model, types)
        found.append(draft.expand(Run(run_id=1, tokens=tokens), N_VOCAB, DEFAULT_SAMPLE))
        draft.close()
    f16, f32, quantized = found
    assert f16 == f32 != quantized
    assert len(f16) == len(quantized) == 3


def test_a_type_that_no_cache_has(model):
    class Other(CacheTypes):
        ids = (10, 1)

    for make in (open_engine, open_draft):
        with pytest.raises(PipeinferError, match="a KV cache cannot have the type 10"):
            make(model, Other())
