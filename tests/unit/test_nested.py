"""Below a rank of somebody's MPI job, or a rank of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pipeinfer_cli.launch import local_rank, nested

RANK = {"PMI_RANK": "2", "PMI_SIZE": "5", "MPI_LOCALRANKID": "2", "HYDI_CONTROL_FD": "7"}


@pytest.fixture
def connection() -> Iterator[str]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield str(ours.fileno())


def closed_fd() -> str:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    return str(reader)


def test_alone_nothing_changes() -> None:
    env = {"PATH": "/bin", "SLURM_JOB_ID": "7"}
    assert nested.leave_job(env) is None
    assert env == {"PATH": "/bin", "SLURM_JOB_ID": "7"}


def test_a_rank_stays_one(connection: str) -> None:
    env = {**RANK, "PMI_FD": connection}
    assert nested.leave_job(env) is None
    assert env == {**RANK, "PMI_FD": connection}


def test_a_closed_connection_is_somebody_elses(tmp_path: object) -> None:
    for fd in (closed_fd(), "99999999999999999999"):
        env = {**RANK, "PMI_FD": fd, "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "7"}
        note = nested.leave_job(env) or ""
        assert note.startswith("started below rank 2 of MPICH's mpiexec")
        assert f"PMI_FD {fd} is closed" in note
        assert env == {"SLURM_JOB_ID": "7"}


def test_another_file_under_the_number_is_no_connection() -> None:
    reader, writer = os.pipe()
    env = {**RANK, "PMI_FD": str(reader)}
    assert nested.leave_job(env) is not None
    assert env == {}
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_parent_in_which_mpi_runs_is_the_rank(
    has_begun: bool, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = ["/dev/shm/mpich_shm_1_0"] if has_begun else []
    monkeypatch.setattr(local_rank, "shared_memory_of", lambda _pid: segments)
    env = {**RANK, "PMI_FD": connection}
    note = nested.leave_job(env)
    assert (note is not None) == has_begun == (env == {})
    assert not has_begun or f"pid {os.getppid()}, is that rank" in (note or "")
