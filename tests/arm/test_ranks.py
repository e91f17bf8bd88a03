"""64-bit ARM, emulated by qemu: two ranks of a small model have the logits of the unpatched
library, with the CPU variant that each processor gets, and the command writes one text on one and
two.

make test-arm

builds what runs here and names its folder in TEST_ARM.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import builds
from emulated import CPUS, EMULATED, FOLDER
from emulated_ranks import N_CTX, TIMEOUT_S, check_command, emulated, on_ranks
from small_models import N_LAYER, convert, talking_llama
from support import TESTS, check_output

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        "TEST_ARM" not in os.environ, reason="needs a cross compiler and qemu: make test-arm"
    ),
]

CPU_NAMES = [name for name, (kind, _) in CPUS.items() if kind in builds.VARIANTS]
TYPES = ("F16", "Q4_0", "Q4_K_M")  # test_arm.py has the kernels of the others
IDS = [(7 * i) % 300 + 1 for i in range(11)]
SIZES = (1, 5)  # of runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("arm")


def variant_of(cpu: str) -> str:
    return builds.VARIANTS[CPUS[cpu][0]]


@pytest.mark.parametrize("cpu", CPU_NAMES)
@pytest.mark.parametrize("file_type", TYPES)
def test_two_ranks_have_the_logits_of_the_unpatched_library(
    file_type: str, cpu: str, folder: Path
) -> None:
    """At each split, in runs of one token and of several; so does one rank."""
    model = convert(talking_llama(folder / f"{file_type}.gguf"), folder, file_type)
    request: dict[str, Any] = {"model": str(model), "n_ctx": N_CTX}
    oracle = [str(EMULATED.python), str(TESTS / "helpers" / "oracle.py")]
    reference = builds.reference(FOLDER, CPUS[cpu][0])
    plain = check_output(
        [*oracle, json.dumps({**request, "prompts": [IDS], "n_predict": 1})],
        timeout_s=TIMEOUT_S,
        env=emulated(cpu, LLAMA_CPP_LIB_PATH=str(reference)),
    )
    expected = json.loads(plain)[0]["logits"]
    splits = [[first, N_LAYER - first] for first in range(1, N_LAYER)]
    request |= {"n_layer": N_LAYER, "tokens": IDS, "layer_splits": splits}
    asked = [{**request, "n_each": n, "cpu_variants": [variant_of(cpu)] * 2} for n in SIZES]
    program = [str(TESTS / "mpi" / "logits.py"), json.dumps({"requests": asked})]
    answers = json.loads(on_ranks(2, *program, cpu=cpu).splitlines()[-1])
    for n, (alone, *split) in zip(SIZES, answers, strict=True):
        assert alone == expected
        last_of_runs = [expected[min(at + n, len(IDS)) - 1] for at in range(0, len(IDS), n)]
        assert split == [last_of_runs] * len(splits), n


@pytest.mark.parametrize("cpu", CPU_NAMES)
def test_the_command_uses_the_best_variant_and_writes_one_text(cpu: str, folder: Path) -> None:
    check_command(folder, cpu, variant_of(cpu))
