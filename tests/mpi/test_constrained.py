"""Texts under a JSON schema: the unpatched llama.cpp's under the same masks, however drafted."""

import json
from dataclasses import asdict

import jsonschema
import pytest

from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.runtime.grammar.compiler import in_llguidance
from pipeinfer_cli.runtime.grammar.source import GrammarSource
from pipeinfer_cli.scheduler.kv_sequences import spare_cells
from pipeinfer_cli.scheduler.policy import DEFAULT_DRAFT, Policy
from pipeinfer_cli.scheduler.runs import SampleParams
from small_models import convert
from support import IS_WHOLE, plain_decode, run_ranks, smollm2

pytestmark = pytest.mark.mpi

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colours": {
            "type": "array",
            "items": {"enum": ["red", "green", "blue"]},
            "minItems": 1,
            "maxItems": 3,
        },
        "married": {"type": "boolean"},
    },
    "required": ["name", "age", "colours", "married"],
    "additionalProperties": False,
}
TEXTS = [
    "<|im_start|>user\nDescribe a person as JSON.<|im_end|>\n<|im_start|>assistant\n",
    'Two people: {"name": "Ann", "age": 41, "colours": ["red", "blue"], "married": true} and ',
]
N_PREDICT, N_CTX = 60, 192
CASES = [
    {"strategy": "iterative"},
    {"strategy": "speculative", "drafter": "model"},
    {"strategy": "pipeinfer", "drafter": "model"},
    {"strategy": "pipeinfer", "drafter": "both", "width": 3},
    {"strategy": "auto", "drafter": "ngram"},
    {"strategy": "pipeinfer", "drafter": "random"},
    {"strategy": "speculative", "drafter": "wrong", "width": 1},
]


# All of it with `make test-matrix`; otherwise the cases are divided among the jobs.
JOBS = [([1], 1), ([0, 1, 1], None)] + [([1, 1], 2)] * IS_WHOLE


@pytest.mark.parametrize(("layer_split", "seed"), JOBS, ids=str)
def test_the_text_is_that_of_plain_decoding_under_the_grammar(layer_split, seed, tmp_path):
    vocab = Vocab(smollm2())
    chosen = CASES if IS_WHOLE else CASES[len(layer_split) // 2 :: 2]
    prompts = [vocab.tokenize(text) for text in (TEXTS if IS_WHOLE else TEXTS[1:])]
    sample = {} if seed is None else {"sample": asdict(SampleParams(temperature=0.9, seed=seed))}
    request = {"model": str(smollm2()), "prompts": prompts, "n_predict": N_PREDICT, **sample}
    grammar = in_llguidance(GrammarSource.of_schema(SCHEMA))
    plain = plain_decode({**request, "n_ctx": N_CTX, "grammar": grammar})
    truths = [each["tokens"] for each in plain]
    draft_model = convert(smollm2(), tmp_path, "Q4_0")
    cases = [{**case, "truths": truths, "draft_model": str(draft_model)} for case in chosen]
    depth = Policy.depth_of(len(layer_split))
    job = {
        **request,
        "n_ctx": N_CTX,
        "n_cells": N_CTX + spare_cells(DEFAULT_DRAFT, depth),
        "layer_split": layer_split,
        "schema": SCHEMA,
        "cases": cases,
    }
    for case, found in zip(chosen, run_ranks(len(layer_split), "tokens.py", job), strict=True):
        assert found["tokens"] == truths, case
        if case.get("drafter") == "model":
            assert found["n_accepted"] > 0
    for tokens in truths:
        end = next(i for i, token in enumerate(tokens) if vocab.ends_generation(token))
        jsonschema.validate(json.loads(b"".join(map(vocab.piece, tokens[:end]))), SCHEMA)
