"""Streams that are closed, or open the wrong way, when the command starts."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest

CLOSED = [each for n in (1, 2, 3) for each in combinations((0, 1, 2), n)]
# What is given out of a redirection of its own is what the command has made of it.
SCRIPT = 'redirections=$1; shift; eval "exec \\"\\$@\\" $redirections"'
ERROR = "pipeinfer: error: cannot read the model 'none.gguf'"


def run(redirections: str, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from pipeinfer_cli.cli.main import main; sys.exit(main())"
    return subprocess.run(
        ["bash", "-c", SCRIPT, "bash", redirections, sys.executable, "-c", code, *args],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def closing(fds: tuple[int, ...]) -> str:
    return " ".join(f"{fd}{'<' if fd == 0 else '>'}&-" for fd in fds)


@pytest.mark.parametrize("fds", CLOSED)
def test_closed_streams_end_at_once_or_drop_all(fds: tuple[int, ...]) -> None:
    listed = run(closing(fds), "--version")
    assert listed.returncode == 0
    assert listed.stdout.startswith("" if 1 in fds else "pipeinfer ")
    assert (listed.stdout == "") == (1 in fds)
    assert listed.stderr == ""
    failed = run(closing(fds), "generate", "-m", "none.gguf", "--ranks", "2", "hi")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("" if 2 in fds else ERROR)
    assert (failed.stderr == "") == (2 in fds)


def test_what_is_open_the_wrong_way(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = run(f"1<{file}", "--version")
    text = "pipeinfer: error: stdout is open for reading only: redirect it with >\n"
    assert (done.returncode, done.stderr) == (2, text)
    done = run(f"2<{file}", "generate", "-m", "none.gguf", "hi")
    assert (done.returncode, done.stdout) == (2, "")
    done = run(f"0>{file}", "generate", "-m", "none.gguf", "--ranks", "1")
    assert done.returncode == 2
    assert "stdin is empty" in done.stderr
    assert file.read_bytes() == b""


def test_an_error_that_nobody_can_be_told_of_has_its_exit_code() -> None:
    for unbuffered in ("", "1"):
        done = run("2>/dev/full", "generate", "-m", "none.gguf", "hi", PYTHONUNBUFFERED=unbuffered)
        assert done.returncode == 2, unbuffered


def test_children_inherit_the_stand_ins() -> None:
    code = (
        "import os, subprocess; from pipeinfer_cli import streams; streams.open_closed();"
        "subprocess.run(['true'], check=True);"
        "os._exit(sum(os.get_inheritable(fd) for fd in range(3)))"
    )
    script = f'exec "$@" {closing((0, 1, 2))}'
    done = subprocess.run(["bash", "-c", script, "bash", sys.executable, "-c", code], timeout=60)
    assert done.returncode == 3
