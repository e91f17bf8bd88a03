"""Damaged GGUFs: never a crash or a hang, always a line. `make fuzz` runs thousands of cases."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.native

PROGRAM = Path(__file__).parents[1] / "helpers" / "fuzz.py"
N_CASES = int(os.environ.get("FUZZ_CASES", "60"))
N_EACH = 500  # in one process


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(0, N_CASES, N_EACH))
def test_damaged_files(first, tmp_path):
    last = min(first + N_EACH, N_CASES)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(first), str(last)],
        capture_output=True,
        text=True,
        timeout=1700,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=tmp_path,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1] if lines else 'at once'}: {done.stderr[-2000:]}"
    said = lines[1::2]
    assert len(said) == last - first
    n_found = sum(line != "sound" for line in said)
    assert n_found > len(said) / 3, "most mutations hit something that is checked"
