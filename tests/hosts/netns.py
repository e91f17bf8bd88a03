"""Hosts that are network namespaces: addresses and names of their own, delayed and slow links.

Needs root, iproute2 and /dev/net/tun. Where the kernel has tc's netem, a bridge and it make the
network; elsewhere tests/hosts/switch.py. Nothing of it is left when the block ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
NETWORK = "10.77.0."
COMMAND_S = 20.0


@dataclass(frozen=True)
class Network:
    """What every host's link does to what the host sends."""

    delay_ms: float = 1.0
    gbit_per_s: float = 1.0


@dataclass(frozen=True)
class Hosts:
    """The hosts 1, 2, ...; the first one is where jobs are started."""

    prefix: str  # of the namespaces' names; their numbers follow
    numbers: Sequence[int]
    made_by: str  # netem or switch

    def address(self, number: int) -> str:
        return f"{NETWORK}{number}"

    def command(self, number: int, *command: str) -> list[str]:
        """Runs a command on a host."""
        return [
            *("ip", "netns", "exec", f"{self.prefix}{number}", "unshare", "--uts", "--ipc"),
            *("sh", "-c", 'hostname "$0"; exec "$@"', f"host{number}", *command),
        ]

    def environment(self, **more: str) -> dict[str, str]:
        """With it, hydra starts ranks on the hosts, and MPI uses their network alone."""
        return {
            **os.environ,
            "HOSTS_PREFIX": self.prefix,
            "HYDRA_LAUNCHER": "ssh",
            "HYDRA_LAUNCHER_EXEC": str(HERE / "remote_shell"),
            "HYDRA_IFACE": "eth0",
            "UCX_TLS": "tcp,self",  # the kernel is one: memory could be shared after all
            "UCX_NET_DEVICES": "eth0",
            **more,
        }

    def cut(self, number: int) -> None:
        """Takes the host's link down."""
        call("ip", "-n", f"{self.prefix}{number}", "link", "set", "eth0", "down")

    def mend(self, number: int) -> None:
        """Ends what runs anywhere, and takes the link up again."""
        end_all(self)
        call("ip", "-n", f"{self.prefix}{number}", "link", "set", "eth0", "up")

    def sent_bytes(self, number: int) -> int:
        """What the host has sent so far."""
        counter = "/sys/class/net/eth0/statistics/tx_bytes"
        return int(call("ip", "netns", "exec", f"{self.prefix}{number}", "cat", counter))

    def processes(self) -> list[int]:
        """What runs on any host."""
        return [
            int(pid)
            for number in self.numbers
            for pid in call("ip", "netns", "pids", f"{self.prefix}{number}").split()
        ]


def missing() -> list[str]:
    """What this machine lacks for it."""
    lacks = [name for name in ("ip", "tc", "unshare") if shutil.which(name) is None]
    lacks += [] if Path("/dev/net/tun").exists() else ["/dev/net/tun"]
    return lacks + ([] if os.geteuid() == 0 else ["root"])


@contextlib.contextmanager
def hosts(count: int, network: Network) -> Iterator[Hosts]:
    """Makes them; ends what runs there, and removes them."""
    prefix = f"pi{os.getpid()}h"
    with contextlib.ExitStack() as stack:
        has_netem = knows_netem()
        made = Hosts(
            prefix=prefix,
            numbers=range(1, count + 1),
            made_by="netem" if has_netem else "switch",
        )
        for number in made.numbers:
            call("ip", "netns", "add", f"{prefix}{number}")
            stack.callback(call, "ip", "netns", "delete", f"{prefix}{number}")
        stack.callback(end_all, made)
        stack.enter_context((_netem if has_netem else _switch)(made, network))
        for number in made.numbers:
            inside = ("ip", "-n", f"{prefix}{number}")
            call(*inside, "address", "add", f"{made.address(number)}/24", "dev", "eth0")
            call(*inside, "link", "set", "lo", "up")
            call(*inside, "link", "set", "eth0", "up")
        yield made


def knows_netem() -> bool:
    """Whether the kernel has the queueing discipline."""
    name = f"pi{os.getpid()}try"
    call("ip", "netns", "add", name)
    try:
        command = ["tc", "-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        return subprocess.run(command, capture_output=True, timeout=COMMAND_S).returncode == 0
    finally:
        call("ip", "netns", "delete", name)


@contextlib.contextmanager
def _netem(made: Hosts, network: Network) -> Iterator[None]:
    """Links of a bridge in a namespace of its own, with which they go."""
    middle = f"{made.prefix}0"
    call("ip", "netns", "add", middle)
    try:
        call("ip", "-n", middle, "link", "add", "bridge0", "type", "bridge")
        call("ip", "-n", middle, "link", "set", "bridge0", "up")
        for number in made.numbers:
            name, port = f"{made.prefix}{number}", f"port{number}"
            peer = ("peer", "name", "eth0", "netns", name)
            call("ip", "-n", middle, "link", "add", port, "type", "veth", *peer)
            call("ip", "-n", middle, "link", "set", port, "master", "bridge0", "up")
            how = ("delay", f"{network.delay_ms}ms", "rate", f"{network.gbit_per_s}gbit")
            call("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", "netem", *how)
        yield
    finally:
        call("ip", "netns", "delete", middle)


@contextlib.contextmanager
def _switch(made: Hosts, network: Network) -> Iterator[None]:
    devices = [f"{made.prefix}t{number}" for number in made.numbers]
    options = (str(network.delay_ms), str(network.gbit_per_s), *devices)
    with subprocess.Popen(
        [sys.executable, str(HERE / "switch.py"), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            for number, device in zip(made.numbers, devices, strict=True):
                into = ("netns", f"{made.prefix}{number}", "name", "eth0")
                call("ip", "link", "set", "dev", device, *into)
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()


def end_all(made: Hosts) -> None:
    """Kills what runs on any host."""
    deadline_s = time.monotonic() + COMMAND_S
    while (pids := made.processes()) and time.monotonic() < deadline_s:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def call(*command: str) -> str:
    """The command's stdout; a failure shows its stderr."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
