"""A batch that is killed at random and resumed writes what an undisturbed one does: the same bytes.

`make test-resume` kills it 20 times in 200 prompts, with a tiny random model and with SmolLM2.
"""

import contextlib
import os
import random
import signal
import subprocess

import pytest

from batches import SIGNALS, Leg, await_gone, count_lines, items, write_items
from small_models import talking_llama

pytestmark = pytest.mark.e2e

IS_LONG = bool(os.environ.get("TEST_RESUME"))
N_ITEMS, N_KILLS = (200, 20) if IS_LONG else (60, 6)
WAYS = (
    ("parent", signal.SIGKILL),
    ("rank 0", signal.SIGKILL),
    ("rank 1", signal.SIGKILL),
    *(("parent", signum) for signum in SIGNALS),
)


def tiny(tmp_path):
    return talking_llama(tmp_path / "tiny.gguf")


MODELS = {"tiny": (tiny, 64), **({"smollm2": (lambda _: "smollm2", 4)} if IS_LONG else {})}


def ways(draw):
    """All of them before one comes again, in a random order."""
    while True:
        yield from draw.sample(WAYS, len(WAYS))


def begin_again_if_done(output):
    """A kill that came too late shows nothing: the next one has the whole batch before it."""
    if count_lines(output) == N_ITEMS:
        output.unlink()


def strike(leg, whom, signum, draw, n_before, n_more):
    """Kills it while it loads, or after some lines more."""
    if draw.random() < 0.2:
        with contextlib.suppress(subprocess.TimeoutExpired):
            leg.process.wait(draw.uniform(0.05, 1.5))
    else:
        leg.await_lines(n_before + draw.randint(1, max(1, n_more)))
    leg.kill(whom, signum)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", MODELS)
def test_killed_and_resumed_equals_undisturbed(name, tmp_path):
    make, n_predict = MODELS[name]
    model, draw = make(tmp_path), random.Random(f"resume {name}")
    prompts = write_items(tmp_path / "in.jsonl", items(N_ITEMS, n_predict))
    undisturbed, output = tmp_path / "undisturbed.jsonl", tmp_path / "out.jsonl"
    done = Leg(model, prompts, undisturbed, tmp_path).end()
    assert done[0] == 1, done  # some items are bad
    assert done[1].splitlines()[-1].startswith("pipeinfer: error: "), done
    expected = undisturbed.read_bytes()
    assert expected.count(b"\n") == N_ITEMS

    codes = []
    for index, (whom, signum) in zip(range(N_KILLS), ways(draw), strict=False):
        begin_again_if_done(output)
        leg = Leg(model, prompts, output, tmp_path, "--parallel", draw.choice(("1", "3")))
        n_before = count_lines(output)
        strike(leg, whom, signum, draw, n_before, (N_ITEMS - n_before) // (N_KILLS - index + 1))
        code, said = leg.end()
        codes.append((whom, signum.name, code))
        assert code != 2, said
        if signum != signal.SIGKILL and code == 75:
            assert signum.name in said and "--resume" in said
        written = output.read_bytes() if output.exists() else b""
        assert expected.startswith(written), f"{codes}: {written[-300:]!r}"
    print(codes)
    assert sum(code == 75 for *_, code in codes) >= N_KILLS // 4, codes

    begin_again_if_done(output)
    last = Leg(model, prompts, output, tmp_path).end()
    assert last[0] == 1, last
    assert output.read_bytes() == expected
    await_gone(tmp_path)
