"""Long-rope models: the text is that of a context of -c tokens, whatever cells there are besides.

llama.cpp chooses long or short factors by the context's size, which is a multiple of 256.
"""

import dataclasses
import hashlib
import itertools

import pytest

from architectures import N_VOCAB, TINY_MODELS
from pipeinfer_cli.engine.config import ONE_THREAD, EngineConfig
from pipeinfer_cli.engine.draft import DraftModel
from pipeinfer_cli.engine.engine import Engine
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.scheduler.runs import DEFAULT_SAMPLE, Run, RunToken
from support import plain_decode

pytestmark = pytest.mark.native

PHI3 = next(tiny for tiny in TINY_MODELS if tiny.name == "phi3")
IDS = [5, 200, 17, 300, 44, 9, 280, 31, 77, 123, 290, 8]
WAIT_S = 30
N_BATCH = 32
# trained length, and contexts around it: below, at, above; a length that is not a multiple of 256
SIZES = [*itertools.product([512], [511, 512, 513]), *itertools.product([300], [256, 257, 300])]
N_SHORT = 512  # the largest context of the trained length 512 that has short factors


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A phi3 for each trained length."""
    capture_log()
    folder = tmp_path_factory.mktemp("phi3")
    return {n: phi3(folder / f"{n}.gguf", n) for n in {n for n, _ in SIZES}}


def phi3(path, n_ctx_orig):
    keys = {"rope.scaling.original_context_length": n_ctx_orig, "context_length": 4096}
    return dataclasses.replace(PHI3, keys={**PHI3.keys, **keys}).write(path)


def plain(path, n_ctx, n_predict=1):
    request = {"model": str(path), "prompts": [IDS], "n_predict": n_predict, "n_ctx": n_ctx}
    return plain_decode(request)[0]


@pytest.mark.parametrize("n_spare", [0, 32, 600, 4096])
@pytest.mark.parametrize(("n_ctx_orig", "n_ctx"), SIZES)
def test_a_target_computes_as_in_a_context_of_the_texts_size(models, n_ctx_orig, n_ctx, n_spare):
    path = models[n_ctx_orig]
    config = EngineConfig(
        model_path=path,
        layer_first=0,
        layer_last=PHI3.n_layer,
        n_ctx=n_ctx,
        n_cells=n_ctx + n_spare,
        n_batch=N_BATCH,
        n_threads=1,
    )
    logits = []
    with Engine(config) as engine:
        for position, token in enumerate(IDS):
            tokens = (RunToken(id=token, position=position, want=True),)
            engine.submit(Run(run_id=position + 1, tokens=tokens))
            assert engine.wait(WAIT_S) is not None
            logits.append(hashlib.sha256(engine.last_logits(N_VOCAB).tobytes()).hexdigest())
    assert logits == plain(path, n_ctx)["logits"]


@pytest.mark.parametrize("n_ctx", [N_SHORT - 1, N_SHORT, N_SHORT + 1])
def test_a_draft_model_computes_as_in_a_context_of_the_texts_size(models, n_ctx):
    path = models[512]
    expected = plain(path, n_ctx, n_predict=8)["tokens"]
    model = DraftModel(
        path, n_ctx=n_ctx, n_cells=n_ctx + N_BATCH, n_batch=N_BATCH, cores=ONE_THREAD
    )
    text = list(IDS)
    n_fed = 0
    for _ in expected:
        tokens = tuple(
            RunToken(id=text[p], position=p, want=p == len(text) - 1)
            for p in range(n_fed, len(text))
        )
        ((best, *_),) = model.expand(Run(run_id=1, tokens=tokens), N_VOCAB, DEFAULT_SAMPLE)
        n_fed = len(text)
        text.append(best[0])
    model.close()
    assert text[len(IDS) :] == expected


def test_the_factors_make_another_text(models):
    """Else the tests above would show nothing."""
    path = models[512]
    short, long = (plain(path, n_ctx, n_predict=8) for n_ctx in (N_SHORT, N_SHORT + 1))
    assert short["logits"][0] == long["logits"][0], "at position 0 nothing is rotated"
    assert short["logits"][1] != long["logits"][1]
    assert short["tokens"] != long["tokens"]
