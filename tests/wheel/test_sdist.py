"""The sdist of dist/, built and installed by pip into an empty environment, without our tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from install import NO_LLAMA_BUILD
from support import pipeinfer, run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("TEST_SDIST" not in os.environ, reason="compiles: make test-sdist"),
    pytest.mark.timeout(2000),
]

DIST = Path(__file__).parents[2] / "dist"
COMMAND = ("generate", "-m", "smollm2", "-n", "16", "-t", "1", "--ranks", "3", "Once upon a time")


def test_same_text_as_the_build(tmp_path: Path) -> None:
    """On three ranks, and no library is from elsewhere than the environment."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
    (sdist,) = DIST.glob("pipeinfer-*.tar.gz")
    env = {**os.environ, **NO_LLAMA_BUILD, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}
    install = [str(venv / "bin" / "pip"), "install", "--quiet", "--no-cache-dir", str(sdist)]
    done = run(install, timeout_s=1800, env=env)
    assert done.returncode == 0, done.stderr
    assert not list(venv.glob("lib/python3*/site-packages/llama_cpp/lib/*.so*"))
    expected = run(pipeinfer(*COMMAND))
    done = run([str(venv / "bin" / "pipeinfer"), *COMMAND], env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected.stdout != ""
