"""Several columns together have the bits of each alone, for every type; and those are llama.cpp's.

TEST_KERNELS names a folder of other libraries to test: those of `make test-sanitize`, in which the
sanitizers end the process at the first error. What they compute alone they are not asked: other
instructions, other sums.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mul_mats import SIZES, TYPES
from pipeinfer_cli.engine import abi
from support import REFERENCE_LIB, TESTS

pytestmark = pytest.mark.native

OTHER_LIB = os.environ.get("TEST_KERNELS")
BLOCK = {**dict.fromkeys(TYPES, 32), **dict.fromkeys(("Q4_K", "Q5_K", "Q6_K"), 256)}
# in blocks, and rows: one of each; more and less than kernels take at a time, and no multiple of it
SHAPES = [(1, 1), (3, 3), (2, 8), (17, 37)]
REPACKED_SHAPES = [(1, 8), (3, 24), (2, 40)]
REPACKED = ("Q4_0", "Q4_K")
FLOATS = ("F32", "F16", "BF16")
FLOAT_SHAPES = [
    (100, 5),
    (4160, 9),
]  # a row that is not a multiple of a vector; one of several parts


def cases(type_name):
    """[type, repacked, k, m, threads]; see mul_mats."""
    found = [[type_name, False, n * BLOCK[type_name], m] for n, m in SHAPES]
    if type_name in REPACKED:
        found += [[type_name, True, n * BLOCK[type_name], m] for n, m in REPACKED_SHAPES]
    if type_name in FLOATS:
        found += [[type_name, False, k, m] for k, m in FLOAT_SHAPES]
    return [[*case, 1 + index % 3] for index, case in enumerate(found)]


def run(lib_dir, request):
    env = dict(os.environ)
    if OTHER_LIB:
        asan = subprocess.check_output(["cc", "-print-file-name=libasan.so"], text=True).strip()
        env |= {"LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [sys.executable, str(TESTS / "helpers" / "mul_mats.py"), str(lib_dir), json.dumps(request)],
        capture_output=True,
        text=True,
        timeout=100,
        env=env,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("type_name", TYPES)
def test_columns_together_have_the_bits_of_each_alone(type_name):
    request = cases(type_name)
    answers = run(Path(OTHER_LIB or abi.lib_dir()).resolve(), request)
    for case, answer in zip(request, answers, strict=True):
        assert len(answer["together"]) == len(SIZES)
        triples = zip(SIZES, answer["together"], answer["alone"], strict=True)
        differ = [n for n, together, alone in triples if together != alone]
        assert not differ, f"{case}: batches of {differ}"


@pytest.mark.skipif(OTHER_LIB is not None, reason="other instructions than the reference's")
@pytest.mark.parametrize("type_name", TYPES)
def test_one_column_has_the_bits_of_the_unpatched_llama_cpp(type_name):
    request = cases(type_name)
    answers = run(abi.lib_dir(), request)
    plain = run(REFERENCE_LIB, request)
    for case, answer, expected in zip(request, answers, plain, strict=True):
        assert answer["alone"] == expected["alone"], case
