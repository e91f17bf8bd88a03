"""The command in a process of its own: what it imports, its exit codes, a closed output."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeinfer_cli.cli import application
from pipeinfer_cli.errors import OutputClosedError

pytestmark = pytest.mark.e2e


def run(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pipeinfer_cli", *args]
    return subprocess.run(command, env=env, text=True, capture_output=True, **options)  # type: ignore[call-overload,no-any-return]


def test_a_closed_stdout_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "pipeinfer_cli", "models", "list"],
        env=env,
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (OutputClosedError.exit_code, b"")


@pytest.mark.parametrize("command", [(), *((name,) for name in application.COMMANDS)])
def test_help_is_plain_and_light(command: tuple[str, ...]) -> None:
    args = [*command, "--help"]
    code = f"import sys; from pipeinfer_cli.cli import main; main.main({args}); print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True)
    *help_lines, loaded = done.stdout.splitlines()
    assert help_lines[0].startswith(" ".join(["Usage: pipeinfer", *command]))
    assert not {"numpy", "llama_cpp", "mpi4py", "rich"} & set(loaded.split())
    assert "\x1b" not in done.stdout


def test_models_list_is_light() -> None:
    code = "import sys; from pipeinfer_cli.cli import main; main.main(['models', 'list'])"
    code += "; print(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True)
    loaded = done.stdout.splitlines()[-1]
    assert not {"numpy", "llama_cpp", "mpi4py", "pydantic"} & set(loaded.split())


def test_no_prompt_and_empty_stdin() -> None:
    done = run("generate", "-m", "m", "--ranks", "1", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the prompt on stdin is empty" in done.stderr


def test_version_and_models_list() -> None:
    assert run("--version").stdout.startswith("pipeinfer ")
    header, *rows = run("models", "list").stdout.splitlines()
    assert header.split("\t") == ["name", "size", "cached", "SHA-256", "description"]
    assert rows[0].startswith("smollm2\t98.4 MB\t")
