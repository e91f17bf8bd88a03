"""Stages on a Vulkan device: on one without hardware, Mesa's lavapipe. `make test-vulkan`."""

import json
import os
from itertools import takewhile

import pytest

from pipeinfer_cli.engine.cpu.devices import DEFAULT_EXACT_SHAPE, LEAST_EXACT_SHAPE
from pipeinfer_cli.engine.llama_cpp import capture_log
from pipeinfer_cli.engine.vocab import Vocab
from shapes import check_texts, check_trees, texts
from small_models import (
    N_LAYER,
    N_VOCAB,
    TINY,
    convert,
    random_llama,
    random_windowed,
    talking_llama,
)
from support import PROMPTS, pipeinfer, run, run_json, run_ranks, smollm2

pytestmark = [
    pytest.mark.skipif(not os.environ.get("TEST_VULKAN"), reason="make test-vulkan"),
    pytest.mark.timeout(1200),
]

DEVICE = "Vulkan0"
SHAPE = 8
TREES = {"n_rounds": 10, "seed": 4}  # with cancels, compactions, and tokens of several branches
TIMEOUT_S = 1000.0
STRATEGIES = ("speculative", "pipeinfer")
DRAFTERS = ("ngram", "random", "wrong", "model")


@pytest.fixture(autouse=True)
def _a_device(monkeypatch):
    """A device without hardware is used only if it is named."""
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", os.environ.get("GGML_VK_VISIBLE_DEVICES", "0"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    capture_log()
    return tmp_path_factory.mktemp("vulkan")


@pytest.fixture(scope="module")
def source(folder):
    return random_llama(folder / "random.gguf", TINY)


@pytest.fixture(scope="module")
def talking(folder):
    return talking_llama(folder / "talking.gguf", TINY)


def on_devices(*names, shape=SHAPE):
    return {"devices": list(names), "exact_shape": shape, "timeout_s": TIMEOUT_S}


def command(model, *args, n_predict=12):
    return pipeinfer("generate", "-m", str(model), "-n", str(n_predict), "-c", "512", *args)


