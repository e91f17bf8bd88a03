"""Where we run: alone or under an MPI launcher, on how many cores; and how a launcher is called."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from pathlib import Path

from pipeinfer_cli.engine.config import MAX_CPUS, MAX_THREADS, DraftCores
from pipeinfer_cli.engine.cpu.devices import Device
from pipeinfer_cli.engine.cpu.variants import CpuCode
from pipeinfer_cli.errors import UserError
from pipeinfer_cli.launch.host import cgroup
from pipeinfer_cli.launch.host.cores import SYSTEM_DIR, Core, Cores, cpus_for, divide
from pipeinfer_cli.launch.host.mpi_info import VARIABLE, MpiInfo
from pipeinfer_cli.launch.host.numa import DEFAULT_POLICY, isolated

MAX_HOST_NAME = 63  # bytes; Linux has 64, for which MPICH has no room
# How many ranks the launcher has started on a host.
RANKS_ON_HOST = ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE")
# Step ids from here on are Slurm's own steps (batch script, interactive shell), not srun's.
SLURM_FIRST_SPECIAL_STEP = 0xFFFFFFF0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchEnvironment:
    """What the launcher's environment says about this process."""

    launcher: str | None  # who started it, in words; None: nobody, it is alone
    rank: int = 0
    size: int | None = None  # None: the launcher does not say
    family: str | None = None  # the MPI family that the launcher certainly belongs to

    @property
    def alone(self) -> bool:
        """True if no MPI launcher started this process."""
        return self.launcher is None


ALONE = LaunchEnvironment(launcher=None, size=1)


def detect(env: Mapping[str, str]) -> LaunchEnvironment:
    """Alone or under a launcher. The innermost launcher wins: mpiexec inside a Slurm job."""
    if (rank := _number(env, "OMPI_COMM_WORLD_RANK")) is not None:
        size = _number(env, "OMPI_COMM_WORLD_SIZE")
        return LaunchEnvironment(
            launcher="Open MPI's mpirun", rank=rank, size=size, family="openmpi"
        )
    if (rank := _number(env, "PMI_RANK")) is not None:
        # Slurm's PMI sets PMI_RANK too, and serves any MPI; only hydra sets the local rank.
        hydra = "MPI_LOCALRANKID" in env
        return LaunchEnvironment(
            launcher="MPICH's mpiexec" if hydra else "a PMI launcher",
            rank=rank,
            size=_number(env, "PMI_SIZE"),
            family="mpich" if hydra else None,
        )
    if (rank := _number(env, "PALS_RANKID")) is not None:
        return LaunchEnvironment(
            launcher="PALS's mpiexec", rank=rank, size=_number(env, "PALS_SIZE")
        )
    slurm = _detect_slurm(env)
    if (rank := _number(env, "PMIX_RANK")) is not None:
        size = slurm.size if slurm is not None else None
        return LaunchEnvironment(launcher="a PMIx launcher", rank=rank, size=size)
    if slurm is not None:
        return slurm
    if (rank := _number(env, "MPI_LOCALRANKID")) is not None:
        return LaunchEnvironment(
            launcher="an MPI launcher", rank=rank, size=_number(env, "MPI_LOCALNRANKS")
        )
    return ALONE


def _detect_slurm(env: Mapping[str, str]) -> LaunchEnvironment | None:
    rank, step = _number(env, "SLURM_PROCID"), _number(env, "SLURM_STEP_ID")
    size = _number(env, "SLURM_STEP_NUM_TASKS") or _number(env, "SLURM_NTASKS")
    if rank is None or step is None or step >= SLURM_FIRST_SPECIAL_STEP:
        return None
    # A step of one task is someone's interactive shell more often than a job of one rank.
    return (
        LaunchEnvironment(launcher="srun", rank=rank, size=size)
        if size is not None and size > 1
        else None
    )


def is_srun_step(env: Mapping[str, str]) -> bool:
    """Whether srun has started this process itself, as one of several."""
    is_others = "MPI_LOCALRANKID" in env or "OMPI_COMM_WORLD_RANK" in env  # which srun may start
    return not is_others and _detect_slurm(env) is not None


def _number(env: Mapping[str, str], name: str) -> int | None:
    value = env.get(name, "").strip()
    return int(value) if value.isdecimal() else None


def ranks_on_host(env: Mapping[str, str]) -> int:
    """How many ranks the launcher has started on this host; 1 where it does not say."""
    return next(filter(None, (_number(env, name) for name in RANKS_ON_HOST)), 1)


