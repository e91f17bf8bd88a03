"""Which libraries this process has loaded, and from where: ours, and no others of their names."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeinfer_cli.engine.build_info import MpiInfo
from pipeinfer_cli.errors import UserError

# libmpi itself, under the names that vendors give it; not its Fortran or C++ companions.
LIBMPI_NAME = re.compile(r"libmpi(ch)?(_(abi|amd|cray|gnu|intel|nvidia)[_\d]*)?\.so(\.|$)")
LOADER_VARIABLES = ("LD_LIBRARY_PATH", "LD_PRELOAD")

# What the mpich wheel's libmpi needs, each after those that it needs itself.
MPICH_NEEDS = ("libucm", "libucs", "libuct", "libucp", "libfabric")


def mapped_files(pid: int) -> list[str]:
    """The files that a process has mapped, whatever bytes their names are made of."""
    text = os.fsdecode(Path(f"/proc/{pid}/maps").read_bytes())
    return [line.split(maxsplit=5)[-1] for line in text.split("\n") if "/" in line]


def preload_mpi(mpi: MpiInfo) -> None:
    """Loads what the MPI wheel's library needs from the wheel.

    Its own search path comes after LD_LIBRARY_PATH, where libraries of the same names may lie. What
    cannot be loaded by itself is left to the loader; `check` tells what it has found.
    """
    if not os.environ.get("LD_LIBRARY_PATH"):
        return
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    files = wheel_libraries(mpi)
    for path in (
        path for name in MPICH_NEEDS for path in files if path.name.startswith(f"{name}.so")
    ):
        # Lazily and globally, since some of them need functions of those that come later.
        dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_GLOBAL)


def wheel_libraries(mpi: MpiInfo) -> list[Path]:
    """The libraries of an MPI wheel, libmpi first; none for the system's MPI."""
    if mpi.kind != "wheel":
        return []
    libmpi = Path(mpi.library_path)
    return [libmpi, *sorted(libmpi.parent.glob(f"{mpi.family}/lib*.so*"))]


def check(ours: Iterable[Path], mapped: Iterable[str] | None = None) -> None:
    """UserError if a library in this process has the name of one of ours, and is another."""
    by_name = {path.name: path for path in ours}
    for file in mapped_files(os.getpid()) if mapped is None else mapped:
        path = Path(file.removesuffix(" (deleted)"))
        known = by_name.get(path.name)
        if known is not None and path.resolve() != known.resolve():
            raise UserError(f"{path} was loaded in place of {known}: {remedy(os.environ)}")


def remedy(env: Mapping[str, str], otherwise: str = "install the package again") -> str:
    """What to do where a library does not load, or the wrong one does."""
    given = [f"{name} ({env[name]})" for name in LOADER_VARIABLES if env.get(name)]
    return f"unset {' and '.join(given)}" if given else otherwise
