"""The installed command with hybrids: texts are those of plain decoding."""

import json

import pytest

from architectures.hybrids import HYBRIDS
from batches import write_items
from pipeinfer_cli.engine.vocab import Vocab
from support import check_output, pipeinfer, plain_decode, run

pytestmark = pytest.mark.e2e

TINY = {tiny.name: tiny for tiny in HYBRIDS}
N_PREDICT, N_CTX = 32, 256
# with a common beginning, and words that come again, as n-grams need them
PROMPTS = ["one two three one two three one two", "one two three four", "one two three one", "x"]
STRATEGIES = ("iterative", "speculative", "pipeinfer", "auto")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hybrids")
    return {name: TINY[name].write(folder / f"{name}.gguf") for name in ("qwen35", "kimi-linear")}


def expected(model):
    prompts = [Vocab(model).tokenize(prompt) for prompt in PROMPTS]
    request = {"model": str(model), "prompts": prompts, "n_predict": N_PREDICT, "n_ctx": N_CTX}
    return [answer["tokens"] for answer in plain_decode(request)]


def generate(model, *more):
    options = ["-n", str(N_PREDICT), "-c", str(N_CTX), "-t", "1", "--ignore-eos"]
    return pipeinfer("generate", "-m", str(model), *options, *more)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_request(models, strategy, ranks):
    drafter = [] if strategy == "iterative" else ["--drafter", "ngram"]
    more = ["--ranks", str(ranks), "--strategy", strategy, *drafter, "--format", "json"]
    answer = check_output([*generate(models["qwen35"], *more), PROMPTS[0]])
    assert json.loads(answer)["tokens"] == expected(models["qwen35"])[0]


@pytest.mark.parametrize("strategy", ["iterative", "pipeinfer"])
def test_several_requests_at_a_time(models, strategy, tmp_path):
    prompts = write_items(tmp_path / "in.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    drafter = [] if strategy == "iterative" else ["--drafter", "ngram"]
    more = ["--prompts", str(prompts), "--parallel", "3", "--ranks", "2", "--strategy", strategy]
    lines = check_output(generate(models["qwen35"], *more, *drafter)).splitlines()
    assert [json.loads(line)["tokens"] for line in lines] == expected(models["qwen35"])


def test_what_cannot_be_taken_back_inside_a_run_is_not_drafted(models):
    more = ["--ranks", "2", "--strategy", "pipeinfer", "--drafter", "ngram", "--format", "json"]
    done = run([*generate(models["kimi-linear"], *more), PROMPTS[0]])
    assert done.returncode == 0, done.stderr
    assert "note: nothing is drafted" in done.stderr
    assert json.loads(done.stdout)["tokens"] == expected(models["kimi-linear"])[0]


def test_a_hybrid_cannot_draft(models):
    done = run([*generate(models["qwen35"], "-md", str(models["qwen35"])), PROMPTS[0]])
    assert done.returncode == 2
    assert "cannot draft" in done.stderr and done.stderr.count("\n") == 1


def test_a_plan_says_what_states_take(models):
    done = run(generate(models["qwen35"], "--plan", "--ranks", "2"))
    assert done.returncode == 0, done.stderr
    assert "note: states of recurrent layers: " in done.stderr
