"""64-bit ARM, emulated by qemu: several columns have the bits of each alone, for each set of
instructions, and those are llama.cpp's.

make test-arm

builds what runs here and names its folder in TEST_ARM.
"""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from typing import Any

import pytest

import builds
from emulated import CPUS, EMULATED, FOLDER
from mul_mats import REPACKED, TYPES, cases
from support import TESTS

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        "TEST_ARM" not in os.environ, reason="needs a cross compiler and qemu: make test-arm"
    ),
]

SIZES = [*range(1, 10), 15, 16, 31, 32, 33]  # of batches; fewer than where nothing is emulated


def run(program: list[str], cpu: str, *, timeout_s: float) -> str:
    """Its stdout, of a program of the emulated Python."""
    done = subprocess.run(
        [str(EMULATED.python), *program],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "QEMU_CPU": cpu},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@cache
def products(cpu: str, type_name: str, *, is_patched: bool) -> Any:
    """What mul_mats.py prints for the type's cases, by one thread: qemu spins as slowly."""
    kind, model = CPUS[cpu]
    request = [[*case[:-1], 1] for case in cases(type_name)]
    libraries = builds.libraries(FOLDER, kind, is_patched=is_patched)
    program = [str(TESTS / "helpers" / "mul_mats.py"), str(libraries / "libggml-cpu.so")]
    return json.loads(run([*program, json.dumps(request), json.dumps(SIZES)], model, timeout_s=600))


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("type_name", TYPES)
def test_columns_together_have_the_bits_of_each_alone(type_name: str, cpu: str) -> None:
    answers = products(cpu, type_name, is_patched=True)
    for case, answer in zip(cases(type_name), answers, strict=True):
        if answer is None:
            assert case[1] and (cpu == "neon" or "dotprod" not in REPACKED[type_name]), case
            continue
        triples = zip(SIZES, answer["together"], answer["alone"], strict=True)
        differ = [n for n, together, alone in triples if together != alone]
        assert not differ, f"{case}: batches of {differ}"


@pytest.mark.parametrize("cpu", [cpu for cpu, (kind, _) in CPUS.items() if kind in builds.COMPARED])
@pytest.mark.parametrize("type_name", TYPES)
def test_one_column_has_the_bits_of_the_unpatched_llama_cpp(type_name: str, cpu: str) -> None:
    ours = products(cpu, type_name, is_patched=True)
    plain = products(cpu, type_name, is_patched=False)
    for case, answer, expected in zip(cases(type_name), ours, plain, strict=True):
        assert (answer is None) == (expected is None), case
        assert answer is None or answer["alone"] == expected["alone"], case
