"""`-ctk` and `-ctv` of the installed command: the text, what JSON says, and what is refused."""

import json
from dataclasses import replace

import pytest

from architectures import TINY_MODELS
from pipeinfer_cli.engine.config import CacheTypes
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.engine.vocab import Vocab
from support import PROMPTS, pipeinfer, plain_decode, run, run_json, smollm2, smollm2_request

pytestmark = pytest.mark.e2e

TYPES = CacheTypes("q4_0", "q5_1")
OPTIONS = ("-ctk", TYPES.k, "--cache-type-v", TYPES.v)
N_PREDICT, N_CTX = 40, 256
COMMON = ("-m", "smollm2", "-c", str(N_CTX), "-t", "1", "--ranks", "2", *OPTIONS)


def text_that_differs():
    """A prompt, and its tokens by the unpatched library, which are others than with F16."""
    capture_log()
    vocab = Vocab(smollm2())
    request = smollm2_request([vocab.tokenize(text) for text in PROMPTS[:6]], N_PREDICT, N_CTX)
    f16 = plain_decode(request)
    plain = plain_decode({**request, "cache_types": TYPES.ids})
    return next(
        (text, here["tokens"])
        for text, here, there in zip(PROMPTS, plain, f16, strict=False)
        if here["tokens"] != there["tokens"]
    )


def test_the_text_is_that_of_the_unpatched_library(tmp_path):
    text, tokens = text_that_differs()
    args = ("-n", str(N_PREDICT), "--ignore-eos")
    answer, _ = run_json(pipeinfer("generate", *COMMON, *args, "--format", "json", text))
    assert answer["tokens"] == tokens
    assert answer["exact"] is True

    drafting = ("-md", "smollm2", "-ctkd", "q8_0", "--cache-type-v-draft", "q4_0")
    more = ("--strategy", "speculative", *drafting, "--format", "json")
    assert run_json(pipeinfer("generate", *COMMON, *args, *more, text))[0]["tokens"] == tokens

    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": text}) + "\n")
    done = run(pipeinfer("generate", *COMMON, *args, "--prompts", str(tmp_path / "in.jsonl")))
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert (line["tokens"], line["exact"]) == (answer["tokens"], True)
    assert (line["request"]["cache_type_k"], line["request"]["cache_type_v"]) == ("q4_0", "q5_1")


def test_a_plan_counts_the_cells():
    sizes = []
    for options in ((), OPTIONS):
        plan, _ = run_json(
            pipeinfer(
                *("generate", "-m", "smollm2", "--ranks", "2", "-c", "4096", *options),
                *("--plan", "--format", "json", "x"),
            )
        )
        sizes.append([rank["kv_bytes"] for rank in plan["ranks"]])
    for f16, quantized in zip(*sizes, strict=True):
        assert quantized * 64 * 2 == f16 * (18 + 24)  # bytes of 32 keys and 32 values


def test_heads_that_no_block_fits_are_refused_before_loading(tmp_path):
    tiny = next(tiny for tiny in TINY_MODELS if tiny.name == "qwen2")
    heads = {"attention.head_count": 8, "attention.head_count_kv": 4}  # of 16
    path = replace(tiny, keys={**tiny.keys, **heads}).write(tmp_path / "m.gguf")
    done = run(pipeinfer("generate", "-m", str(path), "--ranks", "2", "-ctk", "q8_0", "x"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "pipeinfer: error: -ctk/--cache-type-k q8_0: its blocks have 32 elements, and this model's "
        "heads 16, which is not a multiple: give f16, bf16 or f32\n"
    )
    done = run(pipeinfer("models", "show", str(path), "-ctv", "q4_0"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "-ctv/--cache-type-v q4_0: its blocks have 32 elements" in done.stderr
