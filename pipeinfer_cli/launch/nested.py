"""Started by a rank of somebody's MPI job, not by its launcher: then we are not a rank of that job.

A program that starts us hands its environment on, the launcher's variables with it. Joining would
end with a page of MPI's text (Python closes the descriptor that leads to the launcher), or would
use up the connection of the rank itself (`os.system` keeps it open).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

from pipeinfer_cli.launch import environment, local_rank

# What launchers give their ranks, to find one another with.
PREFIXES = (
    "PMI_", "PMIX_", "HYDI_", "MPI_LOCAL", "OMPI_", "PRTE_", "PALS_", "SLURM_PROCID", "SLURM_STEP",
)  # fmt: skip
LAUNCHERS = re.compile(r"hydra|pmi_proxy|mpiexec|mpirun|prte|orted|palsd|slurmstepd")


def leave_job(env: MutableMapping[str, str]) -> str | None:
    """Takes the launcher's variables out of `env` if they are another process's; a note then."""
    launch_env = environment.detect(env)
    if launch_env.alone:
        return None
    reason = _closed_connection(env) or _rank_above()
    if reason is None:
        return None
    for name in [name for name in env if name.startswith(PREFIXES)]:
        del env[name]
    return (
        f"started below rank {launch_env.rank} of {launch_env.launcher}, not by the launcher "
        f"({reason}): this is not part of its job"
    )


def launcher_folder() -> Path | None:
    """Where the program lies that has started this rank; None if it is another user's."""
    for pid in _ancestors():
        try:
            if LAUNCHERS.search(Path(f"/proc/{pid}/comm").read_text()):
                return Path(f"/proc/{pid}/exe").resolve(strict=True).parent
        except OSError:
            return None
    return None


def _closed_connection(env: Mapping[str, str]) -> str | None:
    """Why the launcher cannot be reached; None if it can, or if no descriptor leads to it."""
    fd = env.get("PMI_FD", "")
    if not fd.isdecimal():
        return None
    try:
        is_open = stat.S_ISSOCK(os.fstat(int(fd)).st_mode)
    except (OSError, OverflowError):
        is_open = False
    return None if is_open else f"PMI_FD {fd} is closed"


def _rank_above() -> str | None:
    """Why the rank is another process; None if MPI runs in none between us and the launcher."""
    for pid in _ancestors():
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if LAUNCHERS.search(name):
                return None
            # Not the library: a tool in LD_PRELOAD may bring it into shells, too.
            has_begun = bool(local_rank.shared_memory_of(pid))
        except OSError:  # another user's
            return None
        if has_begun:
            return f"{name}, pid {pid}, is that rank"
    return None


def _ancestors() -> Iterator[int]:
    """Our parent, its parent, and so on."""
    pid = os.getppid()
    while pid > 1:
        yield pid
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return
        pid = int(status.rpartition(")")[2].split()[1])
