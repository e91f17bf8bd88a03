"""Several columns together have the bits of each alone, for every type; and those are llama.cpp's.

TEST_KERNELS names a folder of other libraries to test: those of `make test-sanitize`, in which the
sanitizers end the process at the first error. What they compute alone they are not asked: other
instructions, other sums.
"""

import itertools
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from mul_mats import SIZES, TYPES, cases
from pipeinfer_cli.engine import abi
from pipeinfer_cli.engine.cpu import variants
from support import REFERENCE_LIB, TESTS

pytestmark = pytest.mark.native

OTHER_LIB = os.environ.get("TEST_KERNELS")
BEST, *OTHERS = [None] if OTHER_LIB else variants.usable()
# of other variants; `make docs-variants` compares all
SOME_TYPES = ("F32", "F16", "Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ3_S")


def backend(folder, variant=None):
    """The library of a variant, or the only one that there is."""
    file = folder / f"libggml-cpu-{variant}.so"
    return file if file.exists() else folder / "libggml-cpu.so"


def run(cpu_backend, request, *more):
    env = dict(os.environ)
    if OTHER_LIB:
        asan = subprocess.check_output(["cc", "-print-file-name=libasan.so"], text=True).strip()
        env |= {"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [
            sys.executable,
            str(TESTS / "helpers" / "mul_mats.py"),
            str(cpu_backend),
            json.dumps(request),
            *more,
        ],
        capture_output=True,
        text=True,
        timeout=100,
        env=env,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@cache
def ours(type_name, variant):
    return run(backend(Path(OTHER_LIB or abi.lib_dir()).resolve(), variant), cases(type_name))


@pytest.mark.parametrize(
    ("variant", "type_name"),
    [*((BEST, each) for each in TYPES), *itertools.product(OTHERS, SOME_TYPES)],
)
def test_columns_together_have_the_bits_of_each_alone(variant, type_name):
    request = cases(type_name)
    answers = ours(type_name, variant)
    for case, answer in zip(request, answers, strict=True):
        if answer is None:
            assert case[1], case
            continue
        assert len(answer["together"]) == len(SIZES)
        triples = zip(SIZES, answer["together"], answer["alone"], strict=True)
        differ = [n for n, together, alone in triples if together != alone]
        assert not differ, f"{case}: batches of {differ}"


@pytest.mark.skipif(OTHER_LIB is not None, reason="other instructions than the reference's")
@pytest.mark.parametrize("type_name", TYPES)
def test_one_column_has_the_bits_of_the_unpatched_llama_cpp(type_name):
    """Which is built for the same instructions as the best variant."""
    request = cases(type_name)
    answers = ours(type_name, BEST)
    plain = run(backend(REFERENCE_LIB), request, json.dumps(SIZES), "alone")
    for case, answer, expected in zip(request, answers, plain, strict=True):
        assert (answer is None) == (expected is None), case
        assert answer is None or answer["alone"] == expected["alone"], case
