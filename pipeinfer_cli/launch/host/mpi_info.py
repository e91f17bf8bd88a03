"""The MPIs of this host: wheels of this Python's environment, and libraries of the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, PackagePath, distribution
from importlib.util import find_spec
from pathlib import Path

from pipeinfer_cli.engine import loaded
from pipeinfer_cli.errors import UserError

VARIABLE = "PIPEINFER_MPI"  # names the MPI to use

# By ABI, in mpi4py's words: the names of its libmpi. Debian has another one than MPICH itself.
LIBRARIES = {
    "mpich": ("libmpi.so.12", "libmpich.so.12"),
    "openmpi": ("libmpi.so.40",),
    "mpiabi": ("libmpi_abi.so.1", "libmpi_abi.so.0"),
}
ABI_NAMES = {"mpich": "MPICH's ABI", "openmpi": "Open MPI's ABI", "mpiabi": "the standard ABI"}
FOLDERS = ("lib", "lib64", "lib/release", "lib/*-linux-gnu*")
# By wheel, in the order in which they are taken: its family and its ABI.
WHEELS = {
    "mpich": ("mpich", "mpich"),
    "openmpi": ("openmpi", "openmpi"),
    "impi-rt": ("intel", "mpich"),
}
# What MPIs say of themselves. Those that descend from MPICH name it, too, and come before it.
VERSIONS = (
    ("intel", re.compile(r"Intel\(R\) MPI Library ([\d.]+)")),
    ("cray", re.compile(r"CRAY MPICH version ([\d.]+)")),
    ("mvapich", re.compile(r"MVAPICH\S*\s+Version\s*:\s*([\w.]+)")),
    ("mpich", re.compile(r"MPICH Version:\s*([\w.]+)")),
    ("openmpi", re.compile(r"Open MPI v([\w.]+)")),
)
# Launchers by family, those with a name of their own first; and programs of other families.
LAUNCHERS = {
    "mpich": ("mpiexec.hydra", "mpiexec.mpich", "mpiexec"),
    "openmpi": ("mpirun.openmpi", "mpirun", "mpiexec"),
}
FOREIGN = {"mpich": re.compile("openmpi|orterun|prte"), "openmpi": re.compile("hydra|mpich")}


@dataclass(frozen=True, slots=True, kw_only=True)
class MpiInfo:
    """An MPI, and the launcher that belongs to it."""

    kind: str  # "wheel", "system", or "mpi4py": the one that mpi4py was built for
    family: str  # "mpich", "openmpi", "intel", "cray", ...
    version: str
    abi: str  # "mpich", "openmpi" or "mpiabi"
    path: str  # of libmpi; kind "mpi4py": of mpi4py's extension, which is linked with it
    mpiexec: str | None = None  # None: there is none on this machine
    wheel: str = ""  # its name

    @property
    def name(self) -> str | None:
        """What PIPEINFER_MPI takes for it; None if it is the only one that mpi4py can use."""
        return None if self.kind == "mpi4py" else self.wheel or self.path

    @property
    def srun_type(self) -> str:
        """What `srun --mpi=` takes for it."""
        return "pmix" if self.family == "openmpi" else "pmi2"

    @property
    def wheel_libraries(self) -> list[Path]:
        """The libraries of an MPI wheel, libmpi first; none of another MPI."""
        if self.kind != "wheel":
            return []
        libmpi = Path(self.path)
        return [libmpi, *sorted(libmpi.parent.glob(f"{self.family}/lib*.so*"))]

    def __str__(self) -> str:
        return f"{self.family} {self.version}"


def of_wheel(wheel: str) -> MpiInfo | None:
    """The MPI of a wheel, if that is installed."""
    family, abi = WHEELS[wheel]
    try:
        found = distribution(wheel)
    except PackageNotFoundError:
        return None
    files = found.files or []  # each access reads them
    libmpi = _wheel_file(files, f"lib/{LIBRARIES[abi][0]}")
    if libmpi is None:
        return None
    # Wheels of two MPIs lay files of the same names: only those of the right size are its own.
    # The name that they share comes first, since it is what users find in PATH.
    launchers = (_wheel_file(files, f"bin/{name}") for name in reversed(LAUNCHERS[abi]))
    return MpiInfo(
        kind="wheel",
        family=family,
        version=found.version,
        abi=abi,
        path=str(libmpi),
        mpiexec=next((str(path) for path in launchers if path and _is_program(path)), None),
        wheel=wheel,
    )


def wheels() -> Iterator[MpiInfo]:
    """Those that are installed."""
    return filter(None, map(of_wheel, WHEELS))


def _wheel_file(files: Sequence[PackagePath], name: str) -> Path | None:
    """A wheel's file, if it is there; wheels lay it relative to the prefix, wherever it is."""
    for file in files:
        if file.name != name.rpartition("/")[2]:
            continue
        path = Path(str(file.locate())).resolve()
        if path.as_posix().endswith(f"/{name}") and path.is_file():
            return path if file.size in (None, path.stat().st_size) else None
    return None


