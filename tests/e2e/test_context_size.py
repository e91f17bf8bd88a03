"""A long-rope model's text depends on -c alone: not on requests at a time, branches, or drafts."""

import dataclasses
import json
import subprocess

import pytest

from architectures import N_CTX, N_EMBD, N_FF, N_HEAD, TINY_MODELS, TinyModel, norms
from batches import write_items
from pipeinfer_cli.engine.vocab import Vocab
from support import check_output, pipeinfer, plain_decode

pytestmark = pytest.mark.e2e

N_SHORT = 512  # the trained length: at -c 513 llama.cpp takes the long factors
PROMPTS = ["one two three one two three one two", "Once upon a time"]
N_PREDICT = 24
PHI3 = next(tiny for tiny in TINY_MODELS if tiny.name == "phi3")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    keys = {"rope.scaling.original_context_length": N_SHORT, "context_length": 4096}
    tiny = dataclasses.replace(PHI3, keys={**PHI3.keys, **keys})
    return tiny.write(tmp_path_factory.mktemp("phi3") / "tiny.gguf")


@pytest.fixture(scope="module")
def expected(model):
    """What the unpatched llama.cpp decodes: {-c: [ids per prompt]}."""
    prompts = [Vocab(model).tokenize(prompt) for prompt in PROMPTS]
    texts = {}
    for n_ctx in (N_SHORT - 1, N_SHORT, N_SHORT + 1):
        request = {"model": str(model), "prompts": prompts, "n_predict": N_PREDICT, "n_ctx": n_ctx}
        texts[n_ctx] = [answer["tokens"] for answer in plain_decode(request)]
    assert texts[N_SHORT - 1] == texts[N_SHORT] != texts[N_SHORT + 1]
    return texts


DRAFTS = (
    ["--strategy", "iterative"],
    ["--strategy", "pipeinfer", "--drafter", "ngram"],
    ["--strategy", "pipeinfer", "--draft-width", "3", "-md"],
)


def options(model, n_ctx):
    more = ["-n", str(N_PREDICT), "-c", str(n_ctx), "-t", "1", "--ignore-eos"]
    return ["generate", "-m", str(model), *more]


@pytest.mark.parametrize("n_ctx", [N_SHORT - 1, N_SHORT, N_SHORT + 1])
@pytest.mark.parametrize("drafts", DRAFTS, ids=" ".join)
def test_one_request(model, expected, drafts, n_ctx):
    more = [*drafts, str(model)] if drafts[-1] == "-md" else drafts
    command = pipeinfer(*options(model, n_ctx), "--ranks", "1", "--format", "json", *more)
    answer = check_output([*command, PROMPTS[0]])
    assert json.loads(answer)["tokens"] == expected[n_ctx][0]


@pytest.mark.parametrize("n_ctx", [N_SHORT - 1, N_SHORT, N_SHORT + 1])
def test_several_requests_at_a_time(model, expected, n_ctx, tmp_path):
    prompts = write_items(tmp_path / "in.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    more = ["--prompts", str(prompts), "--parallel", "2", "--ranks", "2"]
    lines = check_output(pipeinfer(*options(model, n_ctx), *more)).splitlines()
    assert [json.loads(line)["tokens"] for line in lines] == expected[n_ctx]


def gpt2_layer(_):
    n_qkv = 3 * N_EMBD
    shapes = {
        **norms("attn_norm", "attn_norm.bias", "ffn_norm", "ffn_norm.bias"),
        "attn_qkv": (n_qkv, N_EMBD),
        "attn_output": (N_EMBD, N_EMBD),
        "ffn_up": (N_FF, N_EMBD),
        "ffn_down": (N_EMBD, N_FF),
    }
    biases = {f"{name}.bias": shapes[name][:1] for name in ("attn_qkv", "attn_output")}
    return {**shapes, **biases, "ffn_up.bias": (N_FF,), "ffn_down.bias": (N_EMBD,)}


GPT2 = TinyModel(
    name="gpt2",
    arch="gpt2",
    known_as="GPT-2",
    special="learned positions",
    layer=gpt2_layer,
    keys={"attention.head_count_kv": N_HEAD},
    ends={"position_embd": (N_CTX, N_EMBD), **norms("output_norm.bias")},
)


def test_learned_positions_end_the_context(tmp_path):
    """llama.cpp would look up the next one beyond the table, and end the process."""
    path = GPT2.write(tmp_path / "gpt2.gguf")
    command = ["generate", "-m", str(path), "--ranks", "1", "-t", "1", "-n", "1000", "--ignore-eos"]
    more = ["--strategy", "pipeinfer", "--drafter", "ngram", "--format", "json", PROMPTS[0]]
    answer = check_output(pipeinfer(*command, "-c", str(N_CTX), *more))
    assert json.loads(answer)["exact"] is False, "no test of GPT-2 compares sizes of runs"
    prompt = Vocab(path).tokenize(PROMPTS[0])
    n_predict = N_CTX + 1 - len(prompt)  # the last one takes no position
    request = {"model": str(path), "prompts": [prompt], "n_predict": n_predict, "n_ctx": N_CTX}
    assert json.loads(answer)["tokens"] == plain_decode(request)[0]["tokens"]

    refused = subprocess.run(
        pipeinfer(*command, "-c", str(N_CTX + 1), *more), capture_output=True, text=True, timeout=60
    )
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert f"-c/--ctx-size {N_CTX + 1}" in refused.stderr
    assert f"give -c {N_CTX} or less" in refused.stderr
