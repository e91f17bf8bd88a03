"""Whether /dev/shm has room for what MPI puts there: a write beyond it would kill a rank."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from pipeinfer_cli.console import size
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch.host.mpi_info import MpiInfo

FOLDER = Path("/dev/shm")
TODO = "enlarge it (mount -o remount,size=1g /dev/shm; docker run --shm-size=1g)"
TODO_NONE = "mount a tmpfs there (mount -t tmpfs tmpfs /dev/shm), or use --ranks 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Of ranks on a host, in bytes: measured, with a margin."""

    least_per_rank: int  # without UCX, which can use memory of another kind
    per_rank: int
    beside: int  # must stay free

    def least(self, n_ranks: int) -> int:
        """What ranks cannot do without."""
        return n_ranks * self.least_per_rank

    def usual(self, n_ranks: int) -> int:
        """What they take, if it is there."""
        return n_ranks * self.per_rank + self.beside


# By the MPI's family. MPICH's own segment has 1.03 MiB for each rank. UCX takes 4.1 MiB and crashes
# if it comes upon less than 16 MiB (UCX_POSIX_SHM_MIN_SIZE) after it has begun with more.
NEEDS = {"mpich": Needs(least_per_rank=5 << 18, per_rank=6 << 20, beside=16 << 20)}


def free_bytes(folder: Path = FOLDER) -> int | None:
    """What is left there; None if it is not there, or cannot be written."""
    return _bytes(folder, "f_bavail")


def total_bytes(folder: Path = FOLDER) -> int | None:
    """What there is; None as above."""
    return _bytes(folder, "f_blocks")


def _bytes(folder: Path, field: str) -> int | None:
    if not os.access(folder, os.W_OK):
        return None
    found = os.statvfs(folder)
    return int(getattr(found, field)) * found.f_frsize


def prepare(mpi: MpiInfo, n_ranks: int, env: MutableMapping[str, str], *, among: bool) -> None:
    """UserError if /dev/shm lacks room for the n_ranks of this host.

    If there is not enough for UCX too, it is told by a variable in `env` to use System V's. `among`
    them, what is taken may be the others', which have begun: only all that there is counts.
    """
    needs = NEEDS.get(mpi.family)
    if needs is None or n_ranks < 2:
        return
    room = total_bytes() if among else free_bytes()
    if room is None:
        raise UserError(f"{FOLDER} cannot be written, which MPI needs: {TODO_NONE}")
    if room < needs.least(n_ranks):
        raise UserError(
            f"{FOLDER} has {size(room)}{'' if among else ' left'}, but {n_ranks} ranks need "
            f"{size(needs.least(n_ranks))} there: {TODO}, or use fewer ranks"
        )
    if min(room, free_bytes() or 0) < needs.usual(n_ranks):
        env.setdefault("UCX_TLS", "^posix")


def n_ranks_that_fit(mpi: MpiInfo) -> int | None:
    """How many ranks of this host there is room for; None if it is not known what they need."""
    needs = NEEDS.get(mpi.family)
    return None if needs is None else (free_bytes() or 0) // needs.least_per_rank
