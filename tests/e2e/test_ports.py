"""No port is opened beyond MPI's own."""

import sys
from pathlib import Path

import pytest

from architectures import TINY_MODELS
from jobs import Job, orphans
from pipeinfer_cli import build_info
from pipeinfer_cli.launch import Launcher
from support import pipeinfer

pytestmark = pytest.mark.e2e

RANKS = 2
LISTEN = "0A"
PLAIN_MPI = """
import time
from mpi4py import MPI
MPI.COMM_WORLD.barrier()
print("x", flush=True)
time.sleep(60)
"""


def listeners(tmp, program):
    """For each process of the job with this word in its command line: how many ports it has."""
    counts = []
    for pid in orphans(tmp):
        try:
            if program not in Path(f"/proc/{pid}/cmdline").read_text():
                continue
            own = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
        counts.append(len(own & listening_sockets(pid)))
    return sorted(counts)


def listening_sockets(pid):
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if table.startswith("udp") or fields[3] == LISTEN:
                found.add(f"socket:[{fields[9]}]")
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(TINY_MODELS[0].write(tmp_path_factory.mktemp("ports") / "tiny.gguf"))


def endless(model, ranks):
    options = ("-n", "15000", "-c", "16000", "-t", "1", "--ignore-eos", "word")
    return pipeinfer("generate", "-m", model, "--ranks", str(ranks), *options)


def test_ranks_open_no_port_beyond_mpis_own(model, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "ours").mkdir()
    plain = Launcher.of(build_info.load().mpi).command(RANKS, [sys.executable, "-c", PLAIN_MPI])
    with Job(plain, tmp_path / "plain") as job:
        job.await_text()
        expected = listeners(job.tmp, "COMM_WORLD")
    with Job(endless(model, RANKS), tmp_path / "ours") as job:
        job.await_text()
        found = listeners(job.tmp, "sys.path.append")
    assert len(expected) == RANKS
    # each of ours is forked once: see spawned.enter
    assert len(found) >= RANKS
    assert max(found) <= max(expected)
    assert sum(found) <= sum(expected)


def test_one_rank_opens_none(model, tmp_path):
    with Job(endless(model, 1), tmp_path) as job:
        job.await_text()
        counts = listeners(tmp_path, "generate")
    assert counts == [0]
