"""Models that cannot be split are refused on several ranks, and decoded exactly on one."""

import json

import pytest

from architectures import WHOLE_MODELS
from pipeinfer_cli.engine.vocab import Vocab
from support import check_output, pipeinfer, plain_decode, run

pytestmark = pytest.mark.e2e

PROMPT = "one two three one two three one two"
N_PREDICT = 24
N_CTX = 256


@pytest.mark.parametrize("tiny", WHOLE_MODELS, ids=lambda tiny: tiny.name)
def test_on_one_rank_the_text_is_exact_and_two_are_refused(tiny, tmp_path):
    path = tiny.write(tmp_path / "tiny.gguf")
    job = ["generate", "-m", str(path), "-n", str(N_PREDICT), "-c", str(N_CTX), "-t", "1"]
    more = ["--strategy", "pipeinfer", "--drafter", "ngram", "--format", "json", PROMPT]
    refused = run(pipeinfer(*job, "--ranks", "2", *more))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1), refused
    assert f"{tiny.arch!r} cannot be split by layers: " in refused.stderr
    assert refused.stderr.endswith(": use --ranks 1, or another model\n")

    answer = check_output(pipeinfer(*job, "--ranks", "1", "--ignore-eos", *more))
    prompt = Vocab(path).tokenize(PROMPT)
    request = {"model": str(path), "prompts": [prompt], "n_predict": N_PREDICT, "n_ctx": N_CTX}
    assert json.loads(answer)["tokens"] == plain_decode(request)[0]["tokens"]
