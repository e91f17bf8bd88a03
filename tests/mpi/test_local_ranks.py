"""Ranks that we start ourselves: their output, their ends, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.mpi

TESTS = Path(__file__).parents[1]
LIMIT_S = 10.0  # within which nothing of a job may be left


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


def test_output_goes_past_the_launcher(jobs: Jobs) -> None:
    acts = ("0:print=text\\n", "1:print=not shown", "1:err=note")
    assert jobs.run(3, *acts) == (0, "text\n", ["note"])


def test_more_ranks_than_cores_and_none_is_bound(jobs: Jobs) -> None:
    ranks = len(os.sched_getaffinity(0)) + 3
    code, out, _ = jobs.run(ranks, "0:affinity")
    assert (code, int(out)) == (0, len(os.sched_getaffinity(0)))


def test_much_output_arrives_whole_at_a_slow_reader(jobs: Jobs) -> None:
    with jobs.start(2, "0:flood=100") as parent:
        assert parent.stdout is not None
        time.sleep(0.5)  # pipes fill up meanwhile
        data = parent.stdout.read()
    assert (parent.returncode, len(data)) == (0, 100 * 65536)


@pytest.mark.parametrize(
    ("rank", "signum", "name"), [(1, 9, "SIGKILL"), (0, 6, "SIGABRT"), (2, 15, "SIGTERM")]
)
def test_a_killed_rank_is_named(jobs: Jobs, rank: int, signum: int, name: str) -> None:
    code, out, err = jobs.run(3, f"{rank}:sleep=0.1", f"{rank}:kill={signum}", "*:sleep=60")
    assert (code, out, len(err)) == (1, "", 1), err
    assert err[0].startswith(f"pipeinfer: error: rank {rank} (pid ")
    assert err[0].endswith(f"was killed by signal {signum} ({name}); all ranks were ended")


def test_an_error_of_all_ranks_is_said_once(jobs: Jobs) -> None:
    assert jobs.run(3, "*:error=bad model") == (2, "", ["pipeinfer: error: bad model"])


def test_an_error_of_one_rank_ends_all(jobs: Jobs) -> None:
    assert jobs.run(3, "1:error=no memory", "*:sleep=60") == (
        2,
        "",
        ["pipeinfer: error: no memory"],
    )


def test_a_silent_exit_is_said(jobs: Jobs) -> None:
    code, _, err = jobs.run(2, "1:exit=3", "*:sleep=60")
    assert (code, len(err)) == (1, 1)
    assert "rank 1 (pid " in err[0]
    assert "ended with exit code 3" in err[0]


def test_stubborn_ranks_and_their_daemons_are_killed(jobs: Jobs) -> None:
    code, _, err = jobs.run(2, "*:stubborn", "1:daemon", "1:kill=11", "*:sleep=60")
    assert (code, len(err)) == (1, 1)
    assert "SIGSEGV" in err[0]


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


@pytest.mark.parametrize("delay_s", [0.05, 0.15, 0.25, 0.35])
def test_a_signal_while_spawning(jobs: Jobs, delay_s: float) -> None:
    with jobs.start(3, "*:sleep=60") as parent:
        time.sleep(delay_s)
        parent.send_signal(signal.SIGTERM)
        parent.communicate(timeout=LIMIT_S)
    # Before Python has installed its handler, the signal's default ends it.
    assert parent.returncode in (128 + signal.SIGTERM, -signal.SIGTERM)
    jobs.check_gone()


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


@pytest.mark.parametrize("stubborn", ["", "*:stubborn"])
def test_ranks_do_not_outlive_a_killed_parent(jobs: Jobs, stubborn: str) -> None:
    acts = [stubborn] if stubborn else []
    with jobs.start(3, *acts, f"*:ready={jobs.ready}", "*:sleep=60") as parent:
        jobs.wait_ready(3)
        parent.kill()
    jobs.check_gone(LIMIT_S)


@pytest.mark.parametrize("delay_s", [0.1, 0.2, 0.3])
def test_a_parent_killed_while_spawning(jobs: Jobs, delay_s: float) -> None:
    with jobs.start(3, "*:sleep=60") as parent:
        time.sleep(delay_s)
        parent.kill()
    deadline_s = time.monotonic() + LIMIT_S
    while jobs.living():  # its folder may stay: nobody was there yet who could remove it
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize("flood", [[], ["0:flood=50"]])
def test_a_reader_that_goes_away_ends_the_job_quietly(jobs: Jobs, flood: list[str]) -> None:
    with jobs.start(3, "0:print=first\\n", *flood, "*:sleep=60") as parent:
        assert parent.stdout is not None and parent.stderr is not None
        assert parent.stdout.readline() == b"first\n"
        parent.stdout.close()
        assert parent.wait(LIMIT_S) == 128 + signal.SIGPIPE
        assert parent.stderr.read() == b""
    jobs.check_gone()


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
