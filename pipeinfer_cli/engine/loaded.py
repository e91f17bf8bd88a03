"""Which libraries this process has loaded, and from where: ours, and no others of their names."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pipeinfer_cli.engine.build_info import LIB_DIR
from pipeinfer_cli.errors import UserError

# libmpi itself, under the names that vendors give it; not its Fortran or C++ companions.
LIBMPI_NAME = re.compile(r"libmpi(ch)?(_(abi|amd|cray|gnu|intel|nvidia)[_\d]*)?\.so(\.|$)")
VERSION_BYTES = 16384  # MPI_MAX_LIBRARY_VERSION_STRING is at most 8192
LOADER_VARIABLES = ("LD_LIBRARY_PATH", "LD_PRELOAD")

# What the mpich wheel's libmpi needs, each after those that it needs itself.
MPICH_NEEDS = ("libucm", "libucs", "libuct", "libucp", "libfabric")


def mapped_files(pid: int) -> list[str]:
    """The files that a process has mapped, whatever bytes their names are made of."""
    text = os.fsdecode(Path(f"/proc/{pid}/maps").read_bytes())
    return [line.split(maxsplit=5)[-1] for line in text.split("\n") if "/" in line]


def open_mpi(path: str) -> tuple[str, str]:
    """The ABI of a libmpi, in mpi4py's words, and what it says of its version. Starts no MPI.

    `path` is its file, or that of a library which is linked with it. OSError if it does not load,
    or is not an MPI library.
    """
    library = ctypes.CDLL(path, mode=os.RTLD_LAZY | os.RTLD_LOCAL)
    text, length = ctypes.create_string_buffer(VERSION_BYTES), ctypes.c_int()
    try:
        library.MPI_Get_library_version(text, ctypes.byref(length))
    except AttributeError:
        raise OSError(f"{path} is not an MPI library") from None
    return _abi(library), text.value.decode(errors="replace")


def _abi(library: ctypes.CDLL) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    if hasattr(library, "MPI_Abi_get_version"):
        library.MPI_Abi_get_version(ctypes.byref(major), ctypes.byref(minor))
        if major.value > 0:
            return "mpiabi"
    return "openmpi" if hasattr(library, "ompi_mpi_comm_self") else "mpich"


def name_mpich(path: str) -> None:
    """Lets mpi4py, which needs a libmpi.so.12, use a library of that ABI by any name.

    The library's functions are found by all that is loaded later, and one that is empty has the
    name.
    """
    dlopen = _dlopen()
    dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_LOCAL)
    if not dlopen(b"libmpi.so.12", os.RTLD_LAZY | os.RTLD_NOLOAD):
        dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_GLOBAL)
        dlopen(os.fsencode(LIB_DIR / "libmpich_name.so"), os.RTLD_LAZY | os.RTLD_GLOBAL)


def _dlopen() -> Callable[[bytes, int], int | None]:
    """The C library's: that of ctypes resolves all symbols at once."""
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    return dlopen


def mpi_libraries(mapped: Iterable[str]) -> list[str]:
    """The libmpi files among them, each once."""
    return sorted({path for path in mapped if LIBMPI_NAME.match(path.rpartition("/")[2])})


def preload_mpi(libraries: Sequence[Path]) -> None:
    """Loads what an MPI wheel's library needs from the wheel, whose libraries are given.

    Its own search path comes after LD_LIBRARY_PATH, where libraries of the same names may lie. What
    cannot be loaded by itself is left to the loader; `check` tells what it has found.
    """
    if not os.environ.get("LD_LIBRARY_PATH"):
        return
    dlopen = _dlopen()
    for path in (
        path for name in MPICH_NEEDS for path in libraries if path.name.startswith(f"{name}.so")
    ):
        # Lazily and globally, since some of them need functions of those that come later.
        dlopen(os.fsencode(path), os.RTLD_LAZY | os.RTLD_GLOBAL)


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
