"""Texts that llama.cpp's regular expressions recurse on: no text of a user's ends the process."""

import json
import subprocess

import pytest

import raw_gguf
from support import pipeinfer

pytestmark = pytest.mark.e2e

LONG = "a" * 100_000  # more than a stack of 8 MB holds; in tokens, more than the context
TOO_LONG = "b" * 300_000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    gguf = raw_gguf.model(raw_gguf.bpe_vocab("gpt-4o"))
    return str(gguf.write(tmp_path_factory.mktemp("model") / "gpt-4o.gguf"))


def run(*args, ranks=1):
    command = ["generate", *args, "--ranks", str(ranks), "-n", "3", "-t", "1"]
    return subprocess.run(pipeinfer(*command), capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def greedy_to_end(tmp_path_factory):
    """A GGUF that asks for everything at the end of a text, and does not name its pre-tokenizer."""
    flags = {f"tokenizer__ggml__add_{name}_token": (raw_gguf.BOOL, True) for name in ("eos", "sep")}
    gguf = raw_gguf.model(raw_gguf.bpe_vocab(None)).having(**flags)
    return str(gguf.write(tmp_path_factory.mktemp("model") / "ends.gguf"))


def test_nothing_is_added_to_a_prompt_and_warnings_are_notes_once_per_job(greedy_to_end, tmp_path):
    done = run("-m", greedy_to_end, "--format", "json", "hello", ranks=2)
    assert json.loads(done.stdout)["n_prompt"] == 1
    (note,) = done.stderr.splitlines()
    assert note.startswith("pipeinfer: note: ")
    assert "(tokenizer.ggml.pre)" in note
    items = tmp_path / "items.jsonl"
    items.write_text('{"prompt": "hello"}\n')
    done = run("-m", greedy_to_end, "--prompts", str(items))
    assert json.loads(done.stdout)["n_prompt"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [(LONG, r"the prompt has 25000 tokens, the context 4096"), (TOO_LONG, "at most 250000")],
)
def test_a_prompt_of_one_long_word_is_refused(text, said, model, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(text)
    done = run("-m", model, "-f", str(prompt))
    assert done.returncode == 2
    assert done.stderr.startswith("pipeinfer: error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("ranks", "parallel"), [(1, 1), (2, 3)])
def test_in_a_batch_only_that_item_fails(ranks, parallel, model, tmp_path):
    texts = ["hello", LONG, "hell", TOO_LONG, "he"]
    items, output = tmp_path / "items.jsonl", tmp_path / "output.jsonl"
    items.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in texts))
    batch = ["-m", model, "--prompts", str(items), "--output", str(output)]
    for more in ([], ["--resume"]):
        done = run(*batch, "--parallel", str(parallel), *more, ranks=ranks)
        assert done.returncode == 1
        assert "2 of 5 items failed" in done.stderr
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        assert ["error" in line for line in lines] == [False, True, False, True, False]
        assert "25000 tokens" in lines[1]["error"]
        assert "300000 characters of one kind" in lines[3]["error"]
