"""What a machine must have to build, and the line that shows how far a build is."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import machine
import progress
from terminal import run_on_terminal

ROOT = Path(__file__).parents[2]
STEPS = "for i in 1 2 3; do echo \\[$i/3] Building x.o; done; printf %b '\\xff\\n'; exit "


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that has all programs, without CC and CXX."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def program(path: Path, code: int = 0) -> None:
    path.write_text(f"#!/bin/sh\nexit {code}\n")
    path.chmod(0o755)


def test_old_pythons_can_read_the_check() -> None:
    source = Path(machine.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    imported = {
        alias.name
        for each in ast.walk(tree)
        if isinstance(each, ast.Import)
        for alias in each.names
    }
    assert imported == {"importlib.util", "os", "shutil", "subprocess", "sys"}
    assert "__future__" not in source


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2, "final", 0))
    (problem,) = (each for each in machine.missing() if "Python" in each)
    assert problem.startswith("Python 3.9 is too old: 3.10 or later is required")


@pytest.mark.parametrize("lacks", ["venv", "ensurepip"])
def test_debians_python_without_venv_is_named(lacks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(find_spec=lambda name: None if name == lacks else name)
    monkeypatch.setattr(machine.importlib, "util", found)
    assert any("install its package python3-venv" in each for each in machine.missing())


def test_compilers_are_looked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.missing() == ["there is no C compiler: install gcc and g++, or clang, or set CC"]
    program(path / "clang")
    assert "no C++ compiler" in machine.missing()[0]
    program(path / "clang++", 1)
    assert "clang++ does not find the header <vector>" in machine.missing()[0]
    program(path / "clang++")
    assert machine.missing() == []
    monkeypatch.setenv("CXX", "ccache my-c++")
    assert "(CXX names 'ccache')" in machine.missing()[0]
    program(path / "ccache")
    assert machine.missing() == []


def test_this_machine_is_good() -> None:
    assert machine.missing() == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_says_at_once_what_is_missing(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 'pipeinfer: error: too old' >&2\nexit 1\n")
    old.chmod(0o755)
    for python, said in (
        ("no-python", "pipeinfer: error: there is no no-python: install Python 3.10 or later"),
        (str(old), "pipeinfer: error: too old"),
    ):
        done = subprocess.run(
            ["make", "-C", str(ROOT), "demo", f"VENV={venv}", f"PYTHON={python}"],
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.returncode == 2
        assert said in done.stderr
        assert not venv.exists()


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, progress.__file__, "Building", "--", *command]
    return subprocess.run(program, cwd=cwd, capture_output=True, text=True, timeout=20)


def test_lines_off_a_terminal(tmp_path: Path) -> None:
    done = run("bash", "-c", STEPS + "0", cwd=tmp_path)
    first, last = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (0, "")
    assert first.startswith("Building 0:0")
    assert last.startswith("Building: done in 0:0")
    assert (tmp_path / "build" / "log.txt").read_bytes().endswith(b"[3/3] Building x.o\n\xff\n")


def test_a_failure_shows_what_was_printed(tmp_path: Path) -> None:
    run("echo", "of an earlier command", cwd=tmp_path)
    done = run("bash", "-c", STEPS + "7", cwd=tmp_path)
    assert done.returncode == 7
    _, outcome, *shown, where = done.stderr.splitlines()
    assert outcome.startswith("Building: failed after 0:0")
    assert shown[0] == "[1/3] Building x.o"
    assert where == "(all of it: build/log.txt)"


def test_a_command_that_is_killed_fails(tmp_path: Path) -> None:
    assert run("bash", "-c", "kill -9 $$", cwd=tmp_path).returncode == 137


def test_one_line_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = "echo [12/345] x; read -t 1 < <(sleep 1)"
    seen = run_on_terminal(
        [sys.executable, progress.__file__, "Building", "--", "bash", "-c", script + "; true"]
    )
    assert seen.code == 0
    (line,) = seen.lines
    assert line.startswith("Building: done in 0:0")
    assert any(frame.startswith("Building [12/345] 0:0") for frame in seen.frames)
