"""Which libraries this process has loaded, and from where: ours, and no others of their names."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Mapping, Sequence
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
    for folder in wheel_folders(mpi)[1:]:
        for path in (path for name in MPICH_NEEDS for path in folder.glob(f"{name}.so*")):
            # Lazily and globally, since some of them need functions of those that come later.
            dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_GLOBAL)


def wheel_folders(mpi: MpiInfo) -> list[Path]:
    """The folders of an MPI wheel's libraries, libmpi's first; none for the system's MPI."""
    if mpi.kind != "wheel":
        return []
    folder = Path(mpi.library_path).parent
    return [folder, folder / mpi.family]


def check(folders: Sequence[Path], mapped: Iterable[str] | None = None) -> None:
    """UserError if a library in this process has the name of one in `folders`, and is another."""
    ours = {path.name: path for folder in folders for path in folder.glob("lib*.so*")}
    for file in mapped_files(os.getpid()) if mapped is None else mapped:
        path = Path(file.removesuffix(" (deleted)"))
        known = ours.get(path.name)
        if known is not None and path.resolve() != known.resolve():
            raise UserError(f"{path} was loaded in place of {known}: {remedy(os.environ)}")


def remedy(env: Mapping[str, str], otherwise: str = "install the package again") -> str:
    """What to do where a library does not load, or the wrong one does."""
    given = [f"{name} ({env[name]})" for name in LOADER_VARIABLES if env.get(name)]
    return f"unset {' and '.join(given)}" if given else otherwise
