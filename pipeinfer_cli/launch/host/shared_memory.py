"""Whether /dev/shm has room for what MPI puts there: a write beyond it would kill a rank."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli.console import size
from pipeinfer_cli.engine.build_info import MpiInfo
from pipeinfer_cli.errors import UserError

FOLDER = Path("/dev/shm")
TODO = "enlarge it (mount -o remount,size=1g /dev/shm; docker run --shm-size=1g)"
TODO_NONE = "mount a tmpfs there (mount -t tmpfs tmpfs /dev/shm), or use --ranks 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Of one rank on a host, in bytes: measured, with a margin."""

    least_bytes: int
    usual_bytes: int  # with UCX, which can use memory of another kind


# By the MPI's family: MPICH's own segment has 1.03 MiB for each rank, UCX takes 4.1 MiB.
NEEDS = {
    "mpich": Needs(least_bytes=5 << 18, usual_bytes=8 << 20),
}


def free_bytes(folder: Path = FOLDER) -> int | None:
    """What is left there; None if it is not there, or cannot be written."""
    if not os.access(folder, os.W_OK):
        return None
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def prepare(mpi: MpiInfo, n_ranks: int, env: MutableMapping[str, str]) -> None:
    """UserError if /dev/shm has no room for so many ranks of this host.

    If there is not enough for UCX too, it is told by a variable in `env` to use System V's.
    """
    needs = NEEDS.get(mpi.family)
    if needs is None or n_ranks < 2:
        return
    free = free_bytes()
    if free is None:
        raise UserError(f"{FOLDER} cannot be written, which MPI needs: {TODO_NONE}")
    if free < n_ranks * needs.least_bytes:
        raise UserError(
            f"{FOLDER} has {size(free)} left, but {n_ranks} ranks need "
            f"{size(n_ranks * needs.least_bytes)} there: {TODO}, or use fewer ranks"
        )
    if free < n_ranks * needs.usual_bytes:
        env.setdefault("UCX_TLS", "^posix")


def n_ranks_that_fit(mpi: MpiInfo) -> int | None:
    """How many ranks of this host there is room for; None if it is not known what they need."""
    needs = NEEDS.get(mpi.family)
    return None if needs is None else (free_bytes() or 0) // needs.least_bytes
