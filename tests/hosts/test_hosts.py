"""Ranks on several hosts: the same text over slow links, and an end when a link goes down."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import netns
from support import PROMPTS, TESTS, check_output, pipeinfer, smollm2

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif("TEST_HOSTS" not in os.environ, reason="needs root: make test-hosts"),
]

EXAMPLES = TESTS.parent / "examples"
N_HOSTS = 3
NETWORK = netns.Network(delay_ms=1.0, gbit_per_s=1.0)
PROMPT = PROMPTS[1]
OPTIONS = ["-n", "24", "-c", "256", "-t", "1"]
N_EMBD = 576  # of SmolLM2-135M
TIMEOUT_S = 5.0
END_S = 15.0  # from the cut to the end of every process, with the timeout


@pytest.fixture(scope="module")
def hosts() -> Iterator[netns.Hosts]:
    lacks = netns.missing()
    assert not lacks, f"this machine lacks: {', '.join(lacks)}"
    with netns.hosts(N_HOSTS, NETWORK) as made:
        yield made


def environment(hosts: netns.Hosts, *options: str, **more: str) -> dict[str, str]:
    """For the scripts of examples/."""
    return hosts.environment(
        VENV=sys.prefix, MODEL=str(smollm2()), OPTIONS=" ".join(options), **more
    )


def host_file(hosts: netns.Hosts, path: Path) -> str:
    path.write_text("".join(f"{hosts.address(number)}\n" for number in hosts.numbers))
    return str(path)


ECHO = "import socket; s = socket.create_server(('', 5000)); c, _ = s.accept(); c.send(c.recv(1))"
ASK = """
import socket, sys, time
for attempt in range(100):
    try:
        s = socket.create_connection((sys.argv[1], 5000), 5)
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
start_s = time.monotonic(); s.send(b"x"); s.recv(1); print(time.monotonic() - start_s)
"""


def test_links_are_delayed(hosts: netns.Hosts) -> None:
    with subprocess.Popen(hosts.command(2, sys.executable, "-c", ECHO)) as server:
        took_s = check_output(hosts.command(1, sys.executable, "-c", ASK, hosts.address(2)))
        assert server.wait(10) == 0
    assert float(took_s) >= 2 * NETWORK.delay_ms / 1e3


@pytest.mark.parametrize("script", ["hosts.sh", "pbs.sh"])
def test_tokens_are_those_of_one_process(hosts: netns.Hosts, script: str, tmp_path: Path) -> None:
    one = ["generate", "-m", str(smollm2()), *OPTIONS, "--format", "json", "--ranks", "1", PROMPT]
    alone = json.loads(check_output(pipeinfer(*one)))
    listed = host_file(hosts, tmp_path / "hosts")
    env = environment(hosts, *OPTIONS, "--format", "json", "--timeout", "30")
    arguments = [listed, PROMPT]
    if script == "pbs.sh":
        env |= {"PBS_NODEFILE": listed, "PBS_JOBID": "7.here", "PROMPT": PROMPT}
        arguments = []
    before = [hosts.sent_bytes(number) for number in hosts.numbers]
    done = subprocess.run(
        hosts.command(1, str(EXAMPLES / script), *arguments),
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["tokens"] == alone["tokens"]
    assert answer.get("job_id") == ("7.here" if script == "pbs.sh" else None)
    placed = re.findall(r"^pipeinfer: (\d)  +(host\d) ", done.stderr, re.MULTILINE)
    assert placed == [("0", "host1"), ("1", "host2"), ("2", "host3")]
    sent = [
        hosts.sent_bytes(number) - was for number, was in zip(hosts.numbers, before, strict=True)
    ]
    n_positions = answer["n_prompt"] + len(answer["tokens"]) - 1
    # hidden states went over the links of all hosts but the last one's
    assert min(sent[:-1]) > n_positions * N_EMBD * 4, sent


@pytest.mark.parametrize("number", [2, 3])
def test_a_link_that_goes_down_ends_the_job(
    hosts: netns.Hosts, number: int, tmp_path: Path
) -> None:
    options = ["-n", "3000", "-c", "3500", "-t", "1", "--ignore-eos", "--timeout", f"{TIMEOUT_S:g}"]
    listed = host_file(hosts, tmp_path / "hosts")
    job = subprocess.Popen(
        hosts.command(1, str(EXAMPLES / "hosts.sh"), listed, PROMPT),
        env=environment(hosts, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        assert job.stdout is not None
        assert job.stdout.read(1)
        hosts.cut(number)
        cut_s = time.monotonic()
        out, err = job.communicate(timeout=END_S)
        while hosts.processes() and time.monotonic() < cut_s + END_S:
            time.sleep(0.1)
        left = hosts.processes()
        took_s = time.monotonic() - cut_s
    finally:
        job.kill()
        hosts.mend(number)
    print(f"{took_s:.1f} s, {len(out)} bytes after the cut:", err.decode())
    lines = [each for each in err.decode().splitlines() if each.startswith("pipeinfer: error: ")]
    assert job.returncode == 1
    assert len(lines) == 1
    assert f"rank {number - 1} on host{number}" in lines[0]
    assert not left
