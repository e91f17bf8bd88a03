"""The wheels of dist/, and what must be so in their files, whatever machine they are for."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from pathlib import Path

DIST = Path(__file__).parents[2] / "dist"
MAX_BYTES = 60_000_000
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
# Of those that manylinux allows, what C++ and threads need; no MPI is among them.
ALLOWED = re.compile(
    r"lib(c|m|dl|rt|pthread)\.so\.\d|libgcc_s\.so\.1|libstdc\+\+\.so\.6|ld-linux[\w-]*\.so\.\d"
)
MPI = re.compile(r"lib(mpi|mpich|open-pal|open-rte)\.so.*")


def of(machine: str) -> Path:
    """The only wheel of ours for a machine."""
    (wheel,) = DIST.glob(f"pipeinfer-*_{machine}.whl")
    return wheel


def check(machine: str, folder: Path) -> Path:
    """Its name is true of its libraries, which need nothing else; where these are unpacked."""
    wheel = of(machine)
    pattern = rf"pipeinfer-[\d.]+-py3-none-manylinux_2_(\d+)_{machine}\.whl"
    tag = re.fullmatch(pattern, wheel.name)
    assert tag, wheel.name
    assert wheel.stat().st_size < MAX_BYTES
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    libraries = sorted(path for path in folder.rglob("*") if ".so" in path.suffixes)
    ours = {path.name for path in libraries}
    assert "libpipeinfer.so" in ours
    assert not [name for name in ours if MPI.fullmatch(name)]
    for path in libraries:
        assert int.from_bytes(path.read_bytes()[18:20], "little") == ELF_MACHINES[machine], path
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", _readelf("--dynamic", path))
        assert needed or path.name == "libmpich_name.so"
        assert not [name for name in needed if name not in ours and not ALLOWED.fullmatch(name)]
        glibc = re.findall(r"Name: GLIBC_2\.(\d+)", _readelf("--version-info", path))
        assert max(map(int, glibc), default=0) <= int(tag[1]), path
    return folder / "pipeinfer_cli" / "lib"


def _readelf(what: str, path: Path) -> str:
    command = ["readelf", what, "--wide", str(path)]
    env = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
