"""Ranks that compute with other instructions: exact with one kind on all, and warned of if not."""

import json
from functools import cache

import pytest

from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.engine.vocab import Vocab
from support import PROMPTS, pipeinfer, plain_decode, run, run_ranks, smollm2, smollm2_request

pytestmark = pytest.mark.mpi

N_LAYER, N_CTX = 30, 256
BEST, LEAST = variants.usable()[0], variants.usable()[-1]
has_several = pytest.mark.skipif(BEST == LEAST, reason="this build has one variant for this CPU")


@cache
def ids():
    return Vocab(smollm2()).tokenize(PROMPTS[5])[:24]


def logits(names, **more):
    """Hashes by run: of two ranks with these variants, for each split."""
    splits = [[first, N_LAYER - first] for first in (1, 14, 29)]
    request = {**smollm2_request([], 0, N_CTX), "tokens": ids(), "cpu_variants": names}
    return run_ranks(2, "logits.py", {**request, "layer_splits": splits, **more})


@has_several
def test_one_variant_on_all_ranks_has_the_same_logits_at_every_split_in_runs_of_any_size():
    first, *others = logits([LEAST, LEAST])
    assert others == [first] * 2
    assert logits([LEAST, LEAST], n_each=8) == [first[7::8]] * 3


@has_several
def test_other_variants_have_other_bits_than_the_unpatched_library_of_the_best():
    """Else nobody would have to be warned."""
    plain = plain_decode(smollm2_request([ids()], 1, N_CTX))[0]["logits"]
    assert logits([BEST, BEST]) == [plain] * 3
    mixed = logits([BEST, LEAST])
    assert plain not in mixed
    assert mixed[0] != mixed[2]


def generate(*args):
    return run(
        pipeinfer("generate", "-m", "smollm2", "-n", "8", "-c", "256", "-t", "1", *args, "One day")
    )


@has_several
def test_a_mixture_is_warned_of_before_the_first_token():
    done = generate("--cpu-variant", f"{BEST},{LEAST}", "--format", "json")
    assert done.returncode == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if "different" in line]
    shown = f"(rank 0 with {BEST}, rank 1 with {LEAST})"
    assert warning.startswith("pipeinfer: warning: ranks compute with different instructions ")
    assert shown in warning
    assert warning.endswith(f": --cpu-variant {BEST} makes them alike")
    assert json.loads(done.stdout)["exact"] is False


@has_several
def test_one_variant_for_all_is_not_warned_of_and_a_plan_names_it():
    done = generate("--cpu-variant", LEAST, "--ranks", "2", "--plan", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert [rank["cpu_variant"] for rank in plan["ranks"]] == [LEAST, LEAST]
    assert plan["exact"] is True


def test_a_variant_that_is_not_there_is_refused_in_one_line_that_names_ranks():
    done = generate("--cpu-variant", f"{BEST},{BEST},zen99")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("pipeinfer: error: rank 2 on ")
    assert (
        f"--cpu-variant zen99: this processor and build have {', '.join(variants.usable())}" in line
    )