def of_library(path: str) -> MpiInfo:
    """The MPI of a libmpi: its file, or a name for the loader. It is not started.

    OSError if it cannot be; UserError if mpi4py cannot use it.
    """
    # A wheel's is not loaded here: what it needs has to be loaded first, see loaded.preload_mpi.
    if "/" in path and (wheel := _wheel_at(path)):
        return wheel
    abi, said = loaded.open_mpi(path)
    if "/" not in path:
        path = _loaded_libmpi(path)
        if wheel := _wheel_at(path):
            return wheel
    abis = mpi4py_abis()
    if abi not in abis:
        raise UserError(
            f"{path} has {ABI_NAMES[abi]}, for which this mpi4py is not built: build it for it "
            "(MPICC=.../mpicc pip install --no-binary mpi4py mpi4py)"
        )
    family, version = family_of(said)
    return MpiInfo(
        kind="system",
        family=family,
        version=version,
        abi=abi,
        path=path,
        mpiexec=_mpiexec(path, abi),
    )


def _wheel_at(path: str) -> MpiInfo | None:
    """The wheel whose libmpi this is, if it is one's."""
    libmpi = Path(path).resolve()
    return next((info for info in wheels() if libmpi == Path(info.path).resolve()), None)


def family_of(said: str) -> tuple[str, str]:
    """The family and the version of an MPI, by what it says of itself."""
    for family, pattern in VERSIONS:
        if found := pattern.search(said):
            return family, found[1]
    return "unknown", " ".join(said.split())[:40] or "unknown"


def of_prefix(folder: Path, abi: str) -> MpiInfo | None:
    """The MPI of an ABI that is installed in a folder (with bin/ and lib/), if there is one."""
    for part in FOLDERS:
        for name in LIBRARIES[abi]:
            for path in sorted(folder.glob(f"{part}/{name}")):
                try:
                    return of_library(str(path))
                except OSError:
                    continue
    return None


def of_loader(abi: str) -> MpiInfo | None:
    """The MPI of an ABI that the loader finds: in LD_LIBRARY_PATH, or in its own folders."""
    for name in LIBRARIES[abi]:
        try:
            return of_library(name)
        except OSError:
            continue
    return None


def of_mpi4py() -> MpiInfo | None:
    """The MPI that mpi4py was built for, if there is no choice."""
    path = next((path for abi, path in _extensions() if not abi), None)
    if path is None:
        return None
    try:
        abi, said = loaded.open_mpi(str(path))
    except OSError as error:
        raise UserError(f"mpi4py's own MPI does not load: {error}") from None
    family, version = family_of(said)
    return MpiInfo(
        kind="mpi4py",
        family=family,
        version=version,
        abi=abi,
        path=str(path),
        mpiexec=_mpiexec(_loaded_libmpi(str(path)), abi),
    )


def mpi4py_abis() -> set[str]:
    """Those that mpi4py can use; empty if it was built for one MPI, or is not there."""
    return {abi for abi, _ in _extensions() if abi}


def _extensions() -> Iterator[tuple[str, Path]]:
    """mpi4py's: MPI.mpich.cpython-311-x86_64-linux-gnu.so and the like; of one MPI's, no ABI."""
    spec = find_spec("mpi4py")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("MPI.*.so")):
            abi = path.name.split(".")[1]
            yield (abi if abi in LIBRARIES else ""), path


def _loaded_libmpi(otherwise: str) -> str:
    """The path of the libmpi that this process has loaded."""
    found = loaded.mpi_libraries(loaded.mapped_files(os.getpid()))
    return found[0] if found else otherwise


def _mpiexec(libmpi: str, abi: str) -> str | None:
    """The launcher in the bin/ of the same prefix."""
    family = "openmpi" if abi == "openmpi" else "mpich"
    for prefix in Path(libmpi).absolute().parents[1:4]:
        for name in LAUNCHERS[family]:
            path = prefix / "bin" / name
            if _is_program(path) and not FOREIGN[family].search(path.resolve().name):
                return str(path)
    return None


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
