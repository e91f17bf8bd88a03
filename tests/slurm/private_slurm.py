"""A Slurm of our own on this machine: munged, slurmctld and slurmd in a private folder.

Needs root and the programs (Debian: slurmctld slurmd slurm-client munge; libpmix-dev for pmix). Its
only node is this machine, or its nodes are hosts of tests/hosts/netns.py, each with a slurmd of its
own. Nothing outside of the folder is written; the daemons end with the block.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from netns import Hosts

DAEMONS = ("munged", "slurmctld", "slurmd")
START_S = 30.0

CONF = """\
ClusterName=private
SlurmctldHost={head}({head_address})
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
TmpFS={folder}/tmp-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
MpiDefault=none
ReturnToService=2
KillWait=5
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""


@dataclass(frozen=True)
class Slurm:
    """Commands of the cluster."""

    folder: Path
    env: Mapping[str, str]
    hosts: Hosts | None

    def on(self, number: int, *command: str) -> list[str]:
        """The command on one of the hosts."""
        return list(command) if self.hosts is None else self.hosts.command(number, *command)

    def run(
        self, *command: str, timeout_s: float = 60, **env: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.on(1, *command),
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def batch(self, script: Path, *options: str, timeout_s: float = 90, **env: str) -> Job:
        """Submits a script and waits for its end."""
        where = f"--chdir={self.folder}"
        done = self.run("sbatch", "--parsable", where, *options, str(script), **env)
        job_id = done.stdout.strip()
        assert job_id.isdecimal(), (done.stdout, done.stderr, self.logs())
        return Job(
            job_id=job_id,
            code=self._wait(job_id, time.monotonic() + timeout_s),
            out=(self.folder / f"pipeinfer-{job_id}.txt").read_text(),
            err=(self.folder / f"pipeinfer-{job_id}.log").read_text(),
        )

    def _wait(self, job_id: str, deadline_s: float) -> int:
        """The job's exit code, as a shell says it. (`sbatch --wait` looks ever more seldom.)"""
        while time.monotonic() < deadline_s:
            shown = self.run("scontrol", "--oneliner", "show", "job", job_id).stdout
            found = re.search(r"JobState=(\w+).* ExitCode=(\d+):(\d+)", shown)
            assert found, shown
            if found[1] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"):
                return int(found[2]) or (128 + int(found[3]) if int(found[3]) else 0)
            time.sleep(0.2)
        raise AssertionError(f"the job does not end: {shown}\n{self.logs()}")

    def logs(self) -> str:
        """What the daemons said last."""
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-2000:]}" for path in self.folder.glob("*.log")
        )


@dataclass(frozen=True)
class Job:
    """How a batch job ended."""

    job_id: str
    code: int
    out: str
    err: str


def missing() -> list[str]:
    """What this machine lacks for it."""
    lacks = [name for name in (*DAEMONS, "sbatch", "srun") if find(name) is None]
    return lacks + ([] if os.geteuid() == 0 else ["root"])


def find(name: str) -> str | None:
    """The program; daemons are not in everyone's PATH."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def active(folder: Path, hosts: Hosts | None = None) -> Iterator[Slurm]:
    """Starts the daemons in the folder; the value takes jobs while the block runs."""
    folder.chmod(0o755)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    nodes = {socket.gethostname().partition(".")[0]: "127.0.0.1"}
    if hosts is not None:
        nodes = {f"host{number}": hosts.address(number) for number in hosts.numbers}
    for node in nodes:  # PMIx makes folders there that may not meet
        (folder / f"tmp-{node}").mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(configuration(folder, nodes))
    # None are used. Left to itself, slurmd would look for them in /sys, where a namespace has none.
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    env = os.environ if hosts is None else hosts.environment()
    slurm = Slurm(folder=folder, env={**env, "SLURM_CONF": str(conf)}, hosts=hosts)
    munge = [f"--{name}={folder}/munge.{name.removesuffix('-file')}"
             for name in ("socket", "key-file", "pid-file", "log-file", "seed-file")]  # fmt: skip
    with contextlib.ExitStack() as stack:
        daemons = [
            stack.enter_context(_daemon(slurm, 1, "munged", "--foreground", "--force", *munge))
        ]
        wait_until((folder / "munge.socket").exists, daemons, slurm)
        daemons.append(stack.enter_context(_daemon(slurm, 1, "slurmctld", "-D")))
        daemons += [
            stack.enter_context(_daemon(slurm, number, "slurmd", "-D"))
            for number in range(1, len(nodes) + 1)
        ]
        idle = ["idle"] * len(nodes)
        wait_until(
            lambda: slurm.run("sinfo", "-N", "-h", "-o", "%T").stdout.split() == idle,
            daemons,
            slurm,
        )
        yield slurm
        slurm.run("scancel", "--full", "--user=root")


def configuration(folder: Path, nodes: Mapping[str, str]) -> str:
    """slurm.conf for nodes with these addresses; the first one is the controller's."""
    ctld_port, slurmd_port = free_ports(2)
    head, head_address = next(iter(nodes.items()))
    return CONF.format(
        folder=folder,
        ctld_port=ctld_port,
        slurmd_port=slurmd_port,
        head=head,
        head_address=head_address,
        nodes="\n".join(
            f"NodeName={name} NodeAddr={address} CPUs={os.cpu_count()} State=UNKNOWN"
            for name, address in nodes.items()
        ),
    )


@contextlib.contextmanager
def _daemon(
    slurm: Slurm, number: int, name: str, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    program = find(name)
    assert program is not None
    with (slurm.folder / f"{name}-{number}.stderr.log").open("wb") as log:
        process = subprocess.Popen(
            slurm.on(number, program, *options),
            env=slurm.env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def wait_until(
    is_true: Callable[[], bool],
    daemons: Sequence[subprocess.Popen[bytes]],
    slurm: Slurm,
    *,
    timeout_s: float = START_S,
) -> None:
    """Fails with all logs if one of the daemons ends, or it takes too long."""
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        for daemon in daemons:
            assert daemon.poll() is None, f"{daemon.args!r} has ended:\n{slurm.logs()}"
        assert time.monotonic() < deadline_s, slurm.logs()
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