def test_the_device_is_there():
    done = run(pipeinfer("generate", "--list-devices"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{DEVICE}: ")
    found = run(pipeinfer("doctor"))
    (line,) = [each for each in found.stdout.splitlines() if " devices" in each]
    assert DEVICE in line


# logits, bit for bit: one token at a time on one stage against random trees in runs of any size,
# with branches, promotions, cancels and compaction


@pytest.mark.parametrize(
    ("file_type", "shape", "n_stages", "more"),
    [
        ("F16", 16, 1, {}),
        ("Q4_K_M", 16, 1, {}),
        ("Q4_0", 16, 2, {}),
        ("Q8_0", 8, 3, {}),
        ("Q4_K_M", 32, 1, {}),
        ("Q4_K_M", LEAST_EXACT_SHAPE, 1, {}),
        ("Q4_0", 16, 1, {"first_position": 200}),
        ("F16", 8, 1, {"first_position": 1000, "n_ctx": 1280}),
        ("Q8_0", 8, 1, {"cache_types": ["q8_0", "q8_0"]}),
    ],
    ids=str,
)
def test_random_trees(file_type, shape, n_stages, more, source, folder):
    model = convert(source, folder, file_type)
    layers = [*([i, i + 1] for i in range(n_stages - 1)), [n_stages - 1, N_LAYER]]
    check_trees(model, layers, **TREES, **on_devices(*[DEVICE] * n_stages, shape=shape), **more)


def test_random_trees_with_sliding_windows(folder):
    model = random_windowed(folder / "windowed.gguf", TINY)
    check_trees(model, [[0, N_LAYER]], **TREES, **on_devices(DEVICE))


# texts


def cases(model, truths):
    """All strategies with all drafters, and trees of given widths beside those of expected gain."""
    more = {"truths": truths, "draft_model": str(model)}
    return [
        *(
            {"strategy": strategy, "drafter": drafter, **more}
            for strategy in STRATEGIES
            for drafter in DRAFTERS
        ),
        *({"strategy": each, "drafter": "random", "width": 4, **more} for each in STRATEGIES),
    ]


def test_texts_of_all_strategies_drafters_and_ranks(talking):
    more = {"n_predict": 8, "n_vocab": N_VOCAB}
    (plain,) = texts(talking, [1], [{}], **more, **on_devices(DEVICE))
    compared = [{}, *cases(talking, plain["tokens"])]
    for weights in ([1], [1, 1], [0, 1, 1], [1, 1, 1]):
        job = {**more, **on_devices(*[DEVICE] * len(weights))}
        chosen = compared if len(weights) < 3 else [{}, *compared[-3:]]
        assert check_texts(talking, weights, chosen, **job) == plain["tokens"], weights


@pytest.mark.parametrize("names", [("", DEVICE), (DEVICE, ""), (DEVICE, "", DEVICE)], ids=str)
def test_texts_of_stages_on_processors_and_devices(names, talking):
    more = {"n_predict": 8, "n_vocab": N_VOCAB, **on_devices(*names)}
    weights = [1] * len(names)
    (plain,) = texts(talking, weights, [{}], **more)
    check_texts(talking, weights, [{}, *cases(talking, plain["tokens"])[4:]], **more)


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_random_cancels(n_ranks, talking):
    (seen,) = texts(talking, [1], [{}], n_predict=40, n_texts=1, **on_devices(DEVICE))
    prompt = Vocab(talking).tokenize(PROMPTS[3])[:40]
    request = {
        "model": str(talking),
        "n_ctx": 256,
        "n_vocab": N_VOCAB,
        "layer_split": [1] * n_ranks,
        "truth": prompt + seen["tokens"][0],
        "n_known": len(prompt),
        "seed": n_ranks,
        "n_rounds": 30,
        "devices": [DEVICE] * n_ranks,
        "exact_shape": SHAPE,
    }
    found = run_ranks(n_ranks, "cancels.py", request, timeout_s=TIMEOUT_S)
    assert found["cells"] == [0] * n_ranks
    assert found["checked_rows"] > 40
    assert found["cancelled"] > 5


# commands


def test_a_command_says_what_it_uses_and_verifies(talking):
    args = ("--ranks", "2", "--drafter", "ngram", "--verify", "--format", "json")
    answer, said = run_json(command(talking, *args, "One day, one day"), timeout_s=TIMEOUT_S)
    assert f"rank 0-1: all layers on {DEVICE}" in said
    assert f"{DEFAULT_EXACT_SHAPE} tokens are computed at a time (--exact-shape)" in said
    assert (answer["exact"], answer["exact_shape"]) == (True, DEFAULT_EXACT_SHAPE)
    assert "verified: 12 tokens" in said


def test_a_draft_model_on_the_device(talking):
    args = ("-md", str(talking), "--draft-device", DEVICE, "--verify", "--format", "json")
    answer, said = run_json(command(talking, *args, "One day"), timeout_s=TIMEOUT_S)
    assert answer["exact"] is True
    assert "verified: 12 tokens" in said


def test_a_mixture_is_said(talking):
    args = ("-ngl", "0,99", "--format", "json")
    answer, said = run_json(command(talking, *args, "One day"), timeout_s=TIMEOUT_S)
    assert answer["exact"] is False
    assert "ranks compute with different devices (rank 0 with its processor, rank 1 with" in said


def test_without_devices_texts_are_those_of_the_processor(talking):
    args = ("--device", "none", "--format", "json")
    answer, said = run_json(command(talking, *args, "One day"), timeout_s=TIMEOUT_S)
    assert (answer["exact"], said) == (True, "")
    assert "exact_shape" not in answer


def test_a_plan_shows_devices(talking):
    plan, _ = run_json(
        command(talking, "--device", f"none,{DEVICE}", "--plan", "--format", "json", "x")
    )
    assert [rank["devices"] for rank in plan["ranks"]] == [[], [DEVICE]]


def test_a_device_that_is_not_there(talking):
    done = run(command(talking, "--device", "CUDA3", "x"))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "--device CUDA3: rank 0 on " in line
    assert f"has {DEVICE}" in line


def loaded_line(said, rank):
    return next(line for line in said.splitlines() if f"rank {rank} on " in line and "MB" in line)


def test_memory_on_the_device_is_the_stages_share():
    def tensors(*args, ranks):
        done = run(command(smollm2(), *args, "-v", "One day", n_predict=1), timeout_s=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        lines = [loaded_line(done.stderr, rank) for rank in range(ranks)]
        parts = [line.split("on devices ")[1] for line in lines]
        return [
            [float(part.split(" MB of " + kind)[0].split()[-1]) for kind in ("tensors", "KV cache")]
            for part in parts
        ]

    ((whole, cells),) = tensors("--ranks", "1", ranks=1)
    halves = tensors("--ranks", "2", "--layer-split", "1,1", ranks=2)
    assert sum(weights for weights, _ in halves) == pytest.approx(whole, rel=0.02)
    assert [part for _, part in halves] == pytest.approx([cells / 2] * 2, rel=0.02)
    assert max(weights for weights, _ in halves) < 0.75 * whole


def test_a_batch_gives_the_texts_that_come_one_by_one(talking, tmp_path):
    items = [{"prompt": text[:60], "n_predict": 8} for text in PROMPTS[:4]]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(map(json.dumps, items)))
    seen = []
    for parallel in ("1", "4"):
        done = run(
            command(
                *(talking, "--prompts", str(source), "--output", str(target)),
                *("--parallel", parallel, "--ranks", "2", "--drafter", "ngram"),
            ),
            timeout_s=TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr
        lines = map(json.loads, target.read_text().splitlines())
        seen.append({line["id"]: line["tokens"] for line in lines})
        target.unlink()
    assert len(seen[0]) == len(items)
    assert seen[0] == seen[1]


def test_a_chat(talking):
    done = run(
        pipeinfer(
            *("chat", "-m", str(smollm2()), "-n", "3", "-c", "256", "--ranks", "2"),
            *("--drafter", "ngram"),
        ),
        input="Hello.\n/quit\n",
        timeout_s=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    assert DEVICE in done.stderr


def test_ids_equal_to_the_processors_are_counted(talking, capsys):
    more = {"n_predict": 24, "n_texts": 6}
    (device,) = texts(talking, [1], [{}], **more, **on_devices(DEVICE))
    (processor,) = texts(talking, [1], [{}], **more)
    pairs = list(zip(device["tokens"], processor["tokens"], strict=True))
    n_same = sum(
        len(list(takewhile(lambda ids: ids[0] == ids[1], zip(*pair, strict=False))))
        for pair in pairs
    )
    n_ids = sum(len(text) for text, _ in pairs)
    with capsys.disabled():
        print(f" [the processor's: {sum(a == b for a, b in pairs)} of {len(pairs)} texts,", end="")
        print(f" {n_same} of {n_ids} ids before they part]", end=" ")
