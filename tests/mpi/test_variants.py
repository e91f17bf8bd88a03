"""Ranks that compute with other instructions: exact with one kind on all, and warned of if not."""

import json
from functools import cache
from pathlib import Path

import pytest

from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.cpu import variants
from pipeinfer_cli.engine.vocab import Vocab
from pipeinfer_cli.launch.environment import Launcher
from pipeinfer_cli.launch.host import mpi_choice
from support import PROMPTS, pipeinfer, plain_decode, run, run_ranks, smollm2, smollm2_request

pytestmark = pytest.mark.mpi

N_LAYER, N_CTX = 30, 256
BEST, *LESSER = variants.usable()
LEAST = variants.usable()[-1]
has_several = pytest.mark.skipif(BEST == LEAST, reason="this build has one variant for this CPU")


@cache
def ids():
    return Vocab(smollm2()).tokenize(PROMPTS[5])[:24]


def logits(names, **more):
    """Hashes by run: of two ranks with these variants, for each split."""
    splits = [[first, N_LAYER - first] for first in (1, 14, 29)]
    request = {**smollm2_request([], 0, N_CTX), "tokens": ids(), "cpu_variants": names}
    return run_ranks(2, "logits.py", {**request, "layer_splits": splits, **more})


@pytest.mark.parametrize("name", LESSER)
def test_one_variant_on_all_ranks_has_the_same_logits_at_every_split_in_runs_of_any_size(name):
    first, *others = logits([name, name])
    assert others == [first] * 2
    assert logits([name, name], n_each=8) == [first[7::8]] * 3


@has_several
def test_other_variants_have_other_bits_than_the_unpatched_library_of_the_best():
    """Else nobody would have to be warned."""
    plain = plain_decode(smollm2_request([ids()], 1, N_CTX))[0]["logits"]
    assert logits([BEST, BEST]) == [plain] * 3
    mixed = logits([BEST, LEAST])
    assert plain not in mixed
    assert mixed[0] != mixed[2]


def command(*args):
    words = ["generate", "-m", "smollm2", "-n", "8", "-c", "256", "-t", "1", *args]
    return pipeinfer(*words, "One day")


def generate(*args):
    return run(command(*args))


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


# What the second of two processors has: most often, the first one has AVX-512 and this one AVX2.
OTHER = "haswell" if "haswell" in LESSER else LEAST


def on_two_processors(folder, *args):
    """Of two ranks, the second one's library has OTHER and lesser variants only."""
    worse = variants.usable()[variants.usable().index(OTHER) :]
    for path in abi.lib_dir().iterdir():
        name = path.stem.removeprefix(variants.PREFIX)
        if name == path.stem or name in worse:
            (folder / path.name).symlink_to(path)
    start = f'if test "$PMI_RANK" = 1; then export PIPEINFER_LIB_DIR="{folder}"; fi; exec "$@"'
    program = ["sh", "-c", start, "sh", *command("--format", "json", *args)]
    return run(Launcher.of(mpi_choice.choose()).command(2, program))


@has_several
@pytest.mark.skipif(mpi_choice.choose().family != "mpich", reason="counts ranks by PMI_RANK")
def test_two_processors_write_the_lesser_ones_text_with_its_variant_on_all(tmp_path: Path):
    mixed = on_two_processors(tmp_path)
    assert mixed.returncode == 0, mixed.stderr
    assert json.loads(mixed.stdout)["exact"] is False
    (warning,) = [line for line in mixed.stderr.splitlines() if "different" in line]
    assert f"(rank 0 with {BEST}, rank 1 with {OTHER})" in warning
    assert warning.endswith(f": --cpu-variant {OTHER} makes them alike")
    alike, alone = tmp_path / "alike", generate("--cpu-variant", OTHER, "--format", "json")
    alike.mkdir()
    cured = on_two_processors(alike, "--cpu-variant", OTHER)
    assert (cured.returncode, cured.stderr) == (0, "")
    answer, expected = json.loads(cured.stdout), json.loads(alone.stdout)
    assert (answer["exact"], answer["text"]) == (True, expected["text"])


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
