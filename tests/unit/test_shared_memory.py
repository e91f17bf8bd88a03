"""Room in /dev/shm: checked before ranks start."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeinfer_cli.cli import doctor
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment
from pipeinfer_cli.launch.host import shared_memory
from pipeinfer_cli.launch.host.mpi_info import MpiInfo


def mpi(family: str = "mpich") -> MpiInfo:
    return MpiInfo(kind="wheel", family=family, version="5.0", abi="mpich", path="libmpi.so.12")


def leave(monkeypatch: pytest.MonkeyPatch, n_bytes: int | None) -> None:
    monkeypatch.setattr(shared_memory, "free_bytes", lambda: n_bytes)
    monkeypatch.setattr(shared_memory, "total_bytes", lambda: n_bytes)


@pytest.mark.parametrize(
    ("mib", "n_ranks", "given", "env"),
    [
        (64, 8, {}, {}),
        (63, 8, {}, {"UCX_TLS": "^posix"}),
        (63, 8, {"UCX_TLS": "tcp"}, {"UCX_TLS": "tcp"}),
        (28, 2, {}, {}),
        (27, 2, {}, {"UCX_TLS": "^posix"}),
        (10, 8, {}, {"UCX_TLS": "^posix"}),
        (0, 1, {}, {}),
    ],
)
def test_with_less_room_ucx_uses_another_kind_of_memory(
    mib: int, n_ranks: int, given: dict[str, str], env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    leave(monkeypatch, mib << 20)
    shared_memory.prepare(mpi(), n_ranks, given, among=False)
    assert given == env


@pytest.mark.parametrize(
    ("n_bytes", "words"), [(1 << 20, "/dev/shm has 1.0 MB"), (None, "be written")]
)
def test_too_little_is_refused(
    n_bytes: int | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, n_bytes)
    for among in (False, True):
        with pytest.raises(UserError, match=words):
            shared_memory.prepare(mpi(), 2, {}, among=among)
        shared_memory.prepare(mpi(), 1, {}, among=among)
        shared_memory.prepare(mpi("unknown"), 2, {}, among=among)


def test_what_other_ranks_have_taken_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 1 << 20)
    monkeypatch.setattr(shared_memory, "total_bytes", lambda: 64 << 20)
    env: dict[str, str] = {}
    shared_memory.prepare(mpi(), 2, env, among=True)
    assert env == {"UCX_TLS": "^posix"}


def test_free_bytes(tmp_path: Path) -> None:
    assert (shared_memory.free_bytes(tmp_path) or 0) > 0
    assert shared_memory.free_bytes(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("n_bytes", "n_cores", "verdict"),
    [(1 << 30, 4, "ok"), (4 << 20, 4, "note"), (4 << 20, 2, "ok"), (None, 2, "note")],
)
def test_doctor_has_a_line(
    n_bytes: int | None, n_cores: int, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(monkeypatch, n_bytes)
    monkeypatch.setattr(environment, "affinity", lambda: frozenset(range(n_cores)))
    found = doctor._shared_memory(mpi())
    assert (found.verdict, bool(found.todo)) == (verdict, verdict != "ok")
    assert "/dev/shm" in found.text
