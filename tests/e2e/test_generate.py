"""`pipeinfer generate` with a real model: one program, three ways to start, the same text."""

import json
from functools import cache

import pytest

from pipeinfer_cli.engine.vocab import Vocab
from support import (
    PROMPTS,
    check_output,
    mpiexec,
    pipeinfer,
    plain_decode,
    run,
    smollm2,
    smollm2_args,
    smollm2_request,
    tiny_model,
)

pytestmark = pytest.mark.e2e

PROMPT = PROMPTS[1]
N_PREDICT = 24


@cache
def plain():
    """Token ids and text of the oracle."""
    vocab = Vocab(smollm2())
    tokens = plain_decode(smollm2_request([vocab.tokenize(PROMPT)], N_PREDICT, 256))[0]["tokens"]
    return tokens, b"".join(vocab.piece(token) for token in tokens).decode()


@pytest.mark.parametrize("ranks", ["1", "2", "3"])
def test_alone_it_starts_its_own_ranks(ranks):
    assert check_output(pipeinfer(*smollm2_args("--ranks", ranks, PROMPT))) == plain()[1] + "\n"


@pytest.mark.parametrize("ranks", [1, 2])
def test_under_a_launcher_it_joins(ranks):
    assert check_output(mpiexec(ranks, *smollm2_args(PROMPT))) == plain()[1] + "\n"


def test_layer_split_and_json():
    out = check_output(
        pipeinfer(
            *smollm2_args("--ranks", "3", "--layer-split", "0,1,9", "--format", "json", PROMPT)
        )
    )
    shown = json.loads(out)
    tokens, text = plain()
    assert shown["tokens"] == tokens
    assert shown["text"] == text
    assert shown["finish_reason"] == "length"
    assert shown["n_prompt"] == len(Vocab(smollm2()).tokenize(PROMPT))
    assert shown["stats"]["n_ranks"] == 3
    assert shown["stats"]["n_stages"] == 2
    assert shown["stats"]["n_generated"] == N_PREDICT


def sampled(ranks, seed):
    options = ["--ranks", ranks, "--temp", "0.8", "--seed", seed, "--format", "json"]
    shown = json.loads(check_output(pipeinfer(*smollm2_args(*options, PROMPT))))
    assert shown["seed"] == int(seed)
    return shown["tokens"]


def test_the_seed_decides_the_text_whatever_the_number_of_ranks():
    tokens = sampled("1", "5")
    assert tokens == sampled("2", "5") == sampled("3", "5")
    others = [plain()[0], sampled("1", "6"), sampled("1", "0")]
    assert all(tokens != other for other in others)


@pytest.mark.parametrize("way", ["stdin", "-", "file"])
@pytest.mark.parametrize("ranks", ["1", "2"])
def test_prompt_from_stdin_or_file(way, ranks, tmp_path):
    (tmp_path / "prompt.txt").write_text(PROMPT + "\n", encoding="utf-8")
    more = {"stdin": [], "-": ["-"], "file": ["-f", str(tmp_path / "prompt.txt")]}[way]
    with (tmp_path / "prompt.txt").open() as prompt:
        done = run(
            pipeinfer(*smollm2_args("--ranks", ranks, *more)),
            stdin=None if way == "file" else prompt,
        )
    assert (done.returncode, done.stdout) == (0, plain()[1] + "\n"), done.stderr


def test_stats_are_one_line_on_stderr():
    done = run(pipeinfer(*smollm2_args("--ranks", "2", "--stats", PROMPT)))
    assert done.stdout == plain()[1] + "\n"
    (line,) = done.stderr.splitlines()
    assert f", 2 ranks, {N_PREDICT} tokens, " in line
    assert all(word in line for word in ("tok/s", "TTFT", "ITL p50", "p99"))


def test_generation_stops_at_an_end_of_generation_token():
    chat = "<|im_start|>user\nWhat is the capital of Italy?<|im_end|>\n<|im_start|>assistant\n"
    args = ["generate", "-m", "smollm2", "-n", "64", "-c", "256", "-t", "1", "--format", "json"]
    stopped = json.loads(check_output(pipeinfer(*args, "--ranks", "1", chat)))
    ignored = json.loads(check_output(pipeinfer(*args, "--ranks", "2", "--ignore-eos", chat)))
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == "The capital of Italy is Rome."
    assert ignored["finish_reason"] == "length"
    assert len(ignored["tokens"]) == 64
    assert ignored["tokens"][: len(stopped["tokens"])] == stopped["tokens"]


