"""Ranks that an MPI launcher started see after each other: no parent of ours is there."""

import os
import signal
import time
from pathlib import Path

import pytest

from architectures import TINY_MODELS
from jobs import Job, orphans
from support import mpiexec

pytestmark = pytest.mark.e2e

TIMEOUT_S = 4
END_S = 10.0  # after SIGKILL
ENDLESS = ["-n", "15000", "-c", "16000", "-t", "1", "--ignore-eos", "words," * 5]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(TINY_MODELS[0].write(tmp_path_factory.mktemp("launchers") / "tiny.gguf"))


def start(tmp_path, model, *options):
    command = mpiexec(3, "generate", "-m", model, *options, *ENDLESS)
    return Job(command, tmp_path)


def rank_pids(job):
    """By rank, of the processes that work: their supervisors are their parents."""
    found = {}
    for pid in orphans(job.tmp):
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            program = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        for entry in environ:
            name, _, value = entry.partition(b"=")
            if name in (b"PMI_RANK", b"OMPI_COMM_WORLD_RANK") and b"generate" in program:
                found.setdefault(int(value), []).append(pid)
    return {rank: next(pid for pid in pids if parent(pid) in pids) for rank, pids in found.items()}


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_killed_rank_ends_all_in_time(rank, model, tmp_path):
    with start(tmp_path, model) as job:
        job.await_text()
        job.note_shared_memory()
        os.kill(rank_pids(job)[rank], signal.SIGKILL)
        killed_s = time.monotonic()
        code, out, lines = job.end(END_S)
    assert time.monotonic() - killed_s < END_S
    assert code != 0
    assert out
    (line,) = [each for each in lines if each.startswith("pipeinfer: error: ")]
    assert f"rank {rank} on " in line
    assert "SIGKILL" in line


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGHUP])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_killed_launcher_leaves_nothing(signum, stopped, model, tmp_path):
    with start(tmp_path, model) as job:
        job.await_text()
        job.note_shared_memory()
        assert job.segments
        if stopped:
            os.kill(rank_pids(job)[1], signal.SIGSTOP)
        job.process.send_signal(signum)
        code, _, _ = job.end(END_S)
    assert code != 0


@pytest.mark.parametrize(("rank", "speaker"), [(0, "rank 1"), (1, "rank 0"), (2, "rank 0")])
def test_a_rank_that_falls_silent_is_named(rank, speaker, model, tmp_path):
    """Stopped: as if the launcher did not notice that it was killed."""
    log = tmp_path / "run-{rank}.log"
    options = ("--timeout", str(TIMEOUT_S), "--log-file", str(log))
    with start(tmp_path, model, *options) as job:
        job.await_text()
        job.note_shared_memory()
        os.kill(rank_pids(job)[rank], signal.SIGSTOP)
        code, out, lines = job.end(TIMEOUT_S + END_S)
    assert code != 0
    assert out
    (line,) = [each for each in lines if each.startswith("pipeinfer: error: ")]
    assert f"rank {rank} on " in line
    assert "no sign of life" in line
    said_by = Path(str(log).replace("{rank}", speaker.removeprefix("rank "))).read_text()
    assert f"ERROR rank {rank} on " in said_by
