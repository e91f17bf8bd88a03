"""The wheel for 64-bit ARM, installed by pip in an empty environment that qemu runs.

make test-wheel-arm

builds the wheel and the environment.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import wheels
from emulated import WITH_WHEEL
from emulated_ranks import check_command
from pipeinfer_cli.engine.cpu.variants import built

pytestmark = [
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        not {"TEST_ARM", "TEST_WHEEL"} <= set(os.environ),
        reason="needs a cross compiler and qemu: make test-wheel-arm",
    ),
]

CMAKE = Path(__file__).parents[2] / "native" / "cmake" / "variants.cmake"
BEST = {"neon": "armv8.0_1", "dotprod": "armv8.2_2", "sve256": "armv8.6_2"}  # of all variants


def test_name_size_and_libraries(tmp_path: Path) -> None:
    """It has each variant that there is for ARM."""
    libraries = wheels.check("aarch64", tmp_path)
    known = re.findall(r"set\(known (armv8.*?)\)", CMAKE.read_text(encoding="utf-8"))
    assert list(built(libraries)) == sorted(known[0].split())


@pytest.mark.parametrize("cpu", BEST)
def test_the_command_on_two_ranks(cpu: str, tmp_path: Path) -> None:
    check_command(tmp_path, cpu, BEST[cpu], machine=WITH_WHEEL)
