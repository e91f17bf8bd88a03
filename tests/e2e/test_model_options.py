"""--lora, --rope-* and --yarn-*: the text is the unpatched library's with the same values."""

import json
from pathlib import Path

import pytest

from architectures import TINY_MODELS
from batches import write_items
from lora_files import write_adapter
from pipeinfer_cli.engine.vocab import Vocab
from support import check_output, pipeinfer, plain_decode, run

pytestmark = pytest.mark.e2e

PROMPTS = ["one two three one two three one two", "Once upon a time"]
N_PREDICT, N_CTX = 24, 256
QWEN3 = next(tiny for tiny in TINY_MODELS if tiny.name == "qwen3")
DRAFTS = (
    ["--strategy", "iterative"],
    ["--strategy", "pipeinfer", "--drafter", "ngram"],
    ["--strategy", "pipeinfer", "--draft-width", "3", "-md"],  # the base model
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return QWEN3.write(tmp_path_factory.mktemp("qwen3") / "tiny.gguf")


@pytest.fixture(scope="module")
def adapters(model):
    """Two, in the order of the command line."""
    names = r"blk\.\d\.attn_[qkv]\.weight"
    return [
        [str(write_adapter(model.with_name("a.gguf"), model)), 1.0],
        [str(write_adapter(model.with_name("b.gguf"), model, names=names, seed=1)), -0.5],
    ]


def plain(model, **more):
    """Token ids of each prompt."""
    prompts = [Vocab(model).tokenize(prompt) for prompt in PROMPTS]
    request = {"model": str(model), "prompts": prompts, "n_predict": N_PREDICT, "n_ctx": N_CTX}
    return [answer["tokens"] for answer in plain_decode({**request, **more})]


def command(model, *more):
    options = ["-n", str(N_PREDICT), "-c", str(N_CTX), "-t", "1", "--ignore-eos"]
    return pipeinfer("generate", "-m", str(model), *options, *map(str, more))


def answer(model, *more):
    return json.loads(check_output(command(model, "--format", "json", *more, PROMPTS[0])))


def lora(adapters):
    return [word for path, scale in adapters for word in ("--lora", f"{path}:{scale}")]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("drafts", DRAFTS, ids=" ".join)
def test_adapters(model, adapters, drafts, ranks):
    expected = plain(model, adapters=adapters)
    assert expected != plain(model)
    more = [*drafts, model] if drafts[-1] == "-md" else drafts
    said = answer(model, "--ranks", ranks, *lora(adapters), *more)
    assert said["tokens"] == expected[0]
    assert [each["scale"] for each in said["lora"]] == [1.0, -0.5]
    assert len({each["digest"] for each in said["lora"]}) == 2


def test_shards_take_an_adapter_too(model, adapters, tmp_path):
    check_output(pipeinfer("shard", str(model), "--stages", "3", "-o", str(tmp_path)))
    said = answer(tmp_path, *lora(adapters))
    assert said["tokens"] == plain(model, adapters=adapters)[0]


def test_a_batch_knows_its_adapter(model, adapters, tmp_path):
    prompts = write_items(tmp_path / "in.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    out = tmp_path / "out.jsonl"
    more = ["--ranks", "2", "--parallel", "2", "--prompts", prompts, "--output", out]
    check_output(command(model, *more, *lora(adapters)))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["tokens"] for line in lines] == plain(model, adapters=adapters)
    check_output(command(model, *more, "--resume", *lora(adapters)))
    for other in ([], lora(adapters[:1]), lora([[adapters[0][0], 0.5], adapters[1]])):
        refused = run(command(model, *more, "--resume", *other))
        assert refused.returncode == 2
        assert "lora" in refused.stderr


def test_an_adapter_of_another_model_is_refused_before_ranks_load(model, tmp_path):
    other = write_adapter(tmp_path / "other.gguf", model, arch="llama")
    refused = run(command(model, "--ranks", "2", "--lora", other, "x"))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "is for models of architecture 'llama', and this one is 'qwen3'" in refused.stderr


def test_positions_are_rotated_as_asked(model):
    rope = {"rope_scaling_type": 2, "rope_freq_scale": 1 / 3, "yarn_orig_ctx": 16}
    rope |= {"rope_freq_base": 5e5}
    expected = plain(model, rope=rope)
    assert expected != plain(model)
    options = ["--rope-scaling", "yarn", "--rope-scale", 3, "--yarn-orig-ctx", 16]
    options += ["--rope-freq-base", 5e5]
    for drafts in DRAFTS:
        more = [*drafts, model] if drafts[-1] == "-md" else drafts
        said = answer(model, "--ranks", 2, *options, *more)
        assert said["tokens"] == expected[0]
        assert said["rope"] == {
            "scaling": "yarn",
            "scale": 3.0,
            "freq_base": 5e5,
            "yarn_orig_ctx": 16,
        }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rope-scaling", "longrope"], "--rope-scaling 'longrope'"),
        (["--rope-scale", "nan"], "--rope-scale nan"),
        (["--rope-freq-base", "x"], "'x' is not a number"),
        (["--yarn-orig-ctx", "1.5"], "'1.5' is not a whole number"),
        (["--yarn-ext-factor", "-2"], "--yarn-ext-factor -2"),
        (["--lora", "/no/such.gguf"], "No such file"),
        (["--lora", "x.gguf:big"], "'big' is not a scale"),
        (["--lora-scaled", "x.gguf:inf"], "give a scale from"),
    ],
)
def test_bad_values_are_one_line(model, options, said):
    refused = run(command(model, *options, "x"), cwd=Path(__file__).parent)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert said in refused.stderr
