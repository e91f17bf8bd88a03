"""What is around the command: its streams, libraries, shared memory, and other people's jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import orphans
from pipeinfer_cli.engine import build_info
from pipeinfer_cli.launch.host import mpi_choice
from small_models import talking_llama
from support import check_output, mpiexec, pipeinfer

pytestmark = pytest.mark.e2e

LAUNCHED_SCRIPT = """
import os, subprocess, sys
if {begins_mpi}:
    from mpi4py import MPI
    sys.exit(os.waitstatus_to_exitcode(os.system({shell!r})))
done = subprocess.run({command!r}, text=True, capture_output=True)
print(done.stdout, end="", flush=True)
print(done.stderr, end="", file=sys.stderr)
sys.exit(done.returncode)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking_llama(tmp_path_factory.mktemp("model") / "tiny.gguf")


def generate(model: Path, ranks: int) -> list[str]:
    """A command that writes a short text."""
    options = ["-n", "6", "-c", "64", "-t", "1", "--ignore-eos", "--ranks", str(ranks)]
    return pipeinfer("generate", "-m", str(model), *options, "hello")


@pytest.fixture(scope="module")
def text(model: Path) -> str:
    """What it writes."""
    return check_output(generate(model, 1))


def run(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, model: Path, text: str, tmp_path: Path) -> None:
    shell = f'exec "$@" {closed}'
    command = ["bash", "-c", shell, "bash", *generate(model, 2)]
    done = run(command, TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("" if " >" in f" {closed}" else text)
    assert not orphans(tmp_path)


def test_without_asserts_ranks_start(model: Path, text: str) -> None:
    done = run(generate(model, 2), PYTHONOPTIMIZE="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


def test_settings_of_mpi4py_have_no_effect(model: Path, text: str) -> None:
    settings = {"INITIALIZE": "0", "THREADS": "0", "FINALIZE": "0", "THREAD_LEVEL": "single"}
    env = {f"MPI4PY_RC_{name}": value for name, value in settings.items()}
    done = run(generate(model, 2), **env)
    assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


def test_llama_cpp_python_uses_our_library() -> None:
    """Also without a variable that names it: whoever imports it in this environment finds it."""
    code = "import json, llama_cpp; from pipeinfer_cli.engine.loaded import mapped_files; import os"
    code += "; llama_cpp.llama_print_system_info(); print(json.dumps(mapped_files(os.getpid())))"
    mapped = json.loads(check_output([sys.executable, "-c", code]))
    found = {Path(path).resolve() for path in mapped if Path(path).name.startswith("libllama")}
    assert found == {(build_info.LIB_DIR / "libllama.so").resolve()}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of libraries that have the names of ours, and of what the MPI wheel needs."""
    folder = tmp_path_factory.mktemp("foreign")
    for library in build_info.LIB_DIR.glob("lib*.so"):
        shutil.copy(library, folder)
    mpi = mpi_choice.choose()
    for library in Path(mpi.path).parent.glob(f"{mpi.family}/lib*.so*"):
        shutil.copy(library, folder)
    return folder


@pytest.mark.parametrize("ranks", [1, 2])
def test_foreign_libraries_are_not_loaded(
    ranks: int, model: Path, text: str, foreign: Path
) -> None:
    """Were one loaded, the check of what is mapped would end the job."""
    done = run(generate(model, ranks), LD_LIBRARY_PATH=str(foreign))
    assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


def test_foreign_libraries_are_not_loaded_under_a_launcher(
    model: Path, text: str, foreign: Path
) -> None:
    """There the MPI is looked for in the launcher's folder, and may be a wheel's."""
    done = run(mpiexec(2, *generate(model, 2)[1:]), LD_LIBRARY_PATH=str(foreign))
    assert (done.returncode, done.stdout, done.stderr) == (0, text, "")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_foreign_library_that_is_loaded_is_named(ranks: int, model: Path, foreign: Path) -> None:
    library = foreign / "libggml-base.so"
    done = run(generate(model, ranks), LD_PRELOAD=str(library))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"{library} was loaded in place of" in done.stderr
    assert "unset LD_PRELOAD" in done.stderr


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("begins_mpi", [False, True])
def test_below_a_rank_of_somebody_elses_job(
    begins_mpi: bool, ranks: int, model: Path, text: str, tmp_path: Path
) -> None:
    command = generate(model, ranks)
    script = tmp_path / "somebody.py"
    shell = subprocess.list2cmdline(command)
    script.write_text(LAUNCHED_SCRIPT.format(begins_mpi=begins_mpi, shell=shell, command=command))
    launched = mpiexec(1)
    env = {"MPI4PY_LIBMPI": mpi_choice.choose().path}
    done = run([*launched[: launched.index(pipeinfer()[0])], sys.executable, str(script)], **env)
    assert (done.returncode, done.stdout) == (0, text), done.stderr
    assert done.stderr.startswith("pipeinfer: note: started below rank 0 of ")
    assert done.stderr.count("\n") == 1


def can_mount() -> bool:
    return run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]).returncode == 0


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=28m", ""),
        ("size=16m", ""),  # where UCX would crash, if it were not told to use another memory
        ("size=4m", ""),
        ("size=1m", "/dev/shm has"),
        ("size=16m,ro", "/dev/shm cannot be written"),
    ],
)
def test_little_shared_memory(options: str, words: str, model: Path, text: str) -> None:
    if not can_mount():
        pytest.skip("only root may mount a small /dev/shm")
    if mpi_choice.choose().family != "mpich":
        pytest.skip("what this MPI needs is not known")
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    for command in (generate(model, 2), mpiexec(2, *generate(model, 2)[1:])):
        done = run(["unshare", "-m", "bash", "-c", mount, "bash", *command])
        if not words:
            assert (done.returncode, done.stdout, done.stderr) == (0, text, "")
            continue
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        (line,) = [each for each in done.stderr.splitlines() if each.startswith("pipeinfer: ")]
        assert words in line