def affinity() -> frozenset[int]:
    """The CPUs that this process may use."""
    return frozenset(os.sched_getaffinity(0))


def isolate(
    index: int, masks: Sequence[frozenset[int]], started_on: Sequence[int]
) -> list[frozenset[int]]:
    """The masks of a host's ranks in a NUMA node each; from now on, ours: of the one at `index`."""
    found = isolated(masks, started_on, Cores.read())
    os.sched_setaffinity(0, found[index])
    return found


@contextmanager
def same_affinity() -> Iterator[None]:
    """After the block, this thread may use the CPUs that it could use before."""
    before = affinity()
    try:
        yield
    finally:
        if affinity() != before:
            os.sched_setaffinity(0, before)


def cpu_quota(n: int, n_ranks: int) -> float | None:
    """In cores, what n ranks may use of their control group's, which n_ranks share; None: none."""
    quota = cgroup.limits().cpus
    return None if quota is None else quota * n / n_ranks


def usable_cores() -> int:
    """How many of them it may keep busy: a CPU quota may allow fewer, rounded down."""
    return within_quota(len(affinity()), cgroup.limits().cpus)


def within_quota(n_cores: int, quota: float | None) -> int:
    """So many cores, or the whole ones that the quota allows; at least one.

    With a thread more than that, all of them would wait for the one that the kernel suspends.
    """
    return n_cores if quota is None else max(1, min(n_cores, int(quota)))


def default_ranks(system_dir: Path = SYSTEM_DIR, cpus: frozenset[int] | None = None) -> int:
    """One rank per NUMA node that has CPUs of ours, at least one, and as many as may be busy.

    Without speculation several local ranks do not make one request faster, so that more are
    the user's choice.
    """
    mask = affinity() if cpus is None else cpus
    return within_quota(len(Cores.read(system_dir).nodes_of(mask)), cgroup.limits().cpus)


def format_cpulist(cpus: Iterable[int]) -> str:
    """Inverse of `parse_cpulist`: `0-3,8`."""
    parts = []
    # numbers that follow one another have the same distance from their places
    for _, group in groupby(enumerate(sorted(cpus)), key=lambda each: each[1] - each[0]):
        numbers = [cpu for _, cpu in group]
        ends = numbers[:1] if len(numbers) == 1 else [numbers[0], numbers[-1]]
        parts.append("-".join(map(str, ends)))
    return ",".join(parts)


