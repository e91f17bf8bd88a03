"""Split == whole: token ids and logits equal the unpatched llama.cpp's, bit for bit."""

from dataclasses import asdict
from functools import cache

import pytest

from cache_cases import SPLIT
from pipeinfer_cli.engine.config import CacheTypes
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.scheduler.runs import SampleParams
from support import IS_WHOLE, PROMPTS, plain_decode, run_ranks, smollm2, smollm2_request

pytestmark = pytest.mark.mpi

# The whole of it takes minutes: `make test-matrix`.
N_PREDICT = 96 if IS_WHOLE else 40
N_CTX = 512
N_LAYER = 30
TEXTS = PROMPTS[:12]


@cache
def tokenized():
    vocab = Vocab(smollm2())
    return [vocab.tokenize(text) for text in TEXTS]


def request(prompts, n_predict):
    return smollm2_request(prompts, n_predict, N_CTX)


def decoded(layer_split, **more):
    """Token ids of a pipeline without speculation."""
    job = {"layer_split": layer_split, "cases": [{}], **more}
    return run_ranks(len(layer_split), "tokens.py", job)[0]["tokens"]


@cache
def plain_answers():
    return plain_decode(request(tokenized(), N_PREDICT))


SPLITS = [
    pytest.param([1], id="1 stage"),
    pytest.param([1, 27, 2], id="3 stages, uneven"),
    pytest.param([0, 3, 2], id="2 stages, head without layers"),
    pytest.param([1, 1, 1, 1, 1], id="5 stages"),
]
MORE_SPLITS = [
    pytest.param([0, 1], id="1 stage, head without layers"),
    pytest.param([1, 1], id="2 stages"),
    pytest.param([29, 1], id="2 stages, uneven"),
]


@pytest.mark.parametrize("layer_split", SPLITS + MORE_SPLITS * IS_WHOLE)
def test_tokens_equal_plain_decoding(layer_split):
    answers = decoded(layer_split, **request(tokenized(), N_PREDICT))
    assert len(answers) == len(TEXTS) >= 10
    for text, tokens, plain in zip(TEXTS, answers, plain_answers(), strict=True):
        assert tokens == plain["tokens"], text


@cache
def plain_samples(params):
    return plain_decode({**request(tokenized()[:4], N_PREDICT), "sample": asdict(params)})


@pytest.mark.parametrize("layer_split", [[1], [1, 1, 1]], ids=str)
@pytest.mark.parametrize(
    "params",
    [
        SampleParams(temperature=0.8, seed=1),
        SampleParams(temperature=1.2, top_k=0, top_p=1, min_p=0, seed=2**64 - 1),
    ],
    ids=str,
)
def test_sampled_tokens_equal_plain_decoding(layer_split, params):
    job = request(tokenized()[:4], N_PREDICT)
    answers = decoded(layer_split, **job, sample=asdict(params))
    plain = [each["tokens"] for each in plain_samples(params)]
    assert answers == plain
    assert plain != [each["tokens"] for each in plain_answers()[:4]]


@pytest.mark.parametrize("types", SPLIT, ids="-".join)
def test_tokens_with_other_types_of_keys_and_values(types):
    """Split, with and without speculation, as the unpatched llama.cpp with the same types."""
    job = request(tokenized()[:2], N_PREDICT)
    plain = plain_decode({**job, "cache_types": CacheTypes(*types).ids})
    texts = [each["tokens"] for each in plain]
    cases = [{}, {"strategy": "pipeinfer", "drafter": "random", "truths": texts}]
    more = {"layer_split": [1, 1, 1], "cases": cases, "cache_types": types}
    found = run_ranks(3, "tokens.py", {**job, **more})
    assert [each["tokens"] for each in found] == [texts, texts]
    logits = [each["logits"] for each in plain]
    is_f16 = logits == [each["logits"] for each in plain_decode(job)]
    assert is_f16 == (types == ("f32", "f32")), "llama.cpp casts F32 keys and values to F16"


def test_logits_equal_plain_decoding_at_every_split_point():
    prompt = tokenized()[5]
    plain = plain_decode(request([prompt], 1))[0]["logits"]
    splits = [[first, N_LAYER - first] for first in range(1, N_LAYER, 1 if IS_WHOLE else 4)]
    answers = run_ranks(
        2, "logits.py", {**request([], 0), "tokens": prompt, "layer_splits": splits}
    )
    assert len(answers) == len(splits) >= 8
    for split, hashes in zip(splits, answers, strict=True):
        assert hashes == plain, split
