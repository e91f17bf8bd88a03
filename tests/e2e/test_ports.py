"""No port is opened beyond MPI's own."""

import sys
from pathlib import Path

import pytest

from architectures import TINY_MODELS
from jobs import Job, orphans
from pipeinfer_cli.launch.environment import Launcher
from pipeinfer_cli.launch.host import mpi_choice
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


def listeners(tmp, *, ranks=True):
    """The listening sockets of the job's processes (with `ranks`, of its ranks)."""
    found = []
    for pid in orphans(tmp):
        try:
            if ranks and b"MPI_LOCALRANKID=" not in Path(f"/proc/{pid}/environ").read_bytes():
                continue
            own = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
        found.append(own & listening_sockets(pid))
    assert found
    return set().union(*found)


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
    plain = Launcher.of(mpi_choice.choose()).command(RANKS, [sys.executable, "-c", PLAIN_MPI])
    with Job(plain, tmp_path / "plain") as job:
        job.await_text()
        expected = listeners(job.tmp)
    with Job(endless(model, RANKS), tmp_path / "ours") as job:
        job.await_text()
        found = listeners(job.tmp)
    assert len(found) <= len(expected)


def test_one_rank_opens_none(model, tmp_path):
    with Job(endless(model, 1), tmp_path) as job:
        job.await_text()
        assert listeners(tmp_path, ranks=False) == set()
