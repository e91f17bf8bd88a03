"""Commands: run to their end, watched, or in the background while a block runs."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from beside import machine

TIMEOUT_S = 600
POLL_S = 0.02


class BenchmarkError(Exception):
    """A command failed, or printed something else than expected; the message is for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a command printed."""

    command: str
    out: str
    err: str


def run(command: Sequence[str]) -> Output:
    """Runs a command to its end. Raises BenchmarkError if it fails."""
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"{' '.join(command)}: not done after {TIMEOUT_S} s") from error
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if done.returncode != 0:
        tail = "\n".join(err.splitlines()[-5:])
        raise BenchmarkError(f"{' '.join(command)}: exit code {done.returncode}\n{tail}")
    return Output(command=" ".join(command), out=out, err=err)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimes:
    """Seconds from a command's start."""

    first_output_s: float
    exit_s: float


def time_start(command: Sequence[str]) -> StartTimes:
    """When a command printed its first byte to stdout, and when it ended."""
    start_s = time.monotonic()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        first_s = time.monotonic() - start_s
        process.stdout.read()
    if process.returncode != 0 or not first:
        raise BenchmarkError(f"{' '.join(command)}: exit code {process.returncode}, or no output")
    return StartTimes(first_output_s=first_s, exit_s=time.monotonic() - start_s)


def peak_memory_mb(command: Sequence[str]) -> tuple[float, float]:
    """The largest sums of RSS and of PSS over a command's processes, in MB."""
    rss_mb = pss_mb = 0.0
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while process.poll() is None:
            rss, pss = machine.memory_mb(machine.descendants(process.pid))
            rss_mb, pss_mb = max(rss_mb, rss), max(pss_mb, pss)
            time.sleep(POLL_S)
    if process.returncode != 0:
        raise BenchmarkError(f"{' '.join(command)}: exit code {process.returncode}")
    return rss_mb, pss_mb


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens to."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def background(command: Sequence[str], port: int) -> Iterator[None]:
    """A server that runs while the block does, and listens to the port when it begins."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _wait_for(process, port, " ".join(command))
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(process: subprocess.Popen[bytes], port: int, command: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise BenchmarkError(f"{command}: ended with exit code {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(POLL_S)
    raise BenchmarkError(f"{command}: does not listen to port {port} after {TIMEOUT_S} s")


def wait_until_healthy(port: int) -> None:
    """A server of a model listens before it is loaded, and says so by status 503."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise BenchmarkError(f"the server of port {port} is not ready after {TIMEOUT_S} s")
