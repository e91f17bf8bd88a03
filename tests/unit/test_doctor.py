"""What doctor finds, with programs and libraries made up for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeinfer_cli.cli import doctor
from pipeinfer_cli.cli.doctor import Check
from pipeinfer_cli.engine import build_info
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment
from pipeinfer_cli.launch.host import cgroup
from pipeinfer_cli.launch.host.cgroup import Limits
from pipeinfer_cli.launch.host.mpi_info import MpiInfo
from pipeinfer_cli.models import resolve

HYDRA = "HYDRA build details:\n    Version:                                 5.0.2\n"
OPEN_MPI = "mpirun (Open MPI) 4.1.4\n"


def program(path: Path, says: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{says}END\n")
    path.chmod(0o755)
    return str(path)


def mpi(mpiexec: str | None, family: str = "mpich", version: str = "5.0.2") -> MpiInfo:
    return MpiInfo(
        kind="system",
        family=family,
        version=version,
        abi="mpich",
        path="/l/libmpi.so",
        mpiexec=mpiexec,
    )


@pytest.mark.parametrize(
    ("says", "family", "version", "verdict"),
    [
        (HYDRA, "mpich", "5.0.2", "ok"),
        (HYDRA, "mpich", "4.3.0", "note"),
        (OPEN_MPI, "openmpi", "4.1.4", "ok"),
        (OPEN_MPI, "mpich", "5.0.2", "not ok"),
        (HYDRA, "openmpi", "5.0.2", "not ok"),
        ("A launcher of nobody knows whom, Version 2021.16", "intel", "2021.19.0", "note"),
    ],
)
def test_launcher(tmp_path: Path, says: str, family: str, version: str, verdict: str) -> None:
    info = mpi(program(tmp_path / "mpiexec", says), family, version)
    assert doctor._launcher(info).verdict == verdict


@pytest.mark.parametrize(
    ("asked", "todo"), [("", "pip install mpich"), ("mipch", "unset PIPEINFER_MPI, or name")]
)
def test_no_mpi(asked: str, todo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> MpiInfo:
        raise UserError("there is no MPI")

    monkeypatch.setattr(doctor.mpi_choice, "choose", none)
    monkeypatch.setenv("PIPEINFER_MPI", asked)
    (check,) = doctor._mpi()
    assert not check.ok and check.todo.startswith(todo)


def test_no_launcher_is_no_obstacle() -> None:
    assert doctor._launcher(mpi(None)).verdict == "note"


def test_a_foreign_mpiexec_first_in_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = program(tmp_path / "ours" / "mpiexec", HYDRA)
    program(tmp_path / "foreign" / "mpiexec", OPEN_MPI)
    monkeypatch.setenv("PATH", f"{tmp_path}/foreign:{tmp_path}/ours:/usr/bin:/bin")
    found = doctor._foreign_mpiexec(mpi(ours))
    assert (found.verdict, "openmpi" in found.text, ours in found.todo) == ("note", True, True)
    monkeypatch.setenv("PATH", f"{tmp_path}/ours:{tmp_path}/foreign:/usr/bin:/bin")
    assert doctor._foreign_mpiexec(mpi(ours)).ok


def whole() -> dict[str, Any]:
    return {
        "upstream": {"package": "llama-cpp-python", "version": "9.9.9", "sha256": "0"},
        "patches": [{"name": "0001-x.patch", "sha256": "0"}],
        "compiler": "g++",
        "ggml_options": {"GGML_NATIVE": True},
        "build_type": "Release",
    }


def write(tmp_path: Path, data: object) -> None:
    (tmp_path / "build.json").write_text(json.dumps(data))


def test_build_info(tmp_path: Path) -> None:
    write(tmp_path, whole())
    assert build_info.load(tmp_path).patches == ("0001-x.patch",)


@pytest.mark.parametrize("data", [[], {}, {**whole(), "upstream": {}}, "text", None])
def test_a_damaged_build_info(tmp_path: Path, data: object) -> None:
    write(tmp_path, data)
    with pytest.raises(UserError, match=r"is damaged.*install the package again"):
        build_info.load(tmp_path)


def test_no_build_info(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="native library is not installed"):
        build_info.load(tmp_path)


def test_without_the_library_generation_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_info, "LIB_DIR", tmp_path)
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path))
    assert doctor.run() == 1
    out = capsys.readouterr().out
    assert "not ok  library: " in out
    assert "what to do: " in out
    assert "\x1b" not in out


def test_bindings_of_another_version(tmp_path: Path) -> None:
    write(tmp_path, whole())
    found = doctor._bindings(build_info.load(tmp_path))
    assert found.verdict == "not ok"
    assert "9.9.9" in found.todo


def test_what_nobody_foresaw_is_a_finding() -> None:
    def broken() -> Check:
        raise OSError("odd\nthing")

    assert doctor._guarded("x", broken) == Check(
        name="x", ok=False, text="odd thing", todo="pip install pipeinfer again"
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("pass", ""),
        ("raise ValueError('no good')", "no good"),
        ("import os; os.abort()", "killed by signal 6"),
        ("import os; os._exit(3)", "exit code 3"),
    ],
)
def test_probe(code: str, said: str) -> None:
    assert doctor._probe(code) == said


def test_the_cache_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path / "c"))
    assert doctor._cache().text == f"{tmp_path}/c/models: empty"
    model = resolve.find("smollm2")
    with model.cache_path.open("wb") as file:
        file.truncate(model.size_bytes)
    assert doctor._cache().text.endswith("smollm2")
    (tmp_path / "file").touch()
    monkeypatch.setenv("PIPEINFER_CACHE", str(tmp_path / "file"))
    assert doctor._cache().verdict == "note"


@pytest.mark.parametrize(
    ("types", "family", "verdict"),
    [
        ("none\n\tpmi2\n\tcray_shasta", "mpich", "ok"),
        ("none\n\tcray_shasta", "mpich", "note"),
        ("none\n\tpmix_v4\n\tpmi2", "openmpi", "ok"),
        ("none\n\tpmi2", "openmpi", "note"),
    ],
)
def test_srun_and_the_mpi_that_it_can_start(
    types: str, family: str, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "srun" / "srun", f"MPI plugin types are...\n\t{types}\n")
    monkeypatch.setenv("PATH", f"{tmp_path}/srun:/usr/bin:/bin")
    found = doctor._srun(mpi(None, family))
    assert found.verdict == verdict
    assert mpi(None, family).srun_type in found.text


@pytest.mark.parametrize(
    ("env", "ok", "words"),
    [
        ({}, True, "none"),
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "2"},
            False,
            "Slurm job 7: 2 node(s), 4 task(s)",
        ),
        (
            {
                "SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "PMI_RANK": "1", "PMI_SIZE": "4",
                "PMI_FD": "5",
            },
            True,
            "rank 1 of 4 of a PMI launcher, which speaks PMI",
        ),
        ({"PBS_JOBID": "3.s"}, True, "PBS job 3.s: ? host(s)"),
    ],
)  # fmt: skip
def test_job(env: dict[str, str], ok: bool, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    found = doctor._job()
    assert (found.ok, words in found.text) == (ok, True), found


@pytest.mark.parametrize(
    ("n_usable", "quota", "verdict", "words"),
    [
        (8, None, "ok", "8 of 8 usable (0-7); default: 1 rank(s), 8 thread(s) each"),
        (
            8,
            2.5,
            "note",
            "8 of 8 usable (0-7), 2.5 by the CPU quota of the control group; default: ",
        ),
        (8, 64.0, "ok", "8 of 8 usable (0-7); default"),
        (4, None, "note", "4 of 8 usable (0-3); default"),
    ],
)
def test_cores(
    n_usable: int, quota: float | None, verdict: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "affinity", lambda: frozenset(range(n_usable)))
    monkeypatch.setattr(environment, "default_ranks", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cgroup, "limits", lambda: Limits(cpus=quota))
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    found = doctor._cores()
    assert found.text.startswith(words)
    assert (found.verdict, bool(found.todo)) == (verdict, verdict != "ok")


def test_memory_that_a_control_group_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "limits", lambda: Limits(memory_bytes=5_000_000))
    assert doctor._memory().text.endswith("available, 5.0 MB at most by the control group")
    monkeypatch.setattr(cgroup, "limits", Limits)
    assert doctor._memory().text.endswith("available")