def default_threads(
    sharers: int, env: Mapping[str, str] | None = None, *, n_ranks: int | None = None
) -> int:
    """Threads per rank: OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, or an even share of our cores.

    At most MAX_THREADS. `sharers` are the ranks that may use them, this one included, and n_ranks
    all those that share a CPU quota; None: the same.
    """
    env = os.environ if env is None else env
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        # OMP_NUM_THREADS may be a list, one number per nesting level.
        count = _number({name: env.get(name, "").split(",")[0]}, name)
        if count:
            return min(count, MAX_THREADS)
    quota = cpu_quota(sharers, n_ranks or sharers)
    return min(max(1, within_quota(len(affinity()), quota) // sharers), MAX_THREADS)


def job_id(env: Mapping[str, str]) -> str | None:
    """The batch system's number of this job, for what it writes; None outside of one."""
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID"):
        if value := env.get(name, "").strip():
            return value
    return None


def job_mark(env: Mapping[str, str]) -> dict[str, str]:
    """The same as an entry of a JSON object; nothing outside of a job."""
    found = job_id(env)
    return {} if found is None else {"job_id": found}


def unused_tasks(env: Mapping[str, str]) -> str | None:
    """What a process hears that is alone in a job of several tasks or nodes; None if it is not."""
    n_tasks = _number(env, "SLURM_NTASKS") or _number(env, "SLURM_JOB_NUM_NODES") or 1
    if "SLURM_JOB_ID" in env and n_tasks > 1:
        return f"this Slurm job has {n_tasks} tasks or nodes, but srun was not used: one host works"
    hosts = nodefile_hosts(env)
    if len(hosts) > 1:
        return f"this PBS job has {len(hosts)} hosts, but mpiexec was not used: one of them works"
    return None


def nodefile_hosts(env: Mapping[str, str]) -> list[str]:
    """The hosts of a PBS job, each once."""
    try:
        return list(dict.fromkeys(Path(env.get("PBS_NODEFILE", "")).read_text().split()))
    except OSError:
        return []


@dataclass(frozen=True, slots=True, kw_only=True)
class RankResources:
    """Where a rank runs, and with how many compute threads."""

    host: str
    n_threads: int
    cpu: CpuCode | None = None  # that it computes with
    # Resources are alike if host, threads and code are.
    cpus: frozenset[int] = field(default=frozenset(), compare=False)  # that it may use
    n_sharers: int = field(default=1, compare=False)  # ranks that may use some of them, with this
    cpu_quota: float | None = field(default=None, compare=False)  # in cores, of the sharers
    devices: tuple[Device, ...] = field(default=(), compare=False)  # that it could compute with
    memory_bytes: int | None = field(default=None, compare=False)  # see Memory.usable_bytes
    # Its CPUs by core, if no other rank may use them and threads are to be bound to them.
    cores: tuple[Core, ...] = field(default=(), compare=False)
    # NUMA nodes by CPU, if memory is to be that of the threads' nodes; empty: as it comes.
    node_of: Mapping[int, int] = field(default_factory=dict, compare=False)

    @classmethod
    def take(cls, n_threads: int | None, masks: Sequence[frozenset[int]]) -> RankResources:
        """This process's; `masks` are the cores of each of the job's ranks on this host."""
        cpus = affinity()
        n_sharers = max(1, sum(bool(cpus & each) for each in masks))
        n_ranks = max(1, len(masks))  # on the host: all are in one control group
        return cls(
            host=socket.gethostname(),
            n_threads=n_threads or default_threads(n_sharers, n_ranks=n_ranks),
            cpus=cpus,
            n_sharers=n_sharers,
            cpu_quota=cpu_quota(n_sharers, n_ranks),
            memory_bytes=memory().usable_bytes,
        )

    def with_own_cores(
        self,
        index: int,
        ranks: Sequence[RankResources],
        *,
        must: bool = True,
        host: Cores | None = None,
    ) -> RankResources:
        """The same with a part of the cores that it shares with others, if there are enough.

        It is the one at `index` among the ranks of its host. Where their masks overlap without
        being equal, somebody has a plan that is not ours, and nothing is divided; nor, unless it
        `must`, where parts would share a NUMA node. `host` None: as the kernel describes it.
        """
        sharers = [i for i, each in enumerate(ranks) if each.cpus & self.cpus]
        if any(ranks[i].cpus != self.cpus for i in sharers):
            return self
        n_threads = [ranks[i].n_threads for i in sharers]
        host = Cores.read() if host is None else host
        parts = divide(host.of(self.cpus), n_threads)
        if parts is None or sum(n_threads) > self.n_cores or max(self.cpus) >= MAX_CPUS:
            return self
        if not (must or host.have_own_nodes(parts)):
            return self
        part = parts[sharers.index(index)]
        quota = self.cpu_quota
        return replace(
            self,
            cpus=frozenset(chain.from_iterable(part)),
            n_sharers=1,
            cpu_quota=None if quota is None else quota * self.n_threads / sum(n_threads),
            cores=part,
        )

    def with_memory(self, numa: str, host: Cores, policy: str) -> RankResources:
        """The same with memory as --numa has it; `policy`: see numa.memory_policy.

        On a host of one node, all memory is near.
        """
        is_theirs = numa == "numactl" or (numa == "auto" and policy != DEFAULT_POLICY)
        if is_theirs or host.n_nodes == 1:
            return self
        return replace(self, node_of={cpu: host.node_of(cpu) for cpu in self.cpus})

    def memory_nodes(self, cpus: Iterable[int] = ()) -> tuple[int, ...]:
        """Whose memory threads on these CPUs are to have; none: as it comes. No CPUs: all."""
        found = {self.node_of.get(cpu) for cpu in set(cpus) or self.cpus}
        return tuple(sorted(node for node in found if node is not None))

    @property
    def n_cores(self) -> int:
        """How many of its cores the rank may keep busy, with the others that share them."""
        return within_quota(len(self.cpus), self.cpu_quota)

    @property
    def has_own_cores(self) -> bool:
        """Whether there is a core for each thread, with other ranks' threads on theirs."""
        return self.n_cores >= self.n_sharers * self.n_threads

    def stage_cpus(self, n_draft: int = 0) -> tuple[int, ...]:
        """What the threads of the layers are bound to; none if they are not.

        `n_draft` threads of a draft model compute beside them, on cores of their own.
        """
        parts = divide(self.cores, [self.n_threads, n_draft]) or [self.cores]
        return cpus_for(parts[0], self.n_threads)

    def draft_cores(self, n_threads: int | None, *, beside_layers: bool) -> DraftCores:
        """Where a draft model computes in this rank, with as many threads as asked for, if any.

        Without layers, all of the rank's threads are its. Beside layers it gets the cores that
        they leave of this rank's share, at most as many as they have; if they leave none, it has
        all of theirs, and the two compute in turn.
        """
        n_left = max(1, self.n_cores // self.n_sharers) - self.n_threads
        if not beside_layers:
            n_threads = n_threads or self.n_threads
            cpus = cpus_for(self.cores, n_threads)
            return DraftCores(
                n_threads=n_threads,
                has_own_cores=self.has_own_cores,
                cpus=cpus,
                nodes=self.memory_nodes(cpus),
            )
        if n_threads is None:
            n_threads = min(n_left, self.n_threads) if n_left > 0 else self.n_threads
        shares_cores = n_threads > n_left
        parts = None if shares_cores else divide(self.cores, [self.n_threads, n_threads])
        cpus = cpus_for(parts[1] if parts else self.cores, n_threads)
        return DraftCores(
            n_threads=n_threads,
            shares_cores=shares_cores,
            has_own_cores=self.has_own_cores,
            cpus=cpus,
            nodes=self.memory_nodes(cpus),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """The mpiexec of the MPI that we use."""

    mpiexec: str
    family: str
    mpi: str | None = None  # what the ranks are told to use: see MpiInfo.name

    @classmethod
    def of(cls, mpi: MpiInfo) -> Launcher:
        """UserError if the MPI has no mpiexec here (a cluster with srun only), or cannot start."""
        if mpi.mpiexec is None:
            raise UserError(
                f"there is no mpiexec of {mpi} ({mpi.path}) to start local ranks with: "
                "start pipeinfer with your launcher (srun, mpirun), or give --ranks 1"
            )
        check_host_name(mpi)
        return cls(mpiexec=mpi.mpiexec, family=mpi.family, mpi=mpi.name)

    def command(self, ranks: int, program: Sequence[str]) -> list[str]:
        """Starts `ranks` copies of `program` on this host, unbound, more than cores if asked."""
        options = ["-n", str(ranks)]
        if self.family == "openmpi":
            options += ["--host", f"localhost:{ranks}", "--oversubscribe", "--bind-to", "none"]
            if os.geteuid() == 0:
                options.append("--allow-run-as-root")
        elif self.family == "mpich":
            # Inside a batch job hydra would take the job's nodes and its remote launcher.
            options += ["-launcher", "fork", "-rmk", "user", "-hosts", "localhost"]
        return [self.mpiexec, *options, *program]

    def environment(self) -> dict[str, str]:
        """Variables: the ranks' MPI is the launcher's, and no rank is bound to cores."""
        return {"I_MPI_PIN": "off", **({VARIABLE: self.mpi} if self.mpi else {})}


def check_host_name(mpi: MpiInfo) -> None:
    """UserError if MPI would not start on a host of this name."""
    name = socket.gethostname()
    n_bytes = len(os.fsencode(name))
    if mpi.family == "mpich" and n_bytes > MAX_HOST_NAME:
        raise UserError(
            f"the host name {name!r} has {n_bytes} bytes, and MPICH starts with at most "
            f"{MAX_HOST_NAME}: give the host a shorter name, or use --ranks 1"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A host's, in bytes."""

    total_bytes: int
    available_bytes: int  # without swapping
    limit_bytes: int | None  # of our control group

    @property
    def usable_bytes(self) -> int:
        """What we may use of all that there is."""
        limit = self.total_bytes if self.limit_bytes is None else self.limit_bytes
        return min(self.total_bytes, limit)


def memory() -> Memory:
    """This host's."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    total, available = (int(fields[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
    return Memory(
        total_bytes=total, available_bytes=available, limit_bytes=cgroup.limits().memory_bytes
    )


def resident_bytes() -> int:
    """This process's resident set."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def is_mpi_running() -> bool:
    """Whether this process has started MPI, and not ended it."""
    module = sys.modules.get("mpi4py.MPI")
    return module is not None and module.Is_initialized() and not module.Is_finalized()