def test_a_prompt_of_many_runs_fills_the_context_to_its_end():
    """Prefill in several runs in flight; the text ends where the context does."""
    vocab = Vocab(smollm2())
    prompt = " ".join(PROMPTS[9:10] * 4)
    n_prompt = len(vocab.tokenize(prompt))
    room = 256 - n_prompt + 1
    assert n_prompt > 5 * 32 and room < 100
    expected = plain_decode(smollm2_request([vocab.tokenize(prompt)], room, 512))[0]["tokens"]
    args = ["generate", "-m", "smollm2", "-n", "200", "-c", "256", "-t", "1", "--ignore-eos"]
    done = run(pipeinfer(*args, "--ranks", "3", "--format", "json", prompt))
    assert json.loads(done.stdout)["tokens"] == expected, done.stderr
    assert f"ends the text after {room} tokens" in done.stderr


def test_memory_grows_by_the_stages_share():
    """Each rank's resident set grows by its tensors, and what a context of 256 needs beside."""
    done = run(pipeinfer(*smollm2_args("--ranks", "3", "-v", PROMPT)))
    lines = [line for line in done.stderr.splitlines() if "resident set grown" in line]
    assert len(lines) == 3
    for line in lines:
        words = line.split()
        tensors_mb = float(words[words.index("MB") - 1])
        grown_mb = float(words[-2])
        assert tensors_mb <= grown_mb < tensors_mb + 35, line
        assert grown_mb < 98 - 20, f"{line}: hardly less than the whole file"


@pytest.mark.parametrize("strategy", ["iterative", "speculative", "pipeinfer", "auto"])
def test_strategies_write_the_same_text_and_verify_says_so(strategy):
    done = run(pipeinfer(*smollm2_args("--ranks", "2", "--strategy", strategy, "--verify", PROMPT)))
    assert (done.returncode, done.stdout) == (0, plain()[1] + "\n"), done.stderr
    *notes, last = done.stderr.splitlines()
    assert last == f"pipeinfer: verified: {N_PREDICT} tokens as without speculation"
    anyway = "no effect of --verify: the text is decoded without speculation anyway"
    assert notes == ([f"pipeinfer: note: {anyway}"] if strategy == "iterative" else [])


@pytest.mark.parametrize("temperature", ["0", "0.8"])
@pytest.mark.parametrize("ranks", ["1", "2", "3"])
@pytest.mark.parametrize("strategy", ["speculative", "pipeinfer", "auto"])
def test_trees_of_a_draft_model_do_not_change_the_text(strategy, ranks, temperature):
    """As it comes, without options about drafts: what to draft and to feed is chosen."""
    options = ("--ranks", ranks, "--strategy", strategy, "-md", "smollm2", "--drafter", "both")
    sampling = ("--temp", temperature, *(("-s", "7") if temperature != "0" else ()))
    done = run(pipeinfer(*smollm2_args(*options, *sampling, "--verify", PROMPT)))
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"pipeinfer: verified: {N_PREDICT} tokens as without speculation\n"
    assert (done.stdout == plain()[1] + "\n") is (temperature == "0")


@pytest.mark.parametrize("ranks", ["1", "3"])
def test_the_choice_of_a_drafter_does_not_change_the_text(ranks):
    """Long enough for each of the three to be tried."""
    options = ("--ranks", ranks, "-md", "smollm2", "--verify", "--stats")
    done = run(pipeinfer(*smollm2_args(*options, "1 2 3 4 1 2 3 4 1 2", n_predict=80)))
    assert done.returncode == 0, done.stderr
    assert "verified: 80 tokens as without speculation" in done.stderr
    assert "acceptance" in done.stderr, "nothing was drafted"


def test_a_draft_model_has_the_heads_cores_and_guesses_well():
    out = check_output(
        pipeinfer(
            *smollm2_args("--ranks", "3", "-md", "smollm2", "--strategy", "speculative"),
            *("--draft-max", "4", "-pa", "0", "--format", "json", PROMPT),
        )
    )
    shown = json.loads(out)
    assert shown["tokens"] == plain()[0]
    assert shown["stats"]["n_stages"] == 2
    assert shown["stats"]["n_accepted"] > N_PREDICT / 2
    assert shown["stats"]["acceptance_rate"] == 1.0


def test_a_draft_model_of_another_vocabulary_is_refused(tmp_path):
    model = tiny_model(tmp_path / "other.gguf")
    done = run(pipeinfer(*smollm2_args("--ranks", "1", "-md", str(model), PROMPT)))
    assert done.returncode == 2
    assert "other.gguf" in done.stderr
    assert len(done.stderr.splitlines()) == 1
